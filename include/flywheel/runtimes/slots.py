"""Places for jobs on this machine, shared by all runs: as many lock files as jobs may run at once.

A lock of the operating system is given back when its process ends, however it ends; so no place is lost to
a `kill -9`, and nothing has to be cleaned up.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.1


@contextmanager
def take_slot(folder: Path, count: int, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold one of `count` places; wait for one where all are taken.

    Args:
        folder: where the lock files lie.
        waiting: called once if there is no free place.

    Yields:
        The place's number, from 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slot, file = _wait(folder, count, waiting)
    try:
        yield slot
    finally:
        os.close(file)


def _wait(folder: Path, count: int, waiting: Callable[[], None]) -> tuple[int, int]:
    told = False
    while True:
        for slot in range(count):
            file = os.open(folder / f"slot-{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                return slot, file
        if not told:
            waiting()
            told = True
        time.sleep(POLL_SECONDS)


def cpu_cores() -> int:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them, without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    try:
        devices = os.listdir("/dev")
    except OSError:
        return []
    return [str(index) for index in range(sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in devices))]
