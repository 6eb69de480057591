"""What every place that keeps data can do: say what it holds of a client, say what nobody needs, remove it.

A place that keeps data of records registers here, with `place`, and then both `flywheel forget` and
`flywheel prune` know it. What it names are items: a path, a key or an id, never a text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, TypeVar

from flywheel.forgetting.house import House, RunFolder


@dataclass(frozen=True, slots=True)
class Removable:
    """Something that can be removed.

    Attributes:
        place: the name of the place that keeps it.
        id: by which the place finds it: a path, a key, the id of a run.
        count: of what it holds, such as records or files.
        bytes: that it takes, as far as the place can tell.
        note: what to say of it, beside its id.
    """

    place: str
    id: str
    count: int = 1
    bytes: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Whose:
    """A client, of one workload or of all."""

    client_id: str
    workload_id: str | None = None

    def has(self, workload_id: object, client_id: object) -> bool:
        """Return whether something of that workload and client is his."""
        return client_id == self.client_id and self.workload_id in (None, workload_id)


class Place(ABC):
    """A place that keeps data. A subclass says what it holds, and how that is removed.

    Attributes:
        name: in lists and in the audit file; the same for ever.
        keeps: what of a client is there, in a sentence for the docs.
    """

    name: ClassVar[str]
    keeps: ClassVar[str]

    def __init__(self, house: House) -> None:
        self.house = house

    @abstractmethod
    def of_client(self, whose: Whose) -> list[Removable]:
        """Return what is there of a client, and of nobody else."""

    def unneeded(self, going: Sequence[RunFolder]) -> list[Removable]:
        """Return what no run, champion or hold needs and is older than the config's `retention` says.

        Args:
            going: the runs that go; what they alone need goes with them.
        """
        return []

    @abstractmethod
    def remove(self, ids: Iterable[str]) -> None:
        """Remove items by their ids; one that is not there is no error, so that this may be done again."""

    def remarks(self, whose: Whose) -> list[str]:
        """Return sentences on what stays, though it has to do with a client."""
        return []


Kind = TypeVar("Kind", bound=type[Place])
# In the order in which they are emptied: what serves first, what the others are found by last.
_MODULES = (
    "artifact_places",
    "history_place",
    "machine_places",
    "nemo_place",
    "root_places",
    "tracking_place",
    "traffic_place",
)
_PLACES: list[tuple[int, type[Place]]] = []


def place(order: int) -> Callable[[Kind], Kind]:
    """Register a place.

    Args:
        order: places with lower ones are emptied first.
    """

    def register(kind: Kind) -> Kind:
        _PLACES.append((order, kind))
        return kind

    return register


def places(house: House) -> list[Place]:
    """Return all places, in the order in which they are emptied."""
    for name in _MODULES:
        import_module(f"flywheel.forgetting.{name}")
    return [kind(house) for _, kind in sorted(_PLACES, key=lambda entry: entry[0])]
