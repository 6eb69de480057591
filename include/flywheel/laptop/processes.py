"""Processes on this machine: ending all that a component started, and finding free ports."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress

import psutil

# How long a killed process may take to go: one with much memory, or in the disk's hands, needs a moment.
KILLED_SECONDS = 10.0


def end_sessions(leaders: list[int], grace_seconds: float = 0.0) -> None:
    """End all processes of these sessions: politely first where there is time, then by signal 9.

    A component leads a session of its own, and what it starts stays in it; so this reaches workers and
    tasks whose parents are gone. When it returns they have ended: a signal alone only says that they will.
    """
    if grace_seconds:
        for leader in leaders:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(leader, signal.SIGTERM)
        _wait_for(leaders, grace_seconds)
    members = _members(set(leaders))
    for pid in members:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    _wait_for(members, KILLED_SECONDS)


def started_at(pid: int) -> float:
    """Return when a process was started, in unix seconds; 0 if there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def end_stale(sessions: dict[str, float]) -> None:
    """End what is left of sessions that were written down, each as leader: when it was started.

    The number of a session is not used again while a process of it lives. So members without their leader
    are ours, and a leader that was started at another time is someone else's.
    """
    ours = []
    for name, started in sessions.items():
        now = started_at(int(name))
        if now == 0.0 or abs(now - started) < 1.0:
            ours.append(int(name))
    end_sessions(ours)


def free_port(wanted: int | None = None) -> int:
    """Return a free port of this machine: the wanted one or the next after it, or any."""
    candidates = [0] if wanted is None else [*range(wanted, wanted + 50), 0]
    for port in candidates:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(attempt.getsockname()[1])
    raise OSError("no port of this machine is free")


def _wait_for(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(_is_running(pid) for pid in pids):
        time.sleep(0.02)


def _members(leaders: set[int]) -> list[int]:
    members = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) in leaders:
                members.append(pid)
    return members


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
