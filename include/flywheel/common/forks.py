"""Forks of a process that has imported what they need: becoming a process of one's own, and reaping them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1


def become(parent: int, output: int, keep: int | None = None) -> None:
    """Make this fork a process of its own, which the kernel ends with its parent (on Linux).

    Args:
        parent: the process that was forked.
        output: file descriptor for what it prints and says of errors; it reads nothing.
        keep: file descriptor from 3 on that stays open beside those.
    """
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the process that this one was forked from is gone")
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 65536 if keep is None else keep)
    if keep is not None:
        os.closerange(keep + 1, 65536)


def reaped() -> Iterator[tuple[int, int]]:
    """Yield process id and exit code of each child that has ended; negative: the signal that ended it."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def wakeup() -> socket.socket:
    """Return a socket that has something to read after a signal, such as that of a child that has ended."""
    ours, pythons = socket.socketpair()
    ours.setblocking(False)
    pythons.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(pythons.detach(), warn_on_full_buffer=False)
    return ours
