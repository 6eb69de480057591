"""Ways into a folder that never lead out of it, whatever links lie in it.

Jobs may write parts of an artifact root, and links in it are theirs to make. So a path is walked one name at
a time, each opened from the folder before it and none of them through a link: what was checked is what is
open, and nothing can be changed in between. A link is refused also where it would stay inside; the root
itself may be one. A hard link cannot be told from a file; making one needs the same file system and, with
Linux's `fs.protected_hardlinks`, the right to write what it links to.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import IO

from flywheel.common.errors import OutsideError
from flywheel.common.full_disk import told_when_full

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not to wait for the writer of a pipe that somebody put there.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


# An unfinished write of a file that nothing was added to for so long was killed.
_LEFTOVER_SECONDS = 3600


def names_of(path: str) -> list[str]:
    """Return the names that a relative path consists of; none for the folder itself.

    Raises:
        OutsideError: it is absolute, or has an empty name, `.`, `..` or a NUL.
    """
    names = path.split("/") if path else []
    if any(name in ("", ".", "..") or "\0" in name for name in names):
        raise OutsideError(f"{path!r}: expected a path that stays in the artifact root")
    return names


def is_inside(path: str) -> bool:
    """Return whether a path is a relative one that leads to something below a folder."""
    try:
        return bool(names_of(path))
    except OutsideError:
        return False


@contextmanager
def opened_folder(base: str, path: str, *, create: bool = False) -> Iterator[int]:
    """Open a folder below `base`, and give its descriptor.

    Args:
        create: make the folders that are missing, `base` among them.

    Raises:
        OutsideError: a name on the way is a link.
        FileNotFoundError, NotADirectoryError: there is no such folder.
    """
    names = names_of(path)
    if create:
        os.makedirs(base, exist_ok=True)
    at = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for index, name in enumerate(names):
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=at)
                    os.fsync(at)
            below = _open(name, _FOLDER, at, f"{base}/{'/'.join(names[: index + 1])}")
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def open_file(base: str, path: str) -> BufferedReader:
    """Open a file below `base` to read it.

    Raises:
        OutsideError: a name on the way, or the file, is a link, or it is no plain file.
        FileNotFoundError, NotADirectoryError, IsADirectoryError: there is no such file.
    """
    folder, name = _folder_and_name(path)
    with opened_folder(base, folder) as at:
        file = _open(name, _FILE, at, f"{base}/{path}")
    kind = os.fstat(file).st_mode
    if not stat.S_ISREG(kind):
        os.close(file)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "is a folder", f"{base}/{path}")
        raise OutsideError(f"{base}/{path}: no plain file; remove it")
    return open(file, "rb")


def create_file(base: str, path: str, data: bytes) -> None:
    """Write a file that is not there yet; folders are made.

    Raises:
        FileExistsError: it is there, if only as a link.
        OutsideError: a name on the way is a link.
        DiskFullError: there is no room.
    """
    folder, name = _folder_and_name(path)
    with told_when_full(f"{base}/{path}"), opened_folder(base, folder, create=True) as at:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=at)
        try:
            with open(file, "wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
        except BaseException:  # half of it would keep the whole from being created
            with suppress(OSError):
                os.unlink(name, dir_fd=at)
            raise
        os.fsync(at)


def write_file(base: str, path: str, data: bytes | IO[bytes]) -> None:
    """Write a file below `base`, whole or not at all, and have it on the disk; folders are made.

    Raises:
        OutsideError: a name on the way is a link. One in the file's own place is replaced, not followed.
        DiskFullError: there is no room.
        OSError: it cannot be written for another reason.
    """
    folder, name = _folder_and_name(path)
    with told_when_full(f"{base}/{path}"), opened_folder(base, folder, create=True) as at:
        _sweep(at, f".{name}.")
        aside = f".{name}.{uuid.uuid4().hex[:8]}"
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=at)
        try:
            with open(file, "wb") as opened:
                if isinstance(data, bytes):
                    opened.write(data)
                else:
                    shutil.copyfileobj(data, opened, 1 << 20)
                opened.flush()
                os.fsync(opened.fileno())
            os.rename(aside, name, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside, dir_fd=at)
            raise
        os.fsync(at)


def remove(base: str, path: str) -> None:
    """Remove a file, a link or a folder with all that is in it; where there is none, nothing happens.

    Raises:
        OutsideError: a name on the way is a link.
    """
    folder, name = _folder_and_name(path)
    with suppress(FileNotFoundError), opened_folder(base, folder) as at:
        if stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=at)
        else:
            os.unlink(name, dir_fd=at)


def files_below(base: str, path: str) -> list[str]:
    """Return the plain files of a folder below `base` and of those in it, by path from `base`, sorted.

    Links are passed over. No such folder has no files.
    """
    found = []
    with suppress(FileNotFoundError, NotADirectoryError), opened_folder(base, path) as at:
        for folder, _, names, opened in os.fwalk(".", dir_fd=at, follow_symlinks=False):
            for name in names:
                if stat.S_ISREG(_kind(name, opened)):
                    found.append("/".join(filter(None, (path, folder.removeprefix(".").strip("/"), name))))
    return sorted(found)


def _sweep(folder: int, prefix: str) -> None:
    """Remove what writes of one file left behind that were killed."""
    for name in os.listdir(folder):
        if name.startswith(prefix):
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode) and time.time() - found.st_mtime > _LEFTOVER_SECONDS:
                    os.unlink(name, dir_fd=folder)


def _folder_and_name(path: str) -> tuple[str, str]:
    *names, name = names_of(path) or [""]
    if not name:
        raise OutsideError("'': expected the path of something that stays in the artifact root")
    return "/".join(names), name


def refuse_links(base: str, path: str) -> None:
    """Refuse a folder below `base` that has a link in it, before somebody writes there by names.

    Raises:
        OutsideError: it has one; the message names it.
    """
    with opened_folder(base, path) as at:
        for folder, folders, names, opened in os.fwalk(".", dir_fd=at, follow_symlinks=False):
            for name in (*folders, *names):
                if stat.S_ISLNK(_kind(name, opened)):
                    raise OutsideError(
                        f"{base}/{path}{folder.removeprefix('.')}/{name}: a symbolic link, which has no "
                        "place in a run's folder; remove it"
                    )


def _kind(name: str, folder: int) -> int:
    """Return the mode of what has a name in a folder; 0 where somebody has removed it meanwhile."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def _open(name: str, flags: int, folder: int, said: str) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                if stat.S_ISLNK(found):
                    raise OutsideError(
                        f"{said}: a symbolic link, which is not followed in an artifact root: put what it "
                        "links to in its place; the root itself may be a link"
                    ) from None
                if error.errno == errno.ENXIO:  # a socket
                    raise OutsideError(f"{said}: no plain file; remove it") from None
        raise type(error)(error.errno, error.strerror, said) from None
