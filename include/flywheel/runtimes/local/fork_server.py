"""A long-lived process that has torch, transformers and peft imported and forks one process for each job.

Importing them takes 6.5 s a process on a laptop; a fork of a process that has them takes some milliseconds.
A job stays a process of its own: own session, own output, own environment, and whatever it does to its
memory dies with it. What is shared are the imported modules' pages, copied on write.

The server is safe to fork because nothing in it runs in parallel: it has one thread, numpy's and torch's
thread pools are not started by an import, and CUDA is asked for through NVML alone.

Protocol, over a Unix socket that only the user can reach: a client sends the length of a JSON request (8
bytes) together with one file descriptor, the job's output, then the request
{"module", "arguments", "environment", "folder", "threads"}; the job is the module's `main(arguments)`. The
server answers with lines of JSON: {"pid"} when the job has started, {"exit"} when it has ended (negative:
the signal that ended it). A client that goes away takes its job with it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from flywheel.runtimes.base import GRACE_SECONDS

IDLE_VARIABLE = "FLYWHEEL_FORK_SERVER_IDLE_SECONDS"
IDLE_SECONDS = 600.0
REQUEST_SECONDS = 10.0

_PR_SET_PDEATHSIG = 1


class ForkServer:
    """Forks jobs for those who connect, until it has been idle for a while.

    Args:
        address: where the socket is put.
        idle_seconds: after so long without a job it ends.
    """

    def __init__(self, address: Path, idle_seconds: float) -> None:
        self.address = address
        self.idle_seconds = idle_seconds
        self.jobs: dict[int, socket.socket] = {}
        self.ending: dict[int, float] = {}
        self.selector = selectors.DefaultSelector()
        # Bound aside and renamed: a client finds either no socket, a dead one or one that listens. It may
        # connect before the imports are done; it then waits for its answer.
        aside = address.with_name(f"{address.name}.{os.getpid()}")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(aside))
        self.listener.listen(128)
        os.rename(aside, address)
        self.inode = address.stat().st_ino
        self.selector.register(self.listener, selectors.EVENT_READ)

    def serve(self) -> None:
        """Fork jobs until idle for long enough."""
        wakeup, signals = socket.socketpair()
        wakeup.setblocking(False)
        signals.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._retire)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        self.selector.register(signals, selectors.EVENT_READ)
        idle_since = time.monotonic()
        while self.jobs or time.monotonic() - idle_since < self.idle_seconds:
            timeout = 5.0 if self.jobs else min(5.0, self.idle_seconds)
            timeout = 0.2 if self.ending else timeout
            for key, _ in self.selector.select(timeout):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is self.listener:
                    self._accept()
                elif connection is signals:
                    with suppress(BlockingIOError):
                        signals.recv(4096)
                else:
                    self._hang_up(connection)
            self._reap()
            self._end_overdue()
            if self.jobs:
                idle_since = time.monotonic()
            elif not self._has_address():  # the state folder was removed, or another server took over
                return

    def _retire(self, *_: object) -> None:
        """End as soon as no job is running: a server with newer code has been started."""
        self.idle_seconds = 0.0

    def _has_address(self) -> bool:
        try:
            return self.address.stat().st_ino == self.inode
        except FileNotFoundError:
            return False

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        connection.settimeout(REQUEST_SECONDS)
        files: list[int] = []
        try:
            request = _receive(connection, files)
            if request is None:
                connection.close()
                return
            pid = os.fork()
            if pid == 0:
                _become_job(request, files[0])
            self._tell(connection, {"pid": pid})
        except (OSError, ValueError, IndexError, KeyError) as error:
            sys.stderr.write(f"request refused: {error!r}\n")
            connection.close()
            return
        finally:
            for file in files:
                os.close(file)
        self.jobs[pid] = connection
        self.selector.register(connection, selectors.EVENT_READ, pid)

    def _hang_up(self, connection: socket.socket) -> None:
        """End the job of a client that is gone: it may save its state first."""
        pid = self.selector.unregister(connection).data
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)
        self.ending[pid] = time.monotonic() + GRACE_SECONDS

    def _end_overdue(self) -> None:
        for pid, deadline in self.ending.items():
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self.jobs:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            connection = self.jobs.pop(pid)
            self.ending.pop(pid, None)
            # What the job itself started dies with it.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(KeyError):
                self.selector.unregister(connection)
            self._tell(connection, {"exit": os.waitstatus_to_exitcode(status)})
            connection.close()

    @staticmethod
    def _tell(connection: socket.socket, message: dict[str, int]) -> None:
        with suppress(OSError):
            connection.sendall(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """Give up the address, unless another server has it by now."""
        if self._has_address():
            self.address.unlink()
        self.listener.close()


def _receive(connection: socket.socket, files: list[int]) -> dict[str, Any] | None:
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


def _become_job(request: dict[str, Any], output: int) -> NoReturn:
    """Be the process of a job from here on: in a new fork of the server."""
    code = 125
    server = os.getppid()
    try:
        os.setsid()
        _die_with(server)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, 65536)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        _fresh_state(int(request["threads"]))
        code = importlib.import_module(request["module"]).main(list(request["arguments"]))
    except BaseException as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _fresh_state(threads: int) -> None:
    """Give a fork what a new process has of its own: its number of threads, its random numbers."""
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
        sys.modules["torch"].seed()


def _has_cuda_context() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _die_with(server: int) -> None:
    """Have the kernel end this process when the server dies (Linux; elsewhere the client does it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        raise SystemExit("the fork server is gone")


def preload(modules: list[str]) -> None:
    """Import what jobs need; a module that is missing will be missed by the job, which then says so."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            sys.stderr.write(f"not preloaded: {name}: {error}\n")
    gc.collect()
    gc.freeze()  # a collection in a fork does not then copy the pages of all that was imported


def main(arguments: list[str]) -> int:
    """Serve at the address given first, with the modules named after it imported."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal ends the clients, which is enough
    idle_seconds = float(os.environ.get(IDLE_VARIABLE, IDLE_SECONDS))
    server = ForkServer(Path(arguments[0]), idle_seconds)
    try:
        preload(arguments[1:])
        if _has_cuda_context():
            sys.stderr.write("an import initialised CUDA, so that forks could not use it: not serving\n")
            return 1
        server.serve()
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
