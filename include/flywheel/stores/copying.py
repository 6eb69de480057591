"""Moves records and answers from one store to another: `flywheel store copy`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from flywheel.common.batching import batched
from flywheel.common.errors import StoreError
from flywheel.config.store import StoreConfig
from flywheel.stores.base import Owner, RecordStore

log = logging.getLogger(__name__)

# Answers are kept in one transaction each, or as some bulk requests, several of them on their way.
ANSWER_BATCH = 10_000
# A time beyond that of any record.
_ALWAYS = 1 << 40


@dataclass(frozen=True)
class CopySummary:
    """What was copied.

    Attributes:
        written: records new in the target; `already_there` were in it before.
        answers: of the source, all in the target now.
    """

    written: int
    already_there: int
    answers: int


def copy_store(source: RecordStore, target: RecordStore) -> CopySummary:
    """Copy all records and answers; the source stays as it is. Copying again does no harm.

    Raises:
        StoreError: either store cannot be used, or the target refuses a record.
    """
    written = already_there = answers = 0
    for workload_id, client_id in source.scopes():
        summary = target.write(source.read(workload_id, client_id, _ALWAYS))
        written += summary.written
        already_there += summary.already_there
        log.info("workload %s, client %s: %d records new", workload_id, client_id, summary.written)
    for batch in batched(source.read_answers(), ANSWER_BATCH):
        target.put_answers(batch)
        answers += len(batch)
    for owner, keys in _by_owner(source.read_owners()):
        target.own_answers(owner, keys)
    return CopySummary(written, already_there, answers)


def store_named(name: str, config: StoreConfig) -> StoreConfig:
    """Return the store that a person names: `sqlite[:PATH]` or `elasticsearch[:INDEX]`.

    Args:
        config: gives what the name leaves open.

    Raises:
        StoreError: it is no such name.
    """
    kind, _, place = name.partition(":")
    data = config.model_dump()
    if kind == "sqlite":
        data |= {"type": kind, "path": place or config.path}
    elif kind == "elasticsearch":
        index = {"index": place} if place else {}
        data |= {"type": kind, "elasticsearch": {**data["elasticsearch"], **index}}
    else:
        raise StoreError(f"{name!r}: expected sqlite, sqlite:PATH, elasticsearch or elasticsearch:INDEX")
    try:
        return StoreConfig.model_validate(data)
    except ValidationError as error:
        raise StoreError(f"{name!r}: {error.errors()[0]['msg']}") from None


def _by_owner(rows: Iterable[tuple[Owner, str]]) -> Iterator[tuple[Owner, list[str]]]:
    for batch in batched(rows, ANSWER_BATCH):
        keys: dict[Owner, list[str]] = {}
        for owner, key in batch:
            keys.setdefault(owner, []).append(key)
        yield from keys.items()
