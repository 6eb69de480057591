"""An artifact as a tar archive that is made while it is sent: no copy, and its length is known before."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any

from flywheel.artifacts import MANIFEST, ArtifactRoot
from flywheel.errors import ArtifactError

_BLOCK = 512
_END = b"\0" * (2 * _BLOCK)
_READ_BYTES = 1 << 20


def files_of(root: ArtifactRoot, kind: str, key: str) -> dict[str, int]:
    """Return the files of an artifact with their sizes in bytes.

    Raises:
        ArtifactError: it is not there, or damaged.
    """
    manifest: Any = root.read_json(f"{kind}/{key}/{MANIFEST}")
    files: dict[str, int] = manifest["files"]
    if any(name.startswith("/") or ".." in name.split("/") for name in files):
        raise ArtifactError(f"{root.url}/{kind}/{key}/{MANIFEST}: names a file outside of the artifact")
    return files


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
        with root.fs.open(f"{root.url}/{kind}/{key}/{name}", "rb") as file:
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
