"""What the test cluster is made of: Debian's packages, and programs built from Go modules.

All that takes long is kept in a cache folder, outside the repository, under names made from its sources: a
change of the sources builds anew, another clone of the repository finds what there is.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SOURCES = Path(__file__).parent / "kube"

CLUSTER_PACKAGES = {  # Debian's package by a program that it brings
    "containerd": "containerd",
    "runc": "runc",
    "etcd": "etcd-server",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "ip": "iproute2",
    "iptables": "iptables",
    "ipset": "ipset",
    "openssl": "openssl",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}
POSTGRES_PACKAGES = {"/usr/lib/postgresql/*/bin/postgres": "postgresql"}


class ClusterUnavailableError(Exception):
    """There is no cluster and none can be built on this machine; the message says why."""


class NoRoomError(ClusterUnavailableError):
    """Something cannot be built on this machine, as its disk is too full; the message says how much is needed."""


def cache_folder() -> Path:
    """Return where the cluster lives, with all that is built for it: CLUSTER_HOME, else XDG's cache folder."""
    xdg = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("CLUSTER_HOME") or f"{xdg}/flywheel/cluster").expanduser()


def install_packages(packages: dict[str, str]) -> None:
    """Install the Debian packages whose programs are missing.

    Raises:
        ClusterUnavailableError: this machine has no apt-get, or it failed.
    """
    missing = sorted({package for program, package in packages.items() if not _there(program)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise ClusterUnavailableError(f"missing, and no apt-get to install them: {', '.join(missing)}")
    # RUNLEVEL: as in single-user mode, so that no package starts a server of its own.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run("apt-get", "update", "-qq", env=environment)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=environment)


def kubernetes_version() -> str:
    """Return the version in go.mod, such as v1.34.4."""
    found = re.search(r"k8s\.io/kubernetes (v\S+)", (SOURCES / "go.mod").read_text())
    assert found
    return found[1]


def kubernetes_program(folder: Path) -> Path:
    """Return where the program with all parts of Kubernetes is, once it is built."""
    files = [*sorted(SOURCES.glob("*.go")), SOURCES / "go.mod", SOURCES / "go.sum"]
    return folder / f"kube-{kubernetes_version()}-{content_hash(files)}"


def build_kubernetes(program: Path) -> None:
    """Build all parts of Kubernetes as one program, where it is new."""
    version = kubernetes_version()
    if not program.exists():
        print(f"building Kubernetes {version}, about five minutes on two cores ...", file=sys.stderr)
        major, minor, _ = version.removeprefix("v").split(".")
        values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        flags = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items()]
        _drop_others(program.parent, "kube-v*")
        go("build", program, "-trimpath", "-ldflags", " ".join(["-s", "-w", *flags]), ".")


def build_pause(program: Path) -> None:
    """Build the program of the pause image."""
    go("build", program, "-trimpath", "-ldflags", "-s -w", "./pause")


def build_module(folder: Path, module: str) -> Path:
    """Return the program of a Go module, such as `example.com/x/cmd/tool@v1.2.3`, built where it is new."""
    name, version = module.rpartition("/")[2].split("@")
    program = folder / f"{name}-{version}"
    if not program.exists():
        require_go()
        _drop_others(folder, f"{name}-v*")
        aside = folder / "building"
        run("go", "install", module, env={**os.environ, "GOBIN": str(aside), "CGO_ENABLED": "0"})
        (aside / name).rename(program)
    return program


def go(command: str, program: Path, *arguments: str) -> None:
    """Build a program of the folder kube/, written aside and then renamed."""
    require_go()
    aside = program.with_name(f"{program.name}.building")
    run("go", command, "-o", str(aside), *arguments, cwd=SOURCES, env={**os.environ, "CGO_ENABLED": "0"})
    aside.rename(program)


def require_go() -> None:
    """Raise where there is no Go.

    Raises:
        ClusterUnavailableError: there is none.
    """
    if not shutil.which("go"):
        raise ClusterUnavailableError("building Kubernetes needs Go 1.24 or newer (https://go.dev/dl)")


def content_hash(files: Iterable[Path], *more: str) -> str:
    """Return a short hash of files, by their names relative to the repository, and of further words."""
    total = hashlib.sha256("\0".join(more).encode())
    root = Path(__file__).parents[3]
    for file in files:
        total.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return total.hexdigest()[:16]


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command of the set-up.

    Raises:
        ClusterUnavailableError: it failed; the message is the end of what it said.
    """
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise ClusterUnavailableError(f"{' '.join(command[:6])} ...: {done.stderr.strip()[-2000:]}")


def _there(program: str) -> bool:
    return bool(glob.glob(program)) if program.startswith("/") else shutil.which(program) is not None


def _drop_others(folder: Path, pattern: str) -> None:
    """Delete what older sources gave: only the newest is used again."""
    for old in folder.glob(pattern):
        old.unlink()
