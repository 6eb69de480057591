"""Write a file of the artifact root that must not be there yet: the one step on which two writers can meet.

Of several who create the same name, in any number of processes and hosts, exactly one is told that it did.
The file is there whole or not at all:

    a folder        written aside, synced, linked to its name (a link fails where the name is taken), under a
                    file lock, by which a file system without hard links is served too
    s3://           `If-None-Match: *` (S3, and what speaks it: each store is tried once, see below)
    gs://           `ifGenerationMatch=0`
    memory://       of one process, under a lock

Behind other URLs fsspec looks first and writes then, so that two writers may both succeed: those are refused.
Some servers that speak S3 pass over the condition; so before the first use in a process a name that is there
is created once more, which must fail.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.durable import sync_folder
from flywheel.common.errors import ArtifactError

LOCK = ".lock"
_PROBE = ".created-once"
_CONDITIONAL = frozenset({"s3", "s3a", "gs", "gcs"})
# A file aside that is this old is of a writer that was killed: writing takes milliseconds.
_LEFTOVER_SECONDS = 3600
_in_memory = threading.Lock()
_tried: set[str] = set()


def create_once(root: ArtifactRoot, path: str, data: bytes) -> bool:
    """Write a file, by its path relative to the root; return False where the name is taken.

    Raises:
        ArtifactError: the store cannot write on the condition that a name is free.
        OSError: the disk is full, or the store does not answer; nothing is written, or all of it.
    """
    if root.is_folder:
        return _link(root, path, data)
    protocols = {root.fs.protocol} if isinstance(root.fs.protocol, str) else set(root.fs.protocol)
    if "memory" in protocols:
        with _in_memory:
            return _put(root, path, data)
    if not protocols & _CONDITIONAL:
        raise ArtifactError(
            f"{root.url}: a champion is decided on here, and this kind of store cannot write a file only "
            "where there is none; use a folder, s3:// or gs:// as artifacts.root"
        )
    if root.url not in _tried:
        if _put(root, _PROBE, b"1") and _put(root, _PROBE, b"2"):
            raise ArtifactError(
                f"{root.url}: this store writes over a file in spite of `If-None-Match: *`, so that two "
                "decisions on a champion could undo each other; use one with conditional writes (S3 itself, "
                "MinIO from 2024 on, Google Cloud Storage)"
            )
        _tried.add(root.url)
    return _put(root, path, data)


def sweep_asides(folder: Path) -> None:
    """Remove what writers of files in a folder left beside them that were killed."""
    for pattern in (".*.aside", "*.json.*"):
        for leftover in folder.glob(pattern):
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                    leftover.unlink()


def _link(root: ArtifactRoot, path: str, data: bytes) -> bool:
    folder, _, name = path.rpartition("/")
    with root.folder_of(folder) as parent, FileLock(parent / LOCK):
        sweep_asides(parent)
        target = parent / name
        if os.path.lexists(target):
            return False
        aside = parent / f".{name}.{uuid.uuid4().hex[:8]}.aside"
        try:
            with open(aside, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(aside, target)
            except FileExistsError:  # by a host that does not see the lock
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise
                os.rename(aside, target)  # no hard links here: the lock alone keeps others out
            sync_folder(parent)
        finally:
            aside.unlink(missing_ok=True)
    return True


def _put(root: ArtifactRoot, path: str, data: bytes) -> bool:
    url = f"{root.url}/{path}"
    try:
        root.fs.pipe_file(url, data, mode="create")
    except FileExistsError:
        return False
    except OSError:  # each store has its own way to say that the condition does not hold
        if root.fs.exists(url):
            return False
        raise
    return True
