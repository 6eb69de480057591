"""A real S3 server for the tests: Versity's gateway over a folder, built from its Go module."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.e2e.cluster.node import OwnCluster
from tests.e2e.cluster.processes import wait_until
from tests.e2e.cluster.programs import build_module
from tests.e2e.cluster.settings import NODE_IP

MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
PORT = 443  # what docker/kubernetes/overlays/s3 opens to the pods
KEY, SECRET = "flywheel", "flywheel-secret"
URL = f"http://{NODE_IP}:{PORT}"


class ObjectStore:
    """The server, reachable from this machine and from pods.

    Args:
        cluster: beside whose processes it runs.
        folder: where its objects lie.
    """

    def __init__(self, cluster: OwnCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": URL,
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": f"127.0.0.1,localhost,{NODE_IP}",
        }

    def start(self, bucket: str) -> None:
        """Start it, built first where it is new, with one bucket."""
        program = build_module(self.cluster.home, MODULE)
        # The gateway's buckets are the folders of its root; without extended attributes it needs a place for them.
        # Its name must not begin with the root's: the gateway would take it for a folder inside.
        beside = self.folder.with_name(f"attributes-of-{self.folder.name}")
        (self.folder / bucket).mkdir(parents=True, exist_ok=True)
        beside.mkdir(exist_ok=True)
        command = [str(program), "--access", KEY, "--secret", SECRET, "--port", f"{NODE_IP}:{PORT}"]
        self.cluster.processes.start(
            "objects", [*command, "posix", "--sidecar", str(beside), str(self.folder)]
        )
        probe = ["curl", "-s", "--noproxy", "*", "-o", "/dev/null", URL]
        wait_until("the S3 server", lambda: subprocess.run(probe).returncode == 0, 30)

    def stop(self) -> None:
        """Stop it."""
        self.cluster.processes.stop("objects")
