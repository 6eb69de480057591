"""Log records that arrive as NDJSON, a line each: into the store in batches, the bad ones into a quarantine.

Memory holds a few chunks of the body and one batch. An answer for each line goes into a file and from there
to the client when the body is at its end: one that sends all before it reads would wait for ever otherwise.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, cast
from uuid import uuid4

import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import RecordError, StoreError
from flywheel.config.evaluation import WorkloadType
from flywheel.config.loading import resolve_path
from flywheel.config.store import StoreConfig
from flywheel.sources.quarantine import Quarantine
from flywheel.sources.rows import SourceRow, json_rows
from flywheel.stores import RecordStore, open_store
from flywheel.workloads.records import Record, check_no_student
from flywheel.workloads.workload import Workload

BATCH = 2000
MOST_BAD_LINES = 100_000
_CHUNKS = 8
_READ_BYTES = 1 << 18


class Lines(Protocol):
    """A request's body, line by line."""

    @property
    def broken(self) -> bool:
        """Whether it ended before its end, known once it has ended."""

    def readline(self, limit: int) -> bytes:
        """Return the next line with its end, or `limit` bytes of a longer one; nothing at the end."""

    def give_up(self) -> None:
        """Read no further."""


class Body:
    """A request's body as a file: one thread puts chunks in, another reads lines."""

    def __init__(self) -> None:
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_CHUNKS)
        self._buffer = b""
        self._at = 0
        self._ended = False
        self._given_up = False
        self.broken = False

    def put(self, chunk: bytes) -> bool:
        """Take a chunk, waiting while the reader is behind; return False where nobody reads any more."""
        while not self._given_up:
            try:
                self._chunks.put(chunk, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def end(self, *, broken: bool = False) -> None:
        """Say that there is no more; `broken`: the client went away before."""
        self.broken = self.broken or broken
        while not self._given_up:
            try:
                self._chunks.put(None, timeout=0.5)
                return
            except queue.Full:
                continue

    def give_up(self) -> None:
        """Read no further."""
        self._given_up = True

    def readline(self, limit: int) -> bytes:
        """Return the next line with its end, or `limit` bytes of a longer one; nothing at the end."""
        searched = self._at
        while True:
            end = self._buffer.find(b"\n", searched, self._at + limit)
            if end >= 0:
                return self._take(end + 1)
            if len(self._buffer) - self._at >= limit:
                return self._take(self._at + limit)
            searched = len(self._buffer) - self._at
            chunk = None if self._ended else self._chunks.get()
            if chunk is None:
                self._ended = True
                return self._take(len(self._buffer))
            self._buffer = self._buffer[self._at :] + chunk
            self._at = 0

    def _take(self, end: int) -> bytes:
        line = self._buffer[self._at : end]
        self._at = end
        return line


@dataclass
class Taken:
    """What became of the lines.

    Attributes:
        accepted: valid records, each in the store: `written` new there, `already_there` known by their id.
        quarantine: path of the bad lines, relative to the artifact root.
        stopped: why no further line was read; empty at the end of the body.
    """

    lines: int = 0
    accepted: int = 0
    written: int = 0
    already_there: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    quarantine: str | None = None
    seconds: float = 0.0
    stopped: str = ""


class AnswerFile:
    """The answers to lines, on disk until they are sent.

    Args:
        file: where to; default: a new file that has no name.
    """

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._file = file or tempfile.TemporaryFile(dir=_own_folder(), buffering=1 << 20)  # noqa: SIM115

    def add(self, data: bytes) -> None:
        """Take the answer to a line, or to several."""
        self._file.write(data)

    def fileno(self) -> int:
        """Return the file's descriptor, for another process to write to."""
        return self._file.fileno()

    def chunks(self) -> Iterator[bytes]:
        """Yield all of them, then forget them."""
        with self._file as file:
            file.seek(0)
            while chunk := file.read(_READ_BYTES):
                yield chunk

    def close(self) -> None:
        """Forget them."""
        self._file.close()


class _Batch:
    """Records on their way into the store, several at a time, each with its line.

    Args:
        answers: takes what is said of each; None: nothing is said.
        taken: counts them.
    """

    def __init__(self, store: RecordStore, answers: AnswerFile | None, taken: Taken) -> None:
        self._store, self._answers, self._taken = store, answers, taken
        self._records: list[tuple[int, Record]] = []

    def add(self, line: int, record: Record) -> None:
        """Take a record; write all when there are enough.

        Raises:
            StoreError: the store cannot be used.
        """
        self._records.append((line, record))
        if len(self._records) >= BATCH:
            self.write()

    def write(self) -> None:
        """Write what is there.

        Raises:
            StoreError: the store cannot be used.
        """
        if not self._records:
            return
        summary = self._store.write([record for _, record in self._records])
        self._taken.accepted += len(self._records)
        self._taken.written += summary.written
        self._taken.already_there += summary.already_there
        if self._answers is not None:
            self._answers.add(
                b"".join(
                    b'{"line":%d,"status":"accepted","id":"%b"}\n' % (line, record.id.encode())
                    for line, record in self._records
                )
            )
        self._records.clear()


def _refusal(line: int, reason: str) -> bytes:
    said = {"line": line, "status": "quarantined", "reason": _safe(reason)[:500]}
    return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True)
class _Reader:
    """Makes records of rows; see `take`."""

    workload: Workload
    workload_type: WorkloadType
    parse_arguments: bool
    workload_id: str | None
    client_id: str | None
    students: Collection[str]

    def record(self, row: SourceRow) -> Record:
        """Return a row's record, known from now on.

        Raises:
            RecordError: it is none, or not one to take.
        """
        record = Record.from_json(
            row.values,
            self.workload.classes,
            self.workload.aliases,
            workload_type=self.workload_type,
            parse_arguments=self.parse_arguments,
            known_at=int(time.time()),
            labelled_by="posted",
        )
        check_no_student(record, self.students)
        _check_owner(record, self.workload_id, self.client_id)
        return record


def take(
    body: Lines,
    answers: AnswerFile,
    *,
    store: StoreConfig,
    root: ArtifactRoot,
    workload: Workload,
    workload_type: WorkloadType = "auto",
    parse_arguments: bool = True,
    workload_id: str | None = None,
    client_id: str | None = None,
    tell_accepted: bool = True,
    students: Collection[str] = (),
) -> Taken:
    """Put the records of a body into the store: known from now on, labelled by whoever posted them.

    Args:
        workload: its classes and aliases read the answers.
        workload_type, parse_arguments: what their answers may be; see `Record.from_json`.
        workload_id, client_id: whose records alone to take; None: anybody's.
        tell_accepted: answer every line; else those that are set aside.
        students: names of models whose answers are set aside; see `check_no_student`.

    Raises:
        StoreError: the store cannot be used at all.
    """
    taken, started = Taken(), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="records-", dir=_own_folder()))

    reader = _Reader(workload, workload_type, parse_arguments, workload_id, client_id, students)
    try:
        with open_store(store) as opened, Quarantine(folder / "quarantine.jsonl") as quarantine:
            batch = _Batch(opened, answers if tell_accepted else None, taken)
            try:
                for row in json_rows(cast(BinaryIO, body)):
                    taken.lines, reason = row.line, row.problem
                    if not reason:
                        try:
                            record = reader.record(row)
                        except RecordError as error:
                            reason = str(error)
                    if not reason:
                        batch.add(row.line, record)
                        continue
                    owner = _owner(row.values, workload_id, client_id)
                    quarantine.add("POST /api/records", row.line, reason, row.raw, owner=owner)
                    answers.add(_refusal(row.line, reason))
                    if quarantine.count >= MOST_BAD_LINES:
                        taken.stopped = f"{quarantine.count:,} lines were bad; no further one was read"
                        break
                if not taken.stopped and body.broken:  # the last line may be half of one
                    taken.stopped = "the client went away"
                else:
                    batch.write()
            except StoreError:
                taken.stopped = "the store cannot be used any more"
            taken.quarantined, taken.reasons = quarantine.count, dict(quarantine.reasons)
        if taken.quarantined:
            taken.quarantine = _keep(root, folder / "quarantine.jsonl")
        taken.seconds = round(time.monotonic() - started, 3)
        return taken
    finally:
        body.give_up()
        shutil.rmtree(folder, ignore_errors=True)


def _own_folder() -> str:
    """Return a folder on disk: that for temporary files is often in memory."""
    folder = resolve_path("state/api")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:  # a project that cannot be written to
        return tempfile.gettempdir()
    return folder


def _check_owner(record: Record, workload_id: str | None, client_id: str | None) -> None:
    if workload_id is not None and record.workload_id != workload_id:
        raise RecordError(f"workload_id: expected {workload_id!r}, as the request asks for")
    if client_id is not None and record.client_id != client_id:
        raise RecordError(f"client_id: expected {client_id!r}, as the request asks for")


def _owner(
    values: Mapping[str, Any], workload_id: str | None, client_id: str | None
) -> tuple[str, str] | None:
    """Return whose a line is, as it says itself, else as the request says; None: neither says it."""
    told = (values.get("workload_id", workload_id), values.get("client_id", client_id))
    return (str(told[0] or ""), str(told[1])) if told[1] else None


def _keep(root: ArtifactRoot, file: Path) -> str:
    """Put a quarantine into the artifact root and return its path there."""
    path = f"quarantine/records-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid4().hex[:8]}.jsonl"
    root.put_file(file, path)
    file.unlink()
    return path


def _safe(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
