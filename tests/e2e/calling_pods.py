"""Pods that listen, call whom they are told to, and run what they are given."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.cluster import OwnCluster
from tests.e2e.pods import drill_trigger

# Listens at each address:port by TCP, and gives back what comes by UDP.
SERVE = """
import socket, sys, threading

def welcome(listening):
    while True:
        listening.accept()[0].close()

def echo(listening):
    while True:
        listening.sendto(*listening.recvfrom(9))

for place in sys.argv[1:]:
    host, port = place.split(":")
    threading.Thread(target=welcome, args=[socket.create_server((host, int(port)))]).start()
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind((host, int(port)))
    threading.Thread(target=echo, args=[datagrams]).start()
"""

# Prints which places answer.
CALL = """
import json, socket, sys

def answers(by, host, port):
    with socket.socket(type=socket.SOCK_DGRAM if by == "udp" else socket.SOCK_STREAM) as calling:
        calling.settimeout(2)
        try:
            calling.connect((host, int(port)))
            return by == "tcp" or bool(calling.send(b"?") and calling.recv(9))
        except OSError:
            return False

print(json.dumps([name for name, place in json.loads(sys.argv[1]).items() if answers(*place.split(":"))]))
"""


class Pod:
    """A pod that listens at some ports and calls whom it is told to."""

    def __init__(self, cluster: OwnCluster, manifest: dict[str, Any], *ports: int) -> None:
        self.cluster = cluster
        self.namespace, self.name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        (container,) = manifest["spec"]["containers"]
        places = [f"0.0.0.0:{port}" for port in ports]
        container |= {"command": ["python3", "-c", SERVE, *places], "args": []}
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))

    def address(self) -> str:
        """Wait until it runs, and return its address."""
        self.cluster.kubectl(
            "-n", self.namespace, "wait", "--for=condition=Ready", f"pod/{self.name}", "--timeout=120s"
        )
        pod: Any = self.cluster.get("-n", self.namespace, "pod", self.name)
        return str(pod["status"]["podIP"])

    def reached(self, places: dict[str, str]) -> set[str]:
        """Return which of these places it reaches now, each a protocol:address:port by its name."""
        said = self.cluster.kubectl(
            "-n", self.namespace, "exec", self.name, "--", "python3", "-c", CALL, json.dumps(places)
        )
        return set(json.loads(said))

    def delete(self) -> None:
        """End it at once."""
        end = ("--grace-period=0", "--force", "--wait=false")
        self.cluster.kubectl("-n", self.namespace, "delete", "pod", self.name, *end)


def job_pod(namespace: str, image: str, name: str, **labels: str) -> dict[str, Any]:
    """Return the manifest of a job's pod, as the runtime makes it but for these labels."""
    manifest: dict[str, Any] = drill_trigger(namespace, image, "", name=name).manifest
    manifest["metadata"] |= {"namespace": namespace, "labels": labels or manifest["metadata"]["labels"]}
    return manifest
