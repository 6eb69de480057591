"""Starting a job through the fork server, and starting the server where there is none yet."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import flywheel
from flywheel.common.errors import JobError
from flywheel.config.private import private_folder
from flywheel.runtimes.environment import without_secrets
from flywheel.runtimes.local.forked import send_request

START_SECONDS = 20.0

# What jobs import, and after a colon what is called then. The stages bring in the rest of flywheel's modules.
PRELOAD = (
    "torch",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "peft",
    "safetensors.torch",
    "flywheel.runtimes.job_command",
    "flywheel.jobs.spec",
    "flywheel.stages.customize",
    "flywheel.stages.evaluate",
    "flywheel.students.loading:make_ready",
)

# Variables that libraries read once, when they are imported: a server with others cannot stand in.
_READ_AT_IMPORT = (
    "HF_",
    "HUGGINGFACE_",
    "TRANSFORMERS_",
    "TORCH",
    "PYTORCH_",
    "PYTHON",
    "LD_",
    "MKL_",
    "KMP_",
)

# The server itself: no thread pool may start by an import, and asking for GPUs must not initialise CUDA.
_SERVER_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


class NoForkError(OSError):
    """The fork server cannot be used: none started, or it saw that it must not fork."""


class ForkedJob:
    """A job that the fork server runs.

    Attributes:
        output: what it prints, a file descriptor to read from.
    """

    def __init__(self, connection: socket.socket, output: int) -> None:
        self.output = output
        self._connection = connection
        self._received = b""
        self._pid = 0

    def watched(self) -> list[int]:
        """Return the file descriptors that become readable when there is something to see."""
        return [self._connection.fileno()]

    def poll(self) -> int | None:
        """Return the exit code (negative: a signal), or None while it runs.

        Raises:
            NoForkError: the server went away without starting the job.
            JobError: the server is gone, and the job with it.
        """
        while select.select([self._connection], [], [], 0)[0]:
            try:
                data = self._connection.recv(4096)
            except OSError:
                data = b""
            if not data:
                if not self._pid:
                    raise NoForkError("it ended without starting the job")
                self._end_orphan()
                raise JobError("the fork server ended, and the job with it; its next try starts a new one")
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                self._pid = message.get("pid", self._pid)
                if "exit" in message:
                    return int(message["exit"])
        return None

    def kill(self) -> None:
        """Have the server end the job and its processes, which it does at a hang-up."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _end_orphan(self) -> None:
        """End a job that outlived its server, where the kernel has not done it."""
        if self._pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Give up the connection and the output."""
        self._connection.close()
        os.close(self.output)


def start_forked(
    folder: Path,
    python: str,
    module: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    threads: int,
) -> ForkedJob:
    """Start a job in a fork of the server, which is started first where it is not running.

    Args:
        folder: where the server's socket, lock and log lie.
        python: the interpreter to have the server run in.
        module: its `main(arguments)` is the job.

    Raises:
        NoForkError: there is no server and none could be started.
    """
    connection = _connect_or_start(folder, python, environment)
    read, write = os.pipe()
    try:
        request = {
            "module": module,
            "arguments": arguments,
            "environment": environment,
            "folder": os.getcwd(),
            "threads": threads,
        }
        send_request(connection, request, write)
    except OSError as error:
        os.close(read)
        connection.close()
        raise NoForkError(f"it does not listen: {error}") from None
    finally:
        os.close(write)
    return ForkedJob(connection, read)


def warm_up(folder: Path, python: str, environment: dict[str, str]) -> None:
    """Start the server where it is not running, and do not wait for it.

    Raises:
        NoForkError: it cannot be started.
    """
    _connect_or_start(folder, python, environment).close()


def _connect_or_start(folder: Path, python: str, environment: dict[str, str]) -> socket.socket:
    environment = without_secrets(environment)  # those of a job come with its request
    private_folder(folder)
    name = f"fork-{fingerprint(python, environment)}"
    connection = _connect(folder, name)
    if connection:
        return connection
    with open(folder / f"{name}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = _connect(folder, name)  # another job may have started it meanwhile
        if connection:
            return connection
        stop_servers(folder, signal.SIGTERM)  # those with older code, once they have nothing to do
        with open(folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [python, "-P", "-m", "flywheel.runtimes.local.fork_server", f"{name}.sock", *PRELOAD],
                cwd=folder,
                env={**environment, **_SERVER_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # it outlives the task that needed it first
            )
        (folder / f"{name}.pid").write_text(str(process.pid))
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
            connection = _connect(folder, name)
            if connection:
                return connection
        process.kill()
        raise NoForkError(f"it did not start; see {folder / f'{name}.log'}")


def _connect(folder: Path, name: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_path(folder) as short:
            connection.connect(f"{short}/{name}.sock")
    except OSError:
        connection.close()
        return None
    return connection


@contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """Give a path of the folder that leaves room for a name: a socket's path has at most 107 bytes."""
    if len(str(folder)) < 60 or sys.platform != "linux":
        yield str(folder)
        return
    file = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


def fingerprint(python: str, environment: dict[str, str]) -> str:
    """Return what must be equal for a server to stand in for a new process: code, interpreter, settings."""
    package = Path(flywheel.__file__).parent
    code = [
        (str(path.relative_to(package)), path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(package.rglob("*.py"))
    ]
    installed = [
        (path, os.stat(path).st_mtime_ns)
        for path in sys.path
        if path.endswith("-packages") and os.path.isdir(path)
    ]
    settings = {name: value for name, value in environment.items() if name.startswith(_READ_AT_IMPORT)}
    parts = [str(package), python, code, installed, sorted(settings.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def stop_servers(folder: Path, how: signal.Signals = signal.SIGKILL) -> None:
    """End the fork servers of this folder, with their jobs; by SIGTERM, each when it has no job."""
    for file in folder.glob("fork-*.pid"):
        with suppress(ValueError, OSError):
            pid = int(file.read_text())
            if b"flywheel.runtimes.local.fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, how)
        if how == signal.SIGKILL:
            for left in (file, file.with_suffix(".sock")):
                left.unlink(missing_ok=True)
