"""Compiled GPU kernels, kept in the artifact root: nine short jobs of a night compile them once.

Triton's own cache names each kernel by the hash of its source, its options, the compiler and the GPU's kind,
and writes it whole, so processes may share one folder and an old kernel is never taken for a new one.
"""

from __future__ import annotations

import logging
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flywheel.artifacts.root import ArtifactRoot

log = logging.getLogger(__name__)

VARIABLE = "TRITON_CACHE_DIR"
FOLDER = "cache/triton"
ARCHIVE = "cache/triton.tar"


@contextmanager
def compile_cache(root: ArtifactRoot, device: str) -> Iterator[None]:
    """Have kernels compiled inside come from, and go to, the artifact root.

    Where the root is a folder, its `cache/triton` is the cache. Behind a URL it is an archive, copied here
    first, and back at the end if kernels were added; of jobs that end at once, the last one's stays.
    A TRITON_CACHE_DIR that is set already is left alone, and so is a job without a GPU.

    Args:
        root: the artifact root.
        device: torch's name of the device's kind.
    """
    if device != "cuda" or os.environ.get(VARIABLE):
        yield
        return
    folder = root.local_folder(FOLDER)
    if root.is_folder:
        with root.folder_of(FOLDER):  # no link is on its way
            pass
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder)
    try:
        if root.is_folder:
            yield
            return
        _unpack(root, folder)
        before = _names(folder)
        yield
        if _names(folder) != before:
            _pack(root, folder)
    finally:
        del os.environ[VARIABLE]


def _unpack(root: ArtifactRoot, folder: Path) -> None:
    if not root.exists(ARCHIVE):
        return
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        root.get_file(ARCHIVE, Path(file.name))
        try:
            with tarfile.open(file.name) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError) as error:  # kernels are compiled anew
            log.warning("%s/%s cannot be read: %s", root.url, ARCHIVE, error)


def _pack(root: ArtifactRoot, folder: Path) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with tarfile.open(file.name, "w") as archive:
            for name in sorted(_names(folder)):
                archive.add(folder / name, name)
        root.put_file(Path(file.name), ARCHIVE)


def _names(folder: Path) -> set[str]:
    """Return the folder's entries: one for each kernel, without those that are being written."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("tmp")}
