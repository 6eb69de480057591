"""`flywheel forget`: removes what is kept of a client, everywhere.

    forgotten/pending/<key>.json      what is about to be removed: written first, gone when all is done
    forgotten/log.jsonl               one line for each forgetting: who, when, of whom, how much; no content

What is removed is found before the first of it goes, and written down: a place may be found by another one
that is emptied before it. A forgetting that was killed is taken up by the next one of the same client, which
removes what was written down and what it finds itself.
"""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import orjson

from flywheel.artifacts.root import key_of
from flywheel.common.errors import FlywheelError
from flywheel.config import Config
from flywheel.forgetting.base import Place, Removable, Whose, places
from flywheel.forgetting.house import House
from flywheel.forgetting.machine_places import airflow_of

PENDING = "forgotten/pending"
LOG = "forgotten/log.jsonl"

log = logging.getLogger(__name__)


class ForgettingError(FlywheelError):
    """A client cannot be forgotten now; the message names what stands in the way."""


@dataclass(frozen=True)
class Findings:
    """What there is of a client.

    Attributes:
        items: by the name of their place, in the order in which the places are emptied.
        remarks: what stays though it has to do with the client, in sentences.
        begun: when an earlier forgetting of the client began that has not ended; empty: there is none.
    """

    whose: Whose
    items: dict[str, list[Removable]]
    remarks: list[str]
    begun: str

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing of the client."""
        return not any(self.items.values())

    def lines(self) -> list[str]:
        """Return what there is as lines: a champion first, then each place with counts and bytes."""
        lines = [
            f"In production, and goes: {item.note} ({item.id})"
            for item in self.items.get("champions", [])
            if item.note != "nothing in production"
        ]
        for name, items in self.items.items():
            if items:
                count, size = sum(item.count for item in items), sum(item.bytes for item in items)
                ids = ", ".join(item.id for item in items[:3]) + (" …" if len(items) > 3 else "")
                lines.append(f"{name:12} {len(items):6,} items {count:9,} in them {size:14,} bytes   {ids}")
        lines += [f"Stays: {remark}" for remark in self.remarks]
        if self.begun:
            lines.append(f"An earlier forgetting, begun {self.begun}, has not ended: this one ends it.")
        return lines


def find(config: Config, whose: Whose) -> Findings:
    """Return what there is of a client, with what an earlier forgetting has written down.

    Raises:
        ForgettingError: runs of the client are under way; the message names them.
        ArtifactError, StoreError, TrackingError: a place cannot be read.
    """
    house = House(config)
    try:
        _refuse_while_running(house, whose)
        there = places(house)
        items = {place.name: place.of_client(whose) for place in there}
        pending = _pending(house, whose)
        begun = ""
        if house.root.exists(pending):
            intent = house.root.read_json(pending)
            begun = str(intent["at"])
            for name, found in intent["items"].items():
                known = {item.id for item in items.get(name, [])}
                earlier = [Removable(**item) for item in found if item["id"] not in known]
                items.setdefault(name, []).extend(earlier)
        remarks = [remark for place in there for remark in place.remarks(whose)]
        if whose.has(whose.workload_id, config.client_id) and config.source:
            remarks.append(
                f"the sources of the configuration are your own files ({config.source[0].path}, …); they are "
                "this client's, so the next run reads them in again: remove his texts there, too"
            )
        return Findings(whose, items, remarks, begun)
    finally:
        house.close()


def forget(
    config: Config, findings: Findings, *, by: str = "", tell: Callable[[str], None] = log.info
) -> None:
    """Remove what was found; killed, and done again after another `find`, it ends the same.

    Args:
        by: who asks for it; empty: this process's user.
        tell: told of each place that is emptied.

    Raises:
        ForgettingError: runs of the client are under way.
        ArtifactError, StoreError, TrackingError: a place cannot be emptied; do it again.
    """
    house = House(config)
    whose, pending = findings.whose, _pending(house, findings.whose)
    try:
        _refuse_while_running(house, whose)
        at = findings.begun or datetime.now(UTC).isoformat(timespec="seconds")
        items = {name: [asdict(item) for item in found] for name, found in findings.items.items() if found}
        house.root.write_json(pending, {**asdict(whose), "at": at, "items": items})
        for place in places(house):
            if found := findings.items.get(place.name):
                place.remove([item.id for item in found])
                tell(f"{place.name}: {len(found):,} removed")
        _note(house, findings, at, by or getpass.getuser())
        house.root.discard(pending)
        for name in house.root.list(PENDING):  # what a kill has left of writing it
            if name.startswith(f".{pending.rsplit('/', 1)[1]}."):
                house.root.discard(f"{PENDING}/{name}")
    finally:
        house.close()


def under_way(house: House, whose: Whose) -> list[str]:
    """Return the ids of a client's runs that are under way: as Airflow says, else as their files do."""
    found = airflow_of(house)
    if found is not None:
        return [run_id for run_id, state in found.of(house, whose) if state not in ("success", "failed")]
    now = time.time()
    return [
        run.run_id
        for run in house.runs
        if whose.has(run.workload_id, run.client_id) and not run.is_silent(now)
    ]


def _refuse_while_running(house: House, whose: Whose) -> None:
    if running := under_way(house, whose):
        raise ForgettingError(
            f"runs of client {whose.client_id!r} are under way: {', '.join(running[:10])}; wait for them, or "
            "cancel them (POST /api/jobs/ID/cancel). Without Airflow a run counts as under way until it has "
            "ended or nothing was written into its folder for an hour"
        )


def _pending(house: House, whose: Whose) -> str:
    return f"{PENDING}/{key_of('forget', whose.client_id, whose.workload_id)}.json"


def _note(house: House, findings: Findings, at: str, by: str) -> None:
    """Add a line to the log of forgettings; one that was killed after it has written it writes no second."""
    counts = {
        name: {
            "items": len(found),
            "count": sum(i.count for i in found),
            "bytes": sum(i.bytes for i in found),
        }
        for name, found in findings.items.items()
        if found
    }
    line = {"begun": at, "by": by, **asdict(findings.whose), "removed": counts}
    there = house.read(LOG)
    same = [
        known
        for known in map(orjson.loads, there.splitlines())
        if {name: known[name] for name in ("begun", "client_id", "workload_id")}
        == {"begun": at, **asdict(findings.whose)}
    ]
    if not same:
        line["at"] = datetime.now(UTC).isoformat(timespec="seconds")
        house.root.write_bytes(LOG, there + orjson.dumps(line) + b"\n")


__all__ = ["Findings", "ForgettingError", "Place", "find", "forget", "under_way"]
