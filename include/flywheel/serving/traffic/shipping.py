"""Moves segments into the record store: each entry is there once, whatever is killed and how often.

A segment that nobody writes is read whole and written to the store, whose ids make twice once; then its file
goes. A kill between the two ships it again, and that changes nothing. With the entries go the teacher's
answers, under the keys by which labelling finds them, so that none is paid for twice; an answer to another
prompt than the workload's becomes the training record that an application's log would have given.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from flywheel.artifacts.root import key_of
from flywheel.common.errors import RecordError
from flywheel.config import Config, resolve_path
from flywheel.serving.traffic.entry import TrafficEntry
from flywheel.serving.traffic.segments import SUFFIX
from flywheel.stores import PaidAnswer, RecordStore, Rejected
from flywheel.workloads.experiments import workload_named
from flywheel.workloads.records import Record
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

# Lines that no store takes, beside the segments.
REFUSED = "refused.txt"


def traffic_folder(config: Config) -> Path:
    """Return the folder of the segments that go into a config's store."""
    return Path(resolve_path(config.serving.log_folder)) / key_of(config.store.model_dump(mode="json"))


def ship(folder: Path, store: RecordStore, workload: Workload | None = None) -> int:
    """Write all closed segments of a folder into the store; return how many entries they had.

    Args:
        workload: reads the teacher's answers to prompts of others; None: they become no training records.
            What another experiment's endpoint has written is read by the workload of that.

    Raises:
        StoreError: the store cannot be written; what is left is shipped by the next call.
    """
    shipped = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with _locked(path) as data:
            if data is None:
                continue
            entries = list(_entries(folder, data))
            _write(folder, store, entries, workload)
            path.unlink(missing_ok=True)
            shipped += len(entries)
    return shipped


@contextmanager
def _locked(path: Path) -> Iterator[bytes | None]:
    """Give a segment's bytes; None where another process writes or ships it."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        with open(file, "rb", closefd=False) as opened:
            yield opened.read()
    finally:
        os.close(file)


def _entries(folder: Path, data: bytes) -> Iterator[TrafficEntry]:
    """Yield the whole lines of a segment; what stands after the last end of a line was never sent."""
    for line in data.split(b"\n")[:-1]:
        try:
            yield TrafficEntry.model_validate_json(line)
        except ValidationError as error:
            _refuse(folder, line.decode("utf-8", "replace"), str(error.errors()[0]["msg"]))


def _write(folder: Path, store: RecordStore, entries: list[TrafficEntry], workload: Workload | None) -> None:
    answers: dict[tuple[str, str], list[tuple[str, PaidAnswer]]] = defaultdict(list)
    records = []
    for entry in entries:
        records.append(entry.record())
        if entry.by_teacher and entry.key:
            model = str(entry.usage.get("model") or entry.model)
            answer = PaidAnswer(entry.answer, model, int(entry.at), {**entry.usage})
            answers[(entry.workload_id, entry.client_id)].append((entry.key, answer))
        elif entry.by_teacher and workload is not None and entry.has_text:
            own = workload if entry.workload_id == workload.id else workload_named(entry.workload_id)
            lesson = lesson_of(entry, own or workload)
            records += [lesson] if lesson is not None else []
    for owner, given in answers.items():
        store.put_answers(given, owner)
    store.write(records, lambda rejected: _reject(folder, rejected))


def lesson_of(entry: TrafficEntry, workload: Workload) -> Record | None:
    """Return the training record that an answer to an application's own prompt is; None: it is none."""
    message = {"role": "assistant", "content": entry.answer or None, "tool_calls": entry.tool_calls or None}
    data = {
        "request": {"model": entry.model, "messages": entry.messages, "tools": entry.tools or []},
        "response": {"choices": [{"message": message}], "source": "production"},
        "workload_id": entry.workload_id,
        "client_id": entry.client_id,
        "timestamp": int(entry.at),
    }
    try:
        return Record.from_json(data, workload.classes, workload.aliases, labelled_by="teacher")
    except RecordError:
        return None  # it names no class: nothing to learn from


def _reject(folder: Path, rejected: Rejected) -> None:
    _refuse(folder, rejected.raw, rejected.reason)


def _refuse(folder: Path, line: str, reason: str) -> None:
    log.error("a request of production is set aside in %s: %s", folder / REFUSED, reason)
    with (folder / REFUSED).open("a", encoding="utf-8") as file:
        file.write(f"{reason}\t{line}\n")
        file.flush()
        os.fsync(file.fileno())
