"""The records that curation chooses among, reduced to what it compares: id, label and words.

Of many records from the embedded store, a process of its own reads and reduces the next ones while this one
takes in the last: the first pass over a million takes 20 s instead of 35 s on two cores. (Threads would not
help, for both halves are Python's own work; an Elasticsearch node is a second process already.) The process
gets the plan, the ids and the sift as three JSON lines on its stdin, and writes a JSON line for each batch.

    python -m flywheel.curation.reading
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, Any, NamedTuple

import orjson

from flywheel.common.collecting import rare_collections
from flywheel.common.errors import FlywheelError, StoreError
from flywheel.curation.conversation import ALONE
from flywheel.curation.prompts import Sift
from flywheel.curation.texts import own_texts
from flywheel.curation.words import words_of
from flywheel.runs.plan import Plan
from flywheel.stores import RecordStore, open_store
from flywheel.workloads.records import STRENGTH, Record
from flywheel.workloads.workload import Workload


class Reduced(NamedTuple):
    """What is compared of a record.

    Attributes:
        text: the words of its own text, a space between two.
        labelled_by: who gave the label, as a place in `STRENGTH`.
        context: of instructions and earlier turns; duplicates have one.
        earlier: words of earlier turns, a space between two.
        whole, before: see `flywheel.curation.conversation.Around`.
    """

    id: str
    label: str
    text: str
    known_at: int
    labelled_by: int
    context: str = ""
    earlier: str = ""
    whole: int = 0
    before: int = 0


# Records from which the second process, half a second in starting, is worth it.
APART_FROM = 50_000
_BATCH = 500


def own_workload(plan: Plan) -> Workload | None:
    """Return the workload whose prompt most of the plan's records have; None: they are another's."""
    return plan.workload if plan.workload.id == plan.workload_id else None


def reduced(plan: Plan, store: RecordStore, ids: Sequence[str], sift: Sift) -> Iterator[Reduced]:
    """Stream the records of these ids, which are a part of what the store gives, in its order.

    Records that others wrote since the ids were listed are passed over.

    Args:
        sift: lets through those of today's prompt; its counts are whole at the end.

    Raises:
        StoreError: a record is gone, or the store cannot be read.
    """
    if len(ids) >= APART_FROM and plan.config.store.type == "sqlite":
        yield from _reduced_apart(plan, ids, sift)
    else:
        yield from _reduced_here(plan, store, ids, sift)


def _reduced_here(plan: Plan, store: RecordStore, ids: Sequence[str], sift: Sift) -> Iterator[Reduced]:
    for record, (text, around) in own_texts(sift.through(_read(plan, store, ids)), own_workload(plan)):
        assert record.known_at is not None  # the store leaves undated ones out
        words = " ".join(words_of(text))
        by = STRENGTH.index(record.labelled_by)
        if around is ALONE:
            yield Reduced(record.id, record.label, words, record.known_at, by)
        else:
            beside = (around.context, " ".join(around.earlier), around.whole, around.before)
            yield Reduced(record.id, record.label, words, record.known_at, by, *beside)


def _read(plan: Plan, store: RecordStore, ids: Sequence[str]) -> Iterator[Record]:
    expected = iter(ids)
    wanted = next(expected, None)
    for record in store.read(plan.workload_id, plan.client_id, plan.cutoff):
        if record.id == wanted:
            yield record
            wanted = next(expected, None)
            if wanted is None:
                return
    if wanted is not None:
        raise StoreError(f"record {wanted} is gone from the store; run this again")


def _reduced_apart(plan: Plan, ids: Sequence[str], sift: Sift) -> Iterator[Reduced]:
    command = [sys.executable, "-m", "flywheel.curation.reading"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, plan, ids, sift)
            for line in process.stdout:
                message = orjson.loads(line)
                if "error" in message:
                    raise StoreError(message["error"])
                if "end" in message:
                    sift.add(message["end"])
                    return
                yield from map(Reduced._make, zip(*message["batch"], strict=True))
        finally:
            process.kill()  # where it has ended, nothing happens
    raise StoreError(
        f"the process that reads the records ended with code {process.returncode}; see the log, then run "
        "this again"
    )


def _send(stdin: IO[bytes], plan: Plan, ids: Sequence[str], sift: Sift) -> None:
    with suppress(BrokenPipeError):  # it has ended; its output says why
        stdin.write(plan.model_dump_json().encode() + b"\n")
        stdin.write(orjson.dumps(ids) + b"\n")
        stdin.write(orjson.dumps(sift.tell()) + b"\n")
        stdin.close()


def main() -> None:
    """Be the second process."""
    plan = Plan.model_validate_json(sys.stdin.buffer.readline())
    ids = orjson.loads(sys.stdin.buffer.readline())
    sift = Sift.told(orjson.loads(sys.stdin.buffer.readline()))
    try:
        with open_store(plan.config.store) as store, rare_collections():
            records = _reduced_here(plan, store, ids, sift)
            while batch := list(islice(records, _BATCH)):
                _tell(batch=list(zip(*batch, strict=True)))
        _tell(end=sift.sums())
    except FlywheelError as error:
        _tell(error=str(error))


def _tell(**message: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
