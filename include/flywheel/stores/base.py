"""What a record store does, whatever keeps the records.

Records have ids from their content, so writing one twice is writing it once: a stage that was killed and
runs again, or two processes that write the same log, leave the same store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from flywheel.workloads.records import Record


@dataclass(frozen=True, slots=True)
class WriteSummary:
    """What became of records that were written.

    Attributes:
        written: new ones.
        already_there: known by their id before, or twice among those written.
        rejected: refused by the store's server, each handed to the caller of `write`.
    """

    written: int = 0
    already_there: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that the store's server refused.

    Attributes:
        origin: file and line that it was read from, where known.
        reason: the server's.
        raw: the record as it was sent.
    """

    id: str
    origin: tuple[str, int] | None
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class PaidAnswer:
    """A teacher's answer that was paid for.

    Attributes:
        content: the assistant's text.
        model: the model that answered.
        created: unix seconds.
        usage: the endpoint's token counts, as it gave them.
    """

    content: str
    model: str
    created: int
    usage: dict[str, Any] = field(default_factory=dict)


# A workload and a client.
Owner = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a store holds of owners.

    Attributes:
        records: theirs.
        answers: that they alone have asked for.
        shared_answers: that another has asked for as well, which therefore stay.
        unowned_answers: of which nobody knows who asked: they are older than that is kept.
    """

    records: int
    answers: int
    shared_answers: int
    unowned_answers: int


class RecordStore(Protocol):
    """Keeps log records, and the teacher's answers.

    Every method may raise a `StoreError`. Times are unix seconds; `before` is exclusive and asks for what was
    known by then: records with known_at < before, never one without. Several processes and threads may use
    one store at once.
    """

    def write(
        self, records: Iterable[Record], rejected: Callable[[Rejected], None] | None = None
    ) -> WriteSummary:
        """Write records in batches. Those written before an error stay; writing all again is safe.

        Of a record that is there already the earliest `known_at` and the strongest `labelled_by` stay.

        Args:
            rejected: takes the records that the store's server refuses, and the others go on; with None,
                a refusal is a StoreError.
        """
        ...

    def read(self, workload_id: str, client_id: str, before: int) -> Iterator[Record]:
        """Stream the records with known_at < before, ordered by (known_at, timestamp, id).

        Records that others write meanwhile may or may not be among them; none comes twice.
        """
        ...

    def read_known(self, workload_id: str, client_id: str, before: int) -> Iterator[tuple[str, int]]:
        """Stream the ids of the records that `read` would give, in its order, each with its `known_at`.

        That is much cheaper than `read`.
        """
        ...

    def get(self, ids: Iterable[str]) -> Iterator[Record]:
        """Stream the records of these ids, in the order of the ids.

        Raises:
            StoreError: an id is not in the store.
        """
        ...

    def count(self, workload_id: str, client_id: str, before: int) -> int:
        """Return the number of records with known_at < before."""
        ...

    def counts_by_labeller(self, workload_id: str, client_id: str, before: int) -> dict[str, int]:
        """Return the number of records with known_at < before by who labelled them.

        By `labelled_by`; "unknown" are those of which a store of an earlier schema did not keep it.
        """
        ...

    def scopes(self) -> list[tuple[str, str]]:
        """Return the pairs of workload and client that have records, sorted."""
        ...

    def get_answers(self, keys: Sequence[str]) -> dict[str, PaidAnswer]:
        """Return the answers that are there; keys without one are left out."""
        ...

    def put_answers(self, answers: Sequence[tuple[str, PaidAnswer]], owner: Owner | None = None) -> None:
        """Keep answers; they are durable when this returns. The first answer of a key stays.

        Args:
            owner: who asked for them.
        """
        ...

    def own_answers(self, owner: Owner, keys: Sequence[str]) -> None:
        """Keep that an owner uses answers, too: then they stay when another one that does is forgotten."""
        ...

    def read_owners(self) -> Iterator[tuple[Owner, str]]:
        """Stream all owners of answers with the keys of these."""
        ...

    def read_answers(self) -> Iterator[tuple[str, PaidAnswer]]:
        """Stream all answers with their keys, in an order of the store's own.

        None comes twice; others that are put meanwhile may be missed.
        """
        ...

    def holdings(self, owners: Sequence[Owner]) -> Holdings:
        """Count what the store holds of owners."""
        ...

    def forget(self, owners: Sequence[Owner], *, unowned: bool = False, before: int | None = None) -> None:
        """Remove what the store holds of owners, so that it is not in its files any more either.

        What is another's stays as it is read. A killed one is done again.

        Args:
            unowned: remove the answers that have no owner, too.
            before: remove the owners' records with known_at < before alone; their answers stay.
        """
        ...

    def close(self) -> None:
        """Release the connection; closing twice is no error."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
