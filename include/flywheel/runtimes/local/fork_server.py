"""A long-lived process that has torch, transformers and peft imported and forks one process for each job.

Importing them takes 6.5 s a process on a laptop; a fork of a process that has them takes some milliseconds.
A job stays a process of its own: own session, own output, own environment, and whatever it does to its
memory dies with it. What is shared are the imported modules' pages, copied on write.

Jobs on a GPU may share a process, one after another: a job whose environment names one (KEPT_FOR_VARIABLE)
leaves its process behind, and the next job that names the same goes on in it, with CUDA started, kernels
loaded and perhaps its student at hand (flywheel.students.loading). A job that fails or is ended takes its
process with it; the next one starts afresh.

The server is safe to fork because nothing in it runs in parallel: it has one thread, numpy's and torch's
thread pools are not started by an import, and CUDA is asked for through NVML alone.

Protocol, over a Unix socket that only the user can reach: a client sends the length of a JSON request (8
bytes) together with one file descriptor, the job's output, then the request
{"module", "arguments", "environment", "folder", "threads"}; the job is the module's `main(arguments)`. The
server answers with lines of JSON: {"pid"} when the job has started, {"exit"} when it has ended (negative:
the signal that ended it). A client that goes away takes its job with it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.common.forks import reaped, wakeup
from flywheel.runtimes.base import GRACE_SECONDS
from flywheel.runtimes.local.forked import KEPT_FOR_VARIABLE, become_job, receive, send_request

IDLE_VARIABLE = "FLYWHEEL_FORK_SERVER_IDLE_SECONDS"
IDLE_SECONDS = 600.0
# How long a process that is kept waits for the next job.
KEPT_SECONDS = 20.0
REQUEST_SECONDS = 10.0


@dataclass
class Kept:
    """A process that takes one job after another.

    Attributes:
        control: requests go to it, exit codes come from it.
        idle_since: since when it waits for a job; None while it has one.
    """

    control: socket.socket
    idle_since: float | None = None


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
        self.kept: dict[str, tuple[int, Kept]] = {}
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
        signals = wakeup()
        signal.signal(signal.SIGTERM, self._retire)
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
                elif isinstance(key.data, str):
                    self._hear_kept(key.data)
                else:
                    self._hang_up(connection)
            self._reap()
            self._end_overdue()
            self._let_go_of_idle()
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
            request = receive(connection, files)
            if request is None:
                connection.close()
                return
            pid = self._start(request, files[0])
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

    def _start(self, request: dict[str, Any], output: int) -> int:
        """Start a job, in the process that is kept for it if there is one; return its process id."""
        kept_for = str(request["environment"].get(KEPT_FOR_VARIABLE, ""))
        pid, kept = self.kept.get(kept_for, (0, None))
        if kept is not None and kept.idle_since is not None:
            kept.idle_since = None
            with suppress(OSError):  # it died meanwhile: a new one
                send_request(kept.control, request, output)
                return pid
        if kept is not None or not kept_for:  # that one has a job: this one is on its own
            kept_for = ""
        ours, theirs = socket.socketpair() if kept_for else (None, None)
        pid = os.fork()
        if pid == 0:
            become_job(request, output, theirs)
        if ours is not None and theirs is not None:
            theirs.close()
            self.kept[kept_for] = pid, Kept(ours)
            self.selector.register(ours, selectors.EVENT_READ, kept_for)
        return pid

    def _hear_kept(self, kept_for: str) -> None:
        """A kept process has done its job, or is gone."""
        pid, kept = self.kept[kept_for]
        try:
            said = kept.control.recv(1)
        except OSError:
            said = b""
        if not said:
            self._forget(kept_for)
            return
        kept.idle_since = time.monotonic()
        self._ended(pid, 0)
        if pid in self.ending:  # its client went away as it ended
            self._forget(kept_for)

    def _forget(self, kept_for: str) -> None:
        """Let go of a kept process: it ends when it has no job."""
        _, kept = self.kept.pop(kept_for)
        self.selector.unregister(kept.control)
        kept.control.close()

    def _let_go_of_idle(self) -> None:
        for kept_for, (_, kept) in list(self.kept.items()):
            if kept.idle_since is not None and time.monotonic() - kept.idle_since > KEPT_SECONDS:
                self._forget(kept_for)

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
        for pid, code in reaped():
            self.ending.pop(pid, None)
            # What the job itself started dies with it.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            for kept_for in [name for name, (other, _) in self.kept.items() if other == pid]:
                self._forget(kept_for)
            self._ended(pid, code)

    def _ended(self, pid: int, code: int) -> None:
        """Tell a job's client how it ended; a process without a job has none."""
        connection = self.jobs.pop(pid, None)
        if connection is not None:
            with suppress(KeyError):
                self.selector.unregister(connection)
            self._tell(connection, {"exit": code})
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


def _has_cuda_context() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def preload(modules: list[str]) -> None:
    """Import what jobs need; a module that is missing will be missed by the job, which then says so.

    Args:
        modules: names, with `:function` where one of the module is to be called besides.
    """
    for name in modules:
        module, _, function = name.partition(":")
        try:
            imported = importlib.import_module(module)
            if function:
                getattr(imported, function)()
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
