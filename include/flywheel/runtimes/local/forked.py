"""A fork of the fork server: the process of a job, or of one job after another (see `fork_server`)."""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

from flywheel.common.forks import become

# What a job's process is kept for: a GPU.
KEPT_FOR_VARIABLE = "FLYWHEEL_KEPT_FOR"


def send_request(connection: socket.socket, request: dict[str, Any], output: int) -> None:
    """Send a request together with the file descriptor of the job's output."""
    data = json.dumps(request).encode()
    socket.send_fds(connection, [len(data).to_bytes(8, "big")], [output])
    connection.sendall(data)


def receive(connection: socket.socket, files: list[int]) -> dict[str, Any] | None:
    """Return a request, its file descriptors being added to `files`; None where a client just looked in."""
    head, received, _, _ = socket.recv_fds(connection, 8, 1)
    files.extend(received)
    if not head:
        return None
    size = int.from_bytes(head, "big")
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ValueError("the client went away")
        data += part
    request = json.loads(data)
    if not isinstance(request, dict):
        raise ValueError("expected a mapping")
    return request


def become_job(request: dict[str, Any], output: int, control: socket.socket | None) -> NoReturn:
    """Be the process of a job from here on, and of those that come over `control`."""
    code = 125
    server = os.getppid()
    try:
        if control is not None:
            control = socket.socket(fileno=_moved_up(control.detach()))
        become(server, output, control.fileno() if control is not None else None)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        while True:
            code = 125
            code = _do(request)
            if control is None or code:
                break
            following = _next_request(control)
            if following is None:
                break
            request = following
    except BaseException as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _moved_up(file: int) -> int:
    """Return a file descriptor at a number above those of the standard streams."""
    return fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 3)


def _do(request: dict[str, Any]) -> int:
    """Do a job and return its exit code."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    _fresh_state(int(request["threads"]))
    return int(importlib.import_module(request["module"]).main(list(request["arguments"])))


def _next_request(control: socket.socket) -> dict[str, Any] | None:
    """Say that the job is done and wait for the next one, its output being ours; None: there is none."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(0, 1)  # who reads the output sees its end
    os.dup2(0, 2)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):  # which the job may have changed
        signal.signal(number, signal.SIG_DFL)
    gc.collect()  # what the job leaves in cycles holds memory of the GPU
    files: list[int] = []
    try:
        control.sendall(b"0")
        request = receive(control, files)
    except OSError:
        return None
    if request is None:
        return None
    os.dup2(files[0], 1)
    os.dup2(files[0], 2)
    os.close(files[0])
    return request


def _fresh_state(threads: int) -> None:
    """Give a fork what a new process has of its own: its number of threads, its random numbers."""
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
        sys.modules["torch"].seed()
