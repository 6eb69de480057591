"""Files and folders of the one who runs flywheel alone: records, answers and logs are a client's.

A file is made with mode 0600 and a folder with 0700, whatever the umask says. One that is there and that
everybody may read, as older versions left them, becomes private; one that a group alone may read stays as
its owner meant it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

# Of processes that we start ourselves, Airflow's among them: what libraries write is private, too.
UMASK = 0o077


def private_folder(folder: Path) -> Path:
    """Make a folder, and those above it that are missing, for their owner alone; returns it.

    A folder of ours in the project's state folder makes that one private, too.

    Raises:
        OSError: it cannot be made.
    """
    from flywheel.config.loading import resolve_path

    missing = []
    above = folder
    while not above.exists():
        missing.append(above)
        above = above.parent
    for path in reversed(missing):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: not a folder")
    state = Path(resolve_path("state"))
    for path in {folder, state} if folder.is_relative_to(state) else ():
        _take_from_others(path, 0o700)
    return folder


def private_file(path: Path) -> None:
    """Make an empty file for its owner alone where there is none; one that all may read becomes private.

    Raises:
        OSError: it cannot be made.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        _take_from_others(path, 0o600)


def _take_from_others(path: Path, mode: int) -> None:
    with suppress(OSError):  # another's, or a file system without modes
        found = path.lstat().st_mode
        is_kind = stat.S_ISDIR(found) if mode & 0o100 else stat.S_ISREG(found)
        if is_kind and stat.S_IMODE(found) & 0o007:
            path.chmod(mode)
