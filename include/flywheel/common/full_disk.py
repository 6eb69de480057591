"""A full disk, in words: which place, how much is left there, and what to free."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flywheel.common.errors import DiskFullError

# Full for everybody, for this user, or for one file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# With less than this left a disk is the one that was meant.
_LITTLE_BYTES = 16_000_000


def is_full(error: BaseException) -> bool:
    """Return whether the operating system refused to write because there is no room."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def told_when_full(place: str | os.PathLike[str], what: str = "") -> Iterator[None]:
    """Say which place is full, and what to free, in place of the system's bare error.

    Where that error names no file, `place` has room and the folder of temporary files has none, it is that.

    Args:
        place: where it is written to, a file or a folder.
        what: is written, for a person; nothing: the place says enough.

    Raises:
        DiskFullError: a disk is full, a quota spent, or a file as large as files may be.
    """
    try:
        yield
    except DiskFullError:  # named where it was met
        raise
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFullError(explain(error, place, what)) from error


def explain(error: OSError, place: str | os.PathLike[str], what: str = "") -> str:
    """Return what to tell of the error of a full disk; see `told_when_full`."""
    there = Path(os.fsdecode(error.filename or place))
    temporary = Path(tempfile.gettempdir())
    if not error.filename and _free(there) >= _LITTLE_BYTES > _free(temporary):
        there = temporary
    during = f" while {what} was written" if what else ""
    left = f" ({_free(there) / 1e6:,.0f} MB are left there)" if error.errno == errno.ENOSPC else ""
    return (
        f"{there}: {os.strerror(error.errno or errno.ENOSPC)}{during}{left}; free some space there, such as "
        "by `./flywheel prune`, or put it elsewhere (FLYWHEEL_HOME, artifacts.root, store.path, TMPDIR), and "
        "start it again, or clear the task: what is done is found"
    )


def _free(place: Path) -> int:
    """Return the bytes that are left where a path is, or would be."""
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return 0
