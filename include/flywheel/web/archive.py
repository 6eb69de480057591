"""An artifact as a tar archive that is made while it is sent: no copy, and its length is known before."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from flywheel.artifacts.manifests import Manifest
from flywheel.artifacts.root import MANIFEST, ArtifactRoot
from flywheel.common.errors import ArtifactError

_BLOCK = 512
_END = b"\0" * (2 * _BLOCK)
_READ_BYTES = 1 << 20


def files_of(root: ArtifactRoot, kind: str, key: str) -> dict[str, int]:
    """Return the files of an artifact with their sizes in bytes.

    Raises:
        ArtifactError: it is not there, or damaged.
    """
    path = f"{kind}/{key}/{MANIFEST}"
    try:
        manifest = Manifest.parse(root.read_bytes(path), f"{root.url}/{path}")
    except FileNotFoundError:
        raise ArtifactError(f"{root.url}/{kind}/{key}: no such artifact") from None
    if not root.find(kind, key):
        raise ArtifactError(f"{root.url}/{kind}/{key}: damaged")
    return manifest.files


def tar_bytes(folder: str, files: dict[str, int]) -> int:
    """Return how long the archive is."""
    return sum(
        len(_header(f"{folder}/{name}", size)) + size + _padding(size) for name, size in files.items()
    ) + len(_END)


def tar(root: ArtifactRoot, kind: str, key: str, folder: str, files: dict[str, int]) -> Iterator[bytes]:
    """Yield the archive: the files of an artifact, in a folder.

    Raises:
        ArtifactError: a file has another size than the manifest says.
    """
    for name, size in files.items():
        yield _header(f"{folder}/{name}", size)
        left = size
        with root.open(f"{kind}/{key}/{name}") as file:
            while left and (chunk := file.read(min(_READ_BYTES, left))):
                left -= len(chunk)
                yield chunk
        if left:
            raise ArtifactError(f"{root.url}/{kind}/{key}/{name}: shorter than its manifest says")
        yield b"\0" * _padding(size)
    yield _END


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> int:
    return -size % _BLOCK
