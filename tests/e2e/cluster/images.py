"""The project's images, built from docker/ by buildah and brought onto the node of our own cluster.

Images are named by what they are made from, so that an image that is there is not built again. The base is
Debian's Python, made by debootstrap, as a machine without a container registry has no other.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.e2e.cluster.programs import NoRoomError, content_hash

if TYPE_CHECKING:
    from tests.e2e.cluster.node import OwnCluster

PROJECT = Path(__file__).parents[3]
BASE_PACKAGES = "python3,python3-venv,ca-certificates,libgomp1"
BASE = f"localhost/flywheel-base:bookworm-{content_hash((), BASE_PACKAGES)[:8]}"
CERTIFICATES = "/etc/ssl/certs"

# What an image's content depends on, besides its Dockerfile.
INPUTS = {
    "student": (
        "requirements-uv.txt",
        "requirements-students.txt",
        "requirements-serving.txt",
        "requirements-s3.txt",
        "include",
    ),
    "airflow": ("requirements-uv.txt", "requirements-cluster.txt", "include", "dags", "plugins"),
    "drill": ("tests/e2e/drill",),
}
DOCKERFILES = {"drill": "tests/e2e/drill/Dockerfile"}
# Of free disk, to build an image and bring it onto the node: it is there up to four times for a while.
ROOM_GB = {"student": 24, "airflow": 5, "drill": 1}


def ensure_image(cluster: OwnCluster, name: str) -> str:
    """Build an image of docker/ where it is new, bring it onto the node and return its name.

    Raises:
        NoRoomError: the disk is too full for that.
    """
    image = image_name(name)
    there = cluster.images()
    if image in there:
        return image
    family = image.partition(":")[0]
    known = any(old.partition(":")[0] == family for old in there)  # then mostly its last layer is new
    if not known:
        check_room(cluster.home, name)
    build(name, image)
    push(cluster, image)
    # What older sources gave is not asked for again; layers that the new one shares stay.
    cluster.drop_images([old for old in there if old.partition(":")[0] == family])
    drop = [f"{family}:{tag}" for tag in _tags(family) if f"{family}:{tag}" != image]
    if drop:
        buildah("rmi", "--force", *drop)
    return image


def check_room(folder: Path, name: str) -> None:
    """Raise where the disk is too full for an image.

    Raises:
        NoRoomError: it is; one that buildah has built needs half as much, to be brought onto the node.
    """
    needed = ROOM_GB[name] // 2 if _exists(image_name(name)) else ROOM_GB[name]
    free = shutil.disk_usage(folder).free / 1e9
    if free < needed:
        raise NoRoomError(
            f"the image {name} needs {needed} GB of free disk while it is made, and {folder} has {free:.0f} GB"
        )


def image_name(name: str) -> str:
    """Return an image's name, of what it is made from."""
    return f"localhost/flywheel-{name}:{_key(name)}"


def build(name: str, image: str) -> None:
    """Build docker/<name>.Dockerfile, where it is new."""
    if _exists(image):
        return
    if not _exists(BASE):
        _build_base()
    print(f"building {image} ...", file=sys.stderr)
    arguments = ["--build-arg", f"BASE={BASE}"]
    if os.environ.get("TORCH_INDEX"):
        arguments += ["--build-arg", f"TORCH_INDEX={os.environ['TORCH_INDEX']}"]
    # A build step trusts the certificates that this machine trusts, and finds packages where it finds them.
    bundle = f"{CERTIFICATES}/ca-certificates.crt"
    settings = {"SSL_CERT_FILE": bundle, "PIP_CERT": bundle}
    names = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
    settings |= {key: os.environ[key] for key in names if os.environ.get(key)}
    # What `make install` has downloaded, torch with CUDA above all, is not downloaded again.
    cache = Path(os.environ.get("UV_CACHE_DIR") or "~/.cache/uv").expanduser()
    if cache.is_dir():
        settings["UV_NO_CACHE"] = "0"
        arguments += ["-v", f"{cache}:/root/.cache/uv"]
    for key, value in settings.items():
        arguments += ["--build-arg", f"{key}={value}"]
    buildah(
        "bud", "--isolation", "chroot", "--network", "host", "--layers",
        "-v", f"{CERTIFICATES}:{CERTIFICATES}:ro", *arguments,
        "-f", str(PROJECT / _dockerfile(name)), "-t", image, str(PROJECT),
    )  # fmt: skip


def push(cluster: OwnCluster, image: str) -> None:
    """Bring an image of buildah's onto the node, with only the layers that the node does not have yet."""
    with tempfile.TemporaryDirectory(dir=cluster.home) as folder:
        _push(cluster, image, Path(folder))


def _push(cluster: OwnCluster, image: str, store: Path) -> None:
    # Into a plain folder: as an OCI layout buildah would compress 5 GB of layers, each time anew. It empties the
    # folder, writes `version`, and then each blob that is not there already: blobs of the node are, as links.
    with ThreadPoolExecutor(1) as beside:
        pushed = beside.submit(
            buildah, "push", "--disable-compression", "--format", "oci", image, f"dir:{store}"
        )
        while not (store / "version").exists() and not pushed.done():
            time.sleep(0.001)
        for blob in cluster.blob_files():
            with suppress(FileExistsError):
                os.link(blob, store / blob.name)
        pushed.result()
    manifest = (store / "manifest.json").read_bytes()
    blobs = {f"sha256:{hashlib.sha256(manifest).hexdigest()}": store / "manifest.json"}
    decoded = json.loads(manifest)
    for part in (decoded["config"], *decoded["layers"]):
        blobs[part["digest"]] = store / part["digest"].removeprefix("sha256:")
    named = {
        "mediaType": decoded.get("mediaType", "application/vnd.oci.image.manifest.v1+json"),
        "digest": next(iter(blobs)),
        "size": len(manifest),
        "annotations": {"io.containerd.image.name": image, "org.opencontainers.image.ref.name": image},
    }
    index = {"schemaVersion": 2, "manifests": [named]}
    there = {f"sha256:{blob.name}" for blob in cluster.blob_files()}

    def write(stream: IO[bytes]) -> None:
        with tarfile.open(fileobj=stream, mode="w|") as archive:
            for name, value in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
                data = json.dumps(value).encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            for digest, path in blobs.items():
                if digest not in there:
                    archive.add(path, arcname=f"blobs/{digest.replace(':', '/')}")

    cluster.load(write)


def buildah(*arguments: str) -> str:
    """Run buildah and return what it prints.

    Raises:
        RuntimeError: it failed; the message is the end of what it said.
    """
    done = subprocess.run(
        ["buildah", "--storage-driver", "overlay", *arguments],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"buildah {arguments[0]}: {(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def _exists(image: str) -> bool:
    return bool(buildah("images", "--quiet", "--filter", f"reference={image}").strip())


def _build_base() -> None:
    print(f"building {BASE} ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        command = ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm"]
        done = subprocess.run([*command, f"{folder}/root"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        subprocess.run(
            ["rm", "-rf", f"{folder}/root/dev", f"{folder}/root/var/cache/apt/archives"], check=True
        )
        container = buildah("from", "scratch").strip()
        buildah("copy", container, f"{folder}/root", "/")
        buildah("commit", "--rm", container, BASE)


def _dockerfile(name: str) -> str:
    return DOCKERFILES.get(name, f"docker/{name}.Dockerfile")


def _tags(family: str) -> list[str]:
    """Return the tags that were made here, of that many digits; others are somebody's own."""
    tags = buildah("images", "--format", "{{.Tag}}", "--filter", f"reference={family}").split()
    return [tag for tag in tags if re.fullmatch("[0-9a-f]{16}", tag)]


def _key(name: str) -> str:
    """Return a hash of all that an image is made from: BASE, its Dockerfile and what that copies."""
    files: list[Path] = []
    for part in (_dockerfile(name), ".dockerignore", *INPUTS[name]):
        path = PROJECT / part
        files += sorted(path.rglob("*")) if path.is_dir() else [path]
    ignored = {"__pycache__"}
    kept = [
        file
        for file in files
        if file.is_file() and not ignored & set(file.parts) and ".egg-info" not in str(file)
    ]
    return content_hash(kept, BASE, os.environ.get("TORCH_INDEX", "") if name == "student" else "")
