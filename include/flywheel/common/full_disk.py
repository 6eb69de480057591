"""A full disk, in words: which place, how much is left there, and what to free."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flywheel.common.errors import DiskFullError, FlywheelError

# Full for everybody, for this user, or for one file; with the words of libraries that write by themselves and
# raise errors of their own: safetensors, Arrow, SQLite.
_FULL = {
    **{os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)},
    "database or disk is full": errno.ENOSPC,
}
# With less than this left a disk is the one that was meant.
_LITTLE_BYTES = 16_000_000


def is_full(error: BaseException) -> bool:
    """Return whether it was refused to write because there is no room."""
    return _number(error) is not None


def _number(error: BaseException) -> int | None:
    """Return the system's number of the error of a full disk, also where a library words it; else None."""
    number = getattr(error, "errno", None)
    if isinstance(error, FlywheelError) or number is not None:
        return number if isinstance(error, OSError) and number in _FULL.values() else None
    return next((number for words, number in _FULL.items() if words in str(error)), None)


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
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFullError(explain(error, place, what)) from error


def explain(error: Exception, place: str | os.PathLike[str], what: str = "") -> str:
    """Return what to tell of the error of a full disk; see `told_when_full`."""
    number = _number(error) or errno.ENOSPC
    named = getattr(error, "filename", None)
    there = Path(os.fsdecode(named or place))
    temporary = Path(tempfile.gettempdir())
    if not named and _free(there) >= _LITTLE_BYTES > _free(temporary):
        there = temporary
    during = f" while {what} was written" if what else ""
    left = f" ({_free(there) / 1e6:,.0f} MB are left there)" if number == errno.ENOSPC else ""
    return (
        f"{there}: {os.strerror(number)}{during}{left}; free some space there, such as "
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
