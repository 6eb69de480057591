"""The cluster's life: found or built, started, stopped, given images and GPUs, and its parts disturbed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.e2e.cluster.images import build as build_image
from tests.e2e.cluster.images import buildah, check_room, image_name, push
from tests.e2e.cluster.policies import require_kernel
from tests.e2e.cluster.processes import Processes, end_all, wait_until
from tests.e2e.cluster.programs import (
    CLUSTER_PACKAGES,
    SOURCES,
    ClusterUnavailableError,
    NoRoomError,
    build_kubernetes,
    build_pause,
    cache_folder,
    content_hash,
    install_packages,
    kubernetes_program,
    run,
)
from tests.e2e.cluster.settings import API, ETCD, ETCD_PEER, NODE, NODE_IP, PODS, SERVICES, write_settings

PARTS = (
    "services",
    "network-policies",
    "kubelet",
    "scheduler",
    "controller-manager",
    "apiserver",
    "containerd",
    "etcd",
)
BRIDGES = ("node0", "pods0")
PAUSE = f"localhost/pause:{content_hash([SOURCES / 'pause/main.go'])}"


class Cluster:
    """A cluster by its kubeconfig.

    Args:
        kubeconfig: path of it.
        kubectl: the command, `kubectl` of the machine or our own.
    """

    own = False

    def __init__(self, kubeconfig: str, kubectl: tuple[str, ...] = ("kubectl",)) -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = kubectl

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl and return what it prints.

        Raises:
            RuntimeError: it failed; the message is what it said.
        """
        done = subprocess.run(
            [*self._kubectl, "--kubeconfig", self.kubeconfig, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=180,
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def get(self, *arguments: str) -> dict[str, object]:
        """Return `kubectl get ... -o json`, decoded."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))


class OwnCluster(Cluster):
    """One node on this machine, of Kubernetes built here."""

    own = True

    def __init__(self, home: Path | None = None) -> None:
        self.home = home or cache_folder()
        self.home.mkdir(parents=True, exist_ok=True)
        self.processes = Processes(self.home)
        self._lock: IO[str] | None = None
        self.program = kubernetes_program(self.home)
        super().__init__(str(self.home / "admin.conf"), (str(self.program), "kubectl"))

    def prepare(self, images: Iterable[str] = ()) -> None:
        """Install what is missing and build Kubernetes, the first time; one at a time on a machine.

        Args:
            images: to be built beside it, where Kubernetes is new: one keeps the processors busy, the other the disk.

        Raises:
            ClusterUnavailableError: this machine cannot.
        """
        if sys.platform != "linux" or os.geteuid() != 0:
            raise ClusterUnavailableError("building a cluster needs root on Linux; or name one by KUBECONFIG")
        self._take_lock()
        install_packages(CLUSTER_PACKAGES)
        if self.program.exists():
            return
        with ThreadPoolExecutor(1) as beside:
            building = [beside.submit(self._build_where_there_is_room, name) for name in images]
            build_kubernetes(self.program)
        for built in building:
            built.result()

    def _build_where_there_is_room(self, name: str) -> None:
        with suppress(NoRoomError):  # the tests that need the image say so
            check_room(self.home, name)
            build_image(name, image_name(name))

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        self._lock = open(self.home / "lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting: other tests on this machine use the cluster ...", file=sys.stderr)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    # -- life ----------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether its API server answers."""
        return self.processes.running("apiserver") and self._answers("get", "--raw", "/readyz")

    def up(self, *, anew: bool = True, images: Iterable[str] = ()) -> None:
        """Build what is missing and start; return when the node is ready.

        Args:
            images: to be built, the first time, while Kubernetes is.
            anew: end what an earlier session has left, and begin with an empty cluster.
        """
        self.prepare(images)
        if anew:
            self.down()
            shutil.rmtree(self.home / "etcd", ignore_errors=True)
        write_settings(self.home, PAUSE)
        self._bridge()
        for name in ("etcd", "containerd", "apiserver"):
            self.start(name)
        wait_until("containerd", lambda: self._ctr("version").returncode == 0, 30)
        self._pause_image()
        wait_until("the API server", lambda: self._answers("get", "--raw", "/readyz"), 90)
        for name in ("controller-manager", "scheduler", "kubelet"):
            self.start(name)
        ready = "{.status.conditions[?(@.type=='Ready')].status}"
        wait_until(
            "the node", lambda: self._answers("get", "node", NODE, "-o", f"jsonpath={ready}", says="True"), 90
        )
        wait_until("the service account", lambda: self._answers("get", "serviceaccount", "default"), 60)
        with suppress(ClusterUnavailableError):  # the tests of them say why not
            self.enforce_policies()

    def down(self) -> None:
        """End all pods and all parts, and take away what they have mounted and the bridges."""
        if self.processes.running("kubelet") and self.running:
            everything = ("--all", "--all-namespaces", "--force", "--grace-period=0", "--wait=false")
            self.kubectl("delete", "pods", *everything, check=False)
            with suppress(TimeoutError):
                wait_until("the containers to end", lambda: not self._ctr("tasks", "ls", "-q").stdout, 30)
        for name in PARTS:
            if name == "services" and self.processes.running(name):
                self.processes.stop(name)
                run(str(self.program), "kube-proxy", "--cleanup")
            if name == "containerd":
                end_all(str(self.home / "run/containerd.sock"))  # shims that are left, and what is in them
            self.processes.stop(name)
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith(f"{self.home}/"):
                subprocess.run(["umount", "-l", place], capture_output=True)
        ports = Path("/sys/class/net/pods0/brif").glob(
            "*"
        )  # of pods that went without the network's good-bye
        for link in [port.name for port in ports]:
            subprocess.run(["ip", "link", "delete", link], capture_output=True)
        for bridge in BRIDGES:
            subprocess.run(["ip", "link", "delete", bridge], capture_output=True)

    def enforce_policies(self) -> None:
        """See that NetworkPolicies are enforced.

        Raises:
            ClusterUnavailableError: this machine's kernel cannot.
        """
        require_kernel()
        self.start("network-policies")

    def carry_services(self) -> None:
        """Have the addresses of Services reach their pods, by kube-proxy; most tests need none."""
        self.start("services")

    def start(self, name: str) -> None:
        """Start one part, such as apiserver or kubelet."""
        self.processes.start(name, self._command(name))

    def stop(self, name: str, number: int = 15) -> None:
        """Stop one part."""
        self.processes.stop(name, number)

    def _command(self, name: str) -> list[str]:
        kube, home = str(self.program), self.home
        commands = {
            "etcd": f"etcd --data-dir {home}/etcd --unsafe-no-fsync --listen-client-urls {ETCD}"
            f" --advertise-client-urls {ETCD} --listen-peer-urls {ETCD_PEER}",
            "apiserver": f"{kube} kube-apiserver --etcd-servers={ETCD} --secure-port={API.rsplit(':')[-1]}"
            f" --bind-address=127.0.0.1 --advertise-address={NODE_IP} --service-cluster-ip-range={SERVICES}"
            " --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key"
            " --client-ca-file=pki/ca.crt --service-account-key-file=pki/sa.pub"
            " --service-account-signing-key-file=pki/sa.key"
            " --service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC"
            " --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key"
            " --kubelet-preferred-address-types=InternalIP",
            "controller-manager": f"{kube} kube-controller-manager --kubeconfig=admin.conf --leader-elect=false"
            " --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt"
            " --use-service-account-credentials",
            "scheduler": f"{kube} kube-scheduler --kubeconfig=admin.conf --leader-elect=false",
            "containerd": "containerd -c containerd.toml",
            "kubelet": f"{kube} kubelet --kubeconfig=kubelet.conf --config=kubelet.json --root-dir={home}/kubelet"
            f" --hostname-override={NODE} --node-ip={NODE_IP}",
            # What belongs to the whole machine, such as its table of connections, stays as it is.
            "services": f"{kube} kube-proxy --kubeconfig=admin.conf --hostname-override={NODE}"
            f" --proxy-mode=iptables --cluster-cidr={PODS} --iptables-localhost-nodeports=false"
            " --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s"
            " --conntrack-tcp-timeout-close-wait=0s",
            "network-policies": f"{kube} network-policies --kubeconfig=admin.conf --hostname-override={NODE}"
            f" --service-cluster-ip-range={SERVICES}",
        }
        return commands[name].split()

    def _answers(self, *arguments: str, says: str = "") -> bool:
        try:
            return says in self.kubectl("--request-timeout=5s", *arguments)
        except RuntimeError:
            return False

    def _bridge(self) -> None:
        """Give the node its address: on a bridge, as kubelet refuses a loopback one; and the pods their bridge."""
        if subprocess.run(["ip", "link", "show", "node0"], capture_output=True).returncode:
            run("ip", "link", "add", "node0", "type", "bridge")
            run("ip", "addr", "add", f"{NODE_IP}/24", "dev", "node0")
            run("ip", "link", "set", "node0", "up")
        if subprocess.run(["ip", "link", "show", "pods0"], capture_output=True).returncode:
            run("ip", "link", "add", "pods0", "type", "bridge")
        # What goes from pod to pod passes iptables, too, where the kernel can.
        passing = ["ip", "link", "set", "pods0", "type", "bridge", "nf_call_iptables", "1"]
        subprocess.run(passing, capture_output=True)

    # -- images and GPUs -----------------------------------------------------------------------------

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "-a", f"{self.home}/run/containerd.sock", "-n", "k8s.io", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    def images(self) -> list[str]:
        """Return the names of the node's images."""
        return self._ctr("images", "ls", "-q").stdout.split()

    def drop_images(self, names: list[str]) -> None:
        """Delete images from the node, with the layers that no other has."""
        if not names:
            return
        self._ctr("images", "rm", *names)
        # The kubelet's side of containerd names each image a second time, by its digest, and keeps it so.
        listed = [line.split()[:3] for line in self._ctr("images", "ls").stdout.splitlines()[1:]]
        kept = {digest for name, _, digest in listed if not name.startswith("sha256:")}
        second = [name for name, _, digest in listed if name.startswith("sha256:") and digest not in kept]
        if second:
            self._ctr("images", "rm", "--sync", *second)

    def blob_files(self) -> list[Path]:
        """Return the files of the blobs that the node has, each named by its digest."""
        return list((self.home / "containerd/io.containerd.content.v1.content/blobs/sha256").glob("*"))

    def load(self, write: Callable[[IO[bytes]], None]) -> None:
        """Bring an image archive onto the node: `write` is given the stream to write it to."""
        command = ["ctr", "-a", f"{self.home}/run/containerd.sock", "-n", "k8s.io"]
        process = subprocess.Popen(
            [*command, "images", "import", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin and process.stdout
        with process.stdin:
            write(process.stdin)
        said = process.stdout.read().decode()
        if process.wait():
            raise RuntimeError(f"ctr images import: {said.strip()}")

    def _pause_image(self) -> None:
        if PAUSE in self.images():
            return
        with tempfile.TemporaryDirectory() as folder:
            build_pause(Path(folder) / "pause")
            container = buildah("from", "scratch").strip()
            buildah("copy", container, f"{folder}/pause", "/pause")
            buildah("config", "--cmd", "/pause", container)
            buildah("commit", "--rm", container, PAUSE)
        push(self, PAUSE)

    def gpus(self, count: int) -> None:
        """Let the node claim so many GPUs: what the scheduler counts, and nothing behind it."""
        value = {"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(count)}
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=json", "-p", json.dumps([value]))
        path = r"jsonpath={.status.allocatable.nvidia\.com/gpu}"
        wait_until("the node's GPUs", lambda: self.kubectl("get", "node", NODE, "-o", path) == str(count), 30)


def open_cluster(images: Iterable[str] = ()) -> Cluster:
    """Return the cluster that KUBECONFIG names; where it names none, our own, started.

    Args:
        images: that our own will need.

    Raises:
        ClusterUnavailableError: there is none and this machine cannot build one.
    """
    named = os.environ.get("KUBECONFIG")
    if named:
        cluster = Cluster(named)
        if not shutil.which("kubectl"):
            raise ClusterUnavailableError(
                "KUBECONFIG names a cluster, but there is no kubectl here to reach it"
            )
        cluster.kubectl("get", "--raw", "/readyz")
        return cluster
    own = OwnCluster()
    own.up(anew=not os.environ.get("CLUSTER_KEEP"), images=images)
    return own
