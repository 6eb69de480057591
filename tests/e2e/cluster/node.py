"""The cluster's life: found or built, started, stopped, given images and GPUs, and its parts disturbed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tests.e2e.cluster.processes import Processes, wait_until
from tests.e2e.cluster.settings import API, NODE, NODE_IP, write_settings

PACKAGES = {  # Debian's package by a program that it brings
    "containerd": "containerd",
    "runc": "runc",
    "etcd": "etcd-server",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "ip": "iproute2",
    "openssl": "openssl",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}
VERSION = "v1.34.4"
SOURCES = Path(__file__).parent / "kube"
PARTS = ("kubelet", "scheduler", "controller-manager", "apiserver", "containerd", "etcd")


class ClusterUnavailableError(Exception):
    """There is no cluster and none can be built on this machine; the message says why."""


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
        default = os.environ.get("CLUSTER_HOME") or "~/.cache/flywheel-cluster"
        self.home = home or Path(default).expanduser()
        self.program = self.home / f"kube-{VERSION}"
        self.home.mkdir(parents=True, exist_ok=True)
        self.processes = Processes(self.home)
        super().__init__(str(self.home / "admin.conf"), (str(self.program), "kubectl"))

    # -- building ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Install what is missing and build Kubernetes, the first time.

        Raises:
            ClusterUnavailableError: this machine cannot.
        """
        if sys.platform != "linux" or os.geteuid() != 0:
            raise ClusterUnavailableError("building a cluster needs root on Linux; or name one by KUBECONFIG")
        missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
        if missing:
            if not shutil.which("apt-get"):
                raise ClusterUnavailableError(
                    f"missing, and no apt-get to install them: {', '.join(missing)}"
                )
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            _run("apt-get", "update", "-qq", env=environment)
            _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=environment)
        if not self.program.exists():
            _require_go()
            print(f"building Kubernetes {VERSION}, about five minutes on two cores ...", file=sys.stderr)
            major, minor, _ = VERSION.removeprefix("v").split(".")
            version = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor}
            flags = " ".join(
                f"-X k8s.io/component-base/version.{name}={value}" for name, value in version.items()
            )
            self._build(self.program, f"-s -w {flags}", ".")

    def _build(self, program: Path, flags: str, package: str) -> None:
        aside = program.with_suffix(".building")
        environment = {**os.environ, "CGO_ENABLED": "0"}
        _run("nice", "-n", "15", "go", "build", "-trimpath", "-ldflags", flags, "-o", str(aside), package,
             cwd=SOURCES, env=environment)  # fmt: skip
        aside.rename(program)

    # -- life ----------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether its API server answers."""
        return self.processes.running("apiserver") and self._answers("get", "--raw", "/readyz")

    def up(self) -> None:
        """Build what is missing and start; return when the node is ready."""
        self.prepare()
        write_settings(self.home)
        self._bridge()
        for name in ("etcd", "apiserver"):
            self.start(name)
        wait_until("the API server", lambda: self._answers("get", "--raw", "/readyz"), 90)
        for name in ("controller-manager", "scheduler", "containerd"):
            self.start(name)
        wait_until("containerd", lambda: self._ctr("version").returncode == 0, 30)
        self._pause_image()
        self.start("kubelet")
        ready = "{.status.conditions[?(@.type=='Ready')].status}"
        wait_until(
            "the node", lambda: self._answers("get", "node", NODE, "-o", f"jsonpath={ready}", says="True"), 90
        )
        wait_until("the service account", lambda: self._answers("get", "serviceaccount", "default"), 60)

    def down(self) -> None:
        """Delete all pods, stop all parts and remove what they mounted."""
        if self.running:
            self.kubectl(
                "delete", "pods", "--all", "--all-namespaces", "--force", "--grace-period=0", check=False
            )
            time.sleep(1)
        for name in PARTS:
            self.processes.stop(name)
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith(f"{self.home}/"):
                subprocess.run(["umount", "-l", place], capture_output=True)

    def start(self, name: str) -> None:
        """Start one part: etcd, apiserver, controller-manager, scheduler, containerd or kubelet."""
        self.processes.start(name, self._command(name))

    def stop(self, name: str, number: int = 15) -> None:
        """Stop one part."""
        self.processes.stop(name, number)

    def _command(self, name: str) -> list[str]:
        kube, home = str(self.program), self.home
        etcd = "http://127.0.0.1:2379"
        commands = {
            "etcd": f"etcd --data-dir {home}/etcd --unsafe-no-fsync --listen-client-urls {etcd}"
            f" --advertise-client-urls {etcd} --listen-peer-urls http://127.0.0.1:2380",
            "apiserver": f"{kube} kube-apiserver --etcd-servers={etcd} --secure-port={API.rsplit(':')[-1]}"
            f" --bind-address=127.0.0.1 --advertise-address={NODE_IP} --service-cluster-ip-range=10.96.0.0/16"
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
        }
        return commands[name].split()

    def _answers(self, *arguments: str, says: str = "") -> bool:
        try:
            return says in self.kubectl("--request-timeout=5s", *arguments)
        except RuntimeError:
            return False

    def _bridge(self) -> None:
        """Give the node its address: on a bridge, as kubelet refuses a loopback one."""
        if subprocess.run(["ip", "link", "show", "node0"], capture_output=True).returncode:
            _run("ip", "link", "add", "node0", "type", "bridge")
            _run("ip", "addr", "add", f"{NODE_IP}/24", "dev", "node0")
            _run("ip", "link", "set", "node0", "up")

    # -- images and GPUs -----------------------------------------------------------------------------

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "-a", f"{self.home}/run/containerd.sock", "-n", "k8s.io", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    def images(self) -> list[str]:
        """Return the names of the node's images."""
        return self._ctr("images", "ls", "-q").stdout.split()

    def blobs(self) -> set[str]:
        """Return the digests of the blobs that the node has."""
        return set(self._ctr("content", "ls", "-q").stdout.split())

    def load(self, write: Callable[[IO[bytes]], None]) -> None:
        """Bring an image archive onto the node: `write` is given the stream to write it to."""
        command = ["nice", "-n", "10", "ctr", "-a", f"{self.home}/run/containerd.sock", "-n", "k8s.io"]
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
        if "localhost/pause:1" in self.images():
            return
        from tests.e2e.cluster.images import buildah, push

        _require_go()
        with tempfile.TemporaryDirectory() as folder:
            self._build(Path(folder) / "pause", "-s -w", "./pause")
            container = buildah("from", "scratch").strip()
            buildah("copy", container, f"{folder}/pause", "/pause")
            buildah("config", "--cmd", "/pause", container)
            buildah("commit", "--rm", container, "localhost/pause:1")
        push(self, "localhost/pause:1")

    def gpus(self, count: int) -> None:
        """Let the node claim so many GPUs: what the scheduler counts, and nothing behind it."""
        value = {"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(count)}
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=json", "-p", json.dumps([value]))
        path = r"jsonpath={.status.allocatable.nvidia\.com/gpu}"
        wait_until("the node's GPUs", lambda: self.kubectl("get", "node", NODE, "-o", path) == str(count), 30)


def open_cluster() -> Cluster:
    """Return the cluster that KUBECONFIG names; where it names none, our own, started.

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
    own.up()
    return own


def _require_go() -> None:
    if not shutil.which("go"):
        raise ClusterUnavailableError("building Kubernetes needs Go 1.24 or newer (https://go.dev/dl)")


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise ClusterUnavailableError(f"{' '.join(command[:6])} ...: {done.stderr.strip()[-2000:]}")
