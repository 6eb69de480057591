"""Files and folders that are on the disk before they have their name.

A kill between two writes leaves the old or the new. A loss of power does so only where the bytes were synced
before the rename, and the folder after it: a file system may otherwise keep the name and lose the bytes.
A sync waits for the disk and costs no CPU to speak of; what it cost is in docs/LOG.md.
"""

from __future__ import annotations

import os
from pathlib import Path

from flywheel.common.full_disk import told_when_full


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Have the names in a folder on the disk.

    Raises:
        OSError: there is no such folder, or the disk fails.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_tree(folder: str | os.PathLike[str]) -> None:
    """Have all files of a folder and of those below it on the disk, then the folders' names of them.

    Raises:
        OSError: a file cannot be read, or the disk fails (it is full, say).
    """
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = os.open(os.path.join(path, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        sync_folder(path)


def put_in_place(aside: Path, target: Path) -> None:
    """Give a file that was written aside its name, durably.

    Raises:
        DiskFullError: there is no room for it.
        OSError: the disk fails, or `target` is a folder.
    """
    with told_when_full(target):
        file = os.open(aside, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(aside, target)
        sync_folder(target.parent)
