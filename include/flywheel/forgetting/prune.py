"""`flywheel prune`: removes what no run, champion or hold needs, after the ages and amounts of `retention`.

Mark and sweep. Marked is what the files of runs that stay and of all champions (in force, history, timeline,
holds) name by its key; what is not marked and is old enough goes. A run stays while it is under way, while it
is among the latest of its workload and client, while it is young, and as long as a champion is of it.

Runs may go on meanwhile. An artifact that was made within `retention.unreferenced_days` stays though nothing
names it yet; so does all that a run under way may find (a data set, and what is made of its own), until it
has ended; and what is about to go is looked for once more, in what runs have written since. Removal is by the
manifest first, so a stage finds an artifact whole or not at all, and makes a missing one. One process prunes
at a time (a lock on each machine).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from filelock import FileLock, Timeout

from flywheel.common.errors import FlywheelError
from flywheel.config import Config
from flywheel.forgetting.base import Removable, places
from flywheel.forgetting.house import House, RunFolder

log = logging.getLogger(__name__)

_DAY = 86_400.0
_LOCK = ".prune.lock"


class PruneError(FlywheelError):
    """Another process prunes already."""


@dataclass(frozen=True)
class Pruned:
    """What goes, or has gone: items by the name of their place."""

    items: dict[str, list[Removable]]

    @property
    def bytes(self) -> int:
        """That they take."""
        return sum(item.bytes for items in self.items.values() for item in items)

    def lines(self) -> list[str]:
        """Return what goes as lines, each item with its size."""
        lines = []
        for name, items in self.items.items():
            for item in items:
                note = f"   {item.note}" if item.note else ""
                lines.append(f"{name:12} {item.bytes:14,} bytes   {item.id}{note}")
        return lines

    def summary(self) -> str:
        """Return how much it is."""
        counts = ", ".join(f"{len(items):,} of {name}" for name, items in self.items.items() if items)
        return f"{counts or 'nothing'}; {self.bytes / 1e6:,.1f} MB"


def prune(config: Config, *, remove: bool, tell: Callable[[str], None] = log.info) -> Pruned:
    """Find what nobody needs, and remove it.

    Args:
        remove: False: only find it.
        tell: told of each place that is emptied.

    Raises:
        PruneError: another process prunes already.
        ArtifactError, TrackingError: a place cannot be read or emptied.
    """
    house = House(config)
    lock = house.root.local_folder(_LOCK)
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            first = _unneeded(house)
            if not remove or not any(first.values()):
                return Pruned(first)
            # What has been begun since the first look may need some of it.
            again = _unneeded(House(config))
            found = {
                name: [item for item in items if item.id in {other.id for other in again.get(name, [])}]
                for name, items in first.items()
            }
            # Artifacts before the runs that name them: killed between the two, the runs name what is missing,
            # and both go next time; the other way round they would wait for their age again.
            for place in places(house):
                if items := found.get(place.name):
                    place.remove([item.id for item in items])
                    tell(f"{place.name}: {len(items):,} removed")
            return Pruned(found)
    except Timeout:
        raise PruneError(f"{lock}: another process prunes this artifact root already") from None
    finally:
        house.close()


def runs_that_go(house: House) -> list[RunFolder]:
    """Return the runs that are old enough, and that nothing needs."""
    keep, now = house.config.retention, time.time()
    if keep.runs_days is None:
        return []
    champions = _runs_of_champions(house)
    latest: dict[tuple[str, str], list[RunFolder]] = {}
    for run in house.runs:
        latest.setdefault((run.workload_id, run.client_id), []).append(run)
    kept = {
        run.name
        for runs in latest.values()
        for run in sorted(runs, key=_made_at, reverse=True)[: keep.keep_runs]
    }
    return [
        run
        for run in house.runs
        if run.name not in kept
        and run.run_id not in champions
        and run.is_silent(now)
        and now - run.changed > keep.runs_days * _DAY
    ]


def _unneeded(house: House) -> dict[str, list[Removable]]:
    going = runs_that_go(house)
    return {place.name: place.unneeded(going) for place in places(house)}


def _made_at(run: RunFolder) -> tuple[str, float]:
    return str(run.plan.get("created_at") or ""), run.changed


def _runs_of_champions(house: House) -> set[str]:
    """Return the ids of the runs that a champion came from, whether in force, of a decision or a timeline.

    Each night has an entry in the timeline; what that needs is the champion that it names.
    """
    return {str(data["run_id"]) for folder in house.champions for data in house.champions_in(folder)}
