"""Places for jobs on this machine, shared by all runs: as many lock files as jobs may run at once.

A lock of the operating system is given back when its process ends, however it ends; so no place is lost to
a `kill -9`, and nothing has to be cleaned up.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flywheel.config.private import private_folder

POLL_SECONDS = 0.1


@contextmanager
def take_slot(folder: Path, count: int, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold one of `count` places; where all are taken, wait in line: who comes first is served first.

    Args:
        folder: where the lock files lie.
        waiting: called at each look while there is no place, ten times a second; it may raise to give up.

    Yields:
        The place's number, from 0.
    """
    private_folder(folder)
    slot, file = _wait_in_line(folder, count, waiting)
    try:
        yield slot
    finally:
        os.close(file)


def _wait_in_line(folder: Path, count: int, waiting: Callable[[], None]) -> tuple[int, int]:
    # Locked before it gets its name: a ticket that can be locked is of someone who is gone.
    ticket = folder / f"ticket-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    aside = ticket.with_name(f".{ticket.name}")
    own = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(own, fcntl.LOCK_EX)
        os.rename(aside, ticket)
        while True:
            if _is_first(ticket):
                for slot in range(count):
                    file = _try_lock(folder / f"slot-{slot}.lock")
                    if file is not None:
                        return slot, file
            waiting()
            time.sleep(POLL_SECONDS)
    finally:
        for path in (aside, ticket):
            path.unlink(missing_ok=True)
        os.close(own)


def _is_first(ticket: Path) -> bool:
    for other in sorted(ticket.parent.glob("ticket-*")):
        if other >= ticket:
            return True
        file = _try_lock(other, create=False)
        if file is None:
            return False
        other.unlink(missing_ok=True)
        os.close(file)
    return True


def _try_lock(path: Path, *, create: bool = True) -> int | None:
    """Return a file descriptor that holds the lock of a file; None where another process holds it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except FileNotFoundError:
        # A ticket whose owner has just been served: look again.
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


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
