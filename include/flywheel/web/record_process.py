"""A large body of records, taken by a process of its own.

A million records keep a core busy for a minute. A thread of the API server that does so and the thread that
receives the body run by turns, and Python gives the one that waits its turn after 5 ms: 64 KB came in with
each, and every other request to Airflow waited along. A process reads the body as it would read a file.

    standard input     the task, a line of JSON; then the body
    descriptor ANSWERS takes the answers to the lines
    descriptor WHOLE   reads as `whole` once all of the body is there; as nothing where the client or the
                       server has gone away before
    standard output    JSON: what became of the lines, or the error
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from typing import BinaryIO

from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.connections import as_variable, find_connection
from flywheel.common.errors import FlywheelError, StoreError
from flywheel.common.redaction import install
from flywheel.config.evaluation import WorkloadType
from flywheel.config.logs import LogLevel, log_to_stderr
from flywheel.config.store import StoreConfig
from flywheel.runtimes.environment import needed_environment
from flywheel.web.record_stream import AnswerFile, Taken, take
from flywheel.workloads.workload import Workload

_WHOLE = b"whole"
_READ_BYTES = 1 << 18


class Task(BaseModel):
    """What is to be done with a body; see `record_stream.take`.

    Attributes:
        root: URL of the artifact root.
        workload: of the configuration: a file, or the name of one that comes with flywheel.
        workload_type, parse_arguments: of the configuration; see `Record.from_json`.
        students: of the configuration, whose answers are set aside.
        log_level: of the configuration.
    """

    store: StoreConfig
    root: str
    workload: str
    workload_type: WorkloadType = "auto"
    parse_arguments: bool = True
    workload_id: str | None = None
    client_id: str | None = None
    tell_accepted: bool = True
    students: tuple[str, ...] = ()
    log_level: LogLevel = "INFO"


class PipedBody:
    """A body on a pipe."""

    def __init__(self, file: BinaryIO, whole: int) -> None:
        self.readline = file.readline
        self._file = file
        self._whole = whole

    @property
    def broken(self) -> bool:
        """Whether it ended before its end, known once it has ended."""
        return os.read(self._whole, len(_WHOLE)) != _WHOLE

    def give_up(self) -> None:
        """Read no further: the server then stops sending."""
        self._file.close()


async def take_apart(chunks: AsyncIterator[bytes], answers: AnswerFile, task: Task) -> Taken:
    """Have a process take the records of a body.

    Args:
        chunks: the body; where it raises, the last lines are given up and the error goes on.

    Raises:
        StoreError: the store cannot be used at all.
    """
    whole, tell_whole = os.pipe()
    ending: list[int] = [whole, tell_whole]
    process = None
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, str(answers.fileno()), str(whole)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(answers.fileno(), whole),
            env={**needed_environment(task.root), **_secrets(task.store)},
        )
        assert process.stdin is not None and process.stdout is not None
        body, error = process.stdin, None
        try:
            body.write(task.model_dump_json().encode() + b"\n")
            async for chunk in chunks:
                body.write(chunk)
                await body.drain()
            os.write(tell_whole, _WHOLE)
        except (ConnectionError, ClientDisconnect):
            pass  # it reads no further, and says why; or there is no more to send
        except Exception as raised:
            error = raised
        body.close()
        os.close(ending.pop())
        said = await process.stdout.read()
        await process.wait()
        if error is not None:
            raise error
        return _understand(said, process.returncode)
    finally:
        for descriptor in ending:
            os.close(descriptor)
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _secrets(store: StoreConfig) -> dict[str, str]:
    """Return the store's connection as a variable: the process has no Airflow to ask."""
    if store.type != "elasticsearch":
        return {}
    found = find_connection(store.elasticsearch.connection, StoreError)
    return {} if found is None else dict([as_variable(found)])


def _understand(said: bytes, code: int | None) -> Taken:
    try:
        answer = json.loads(said)
    except ValueError:
        raise RuntimeError(f"the process that takes records has ended with code {code}") from None
    if "error" in answer:
        raise StoreError(answer["error"])
    return Taken(**answer)


def main(arguments: list[str]) -> None:
    """Be that process."""
    answers_to, whole = map(int, arguments)
    install()
    with open(0, "rb", buffering=_READ_BYTES) as file:
        task = Task.model_validate_json(file.readline())
        log_to_stderr(task.log_level)
        answers = AnswerFile(open(answers_to, "wb", buffering=1 << 20))  # noqa: SIM115  closed below
        try:
            taken = take(
                PipedBody(file, whole),
                answers,
                store=task.store,
                root=ArtifactRoot(task.root),
                workload=Workload.load(task.workload),
                workload_type=task.workload_type,
                parse_arguments=task.parse_arguments,
                workload_id=task.workload_id,
                client_id=task.client_id,
                tell_accepted=task.tell_accepted,
                students=frozenset(task.students),
            )
            said = asdict(taken)
        except FlywheelError as error:
            said = {"error": str(error)}
        finally:
            answers.close()
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1:])
