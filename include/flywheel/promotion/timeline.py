"""Which student would be in production at each night's cutoff, by the rules and the past alone.

    champions/<workload>/<client>/timeline/<time>-<kind>-<of>.json      one entry for each night, each run

Each night writes an entry, promoted or not; `time` is its cutoff. A person's promotion or roll-back is an
entry at its time by the clock on the wall. The champion at a time is that of the last entry before it. Of
entries at the same time a person's counts most, then that of a night that could change production, then a
backfilled one's; of two alike the one that was written last.

A night lies in the past (`Timeline.is_past`) where it is a backfill, or where its cutoff is before that of a
later night or of the champion in force. It is compared with the champion of the timeline at its cutoff, adds
its own entry, and leaves alone what is in force.

Nights may end in any order. An entry that is written late changes no later one: each keeps the adapter that
it was compared with, `before`, so that a reader sees where the line is broken (`Placed.in_line`), and can
backfill anew what comes after. A run that is repeated finds its entry, and replaces it where the outcome is
another.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.common.utc import to_minute
from flywheel.promotion.champion import Champion, Decision, champion_folder, read_champion, seconds
from flywheel.runs.plan import Plan

# Which entry of two at the same time counts: the later one here.
KINDS = ("backfill", "night", "person")
_NAME = re.compile(rf"(\d{{12}})-({'|'.join(KINDS)})-([0-9a-f]{{12}})\.json")


class Entry(BaseModel):
    """What a night, or a person, decided.

    Attributes:
        at: unix seconds: the night's cutoff; of a person's decision the time of it.
        kind: night: it could change what is in force. backfill: it lay in the past. person: by hand.
        run_id: of the night; of a person's decision the run that the champion comes from.
        decision: kept: the choice was the champion already. none: no candidate was good enough. refused: one
            was, but the rules did not let it pass.
        reason: in words.
        candidate: the night's choice, as `1b @ 5000`.
        champion: who would be in production after it; None: the teacher.
        before: key of the adapter in production before, with which it was compared; None: there was none.
        compared_with: name of the entry that said so; None where what was in force did.
        by: the person who decided; empty where the rules did.
        written_at: ISO 8601, UTC.
        sequence: of a person's decision its number among all (flywheel.promotion.champion); it gives the
            order of two at the same time.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: int
    kind: Literal["backfill", "night", "person"]
    run_id: str
    decision: Literal["promoted", "kept", "none", "held", "rejected", "refused", "rolled back"]
    reason: str
    candidate: str | None = None
    champion: Champion | None
    before: str | None
    compared_with: str | None = None
    by: str = ""
    written_at: str
    sequence: int | None = None

    @property
    def name(self) -> str:
        """The name of its file."""
        of = _digits(self.run_id if self.kind != "person" else f"{self.run_id} {self.decision}")
        if self.sequence is not None:
            of = f"{self.sequence:012x}"
        return f"{self.at:012d}-{self.kind}-{of}.json"

    @property
    def adapter(self) -> str | None:
        """Key of the adapter that would be in production; None: the teacher."""
        return self.champion.adapter if self.champion else None


class Placed(Entry):
    """An entry in its place in the timeline.

    Attributes:
        in_line: it was compared with the champion that the entry before it names. False where that one was
            written, or changed, later: backfill this night anew to have it compared with today's.
    """

    in_line: bool

    def line(self) -> str:
        """Return it as a line of text."""
        when = to_minute(self.at)
        champion = f"{self.champion.name} of run {self.champion.run_id}" if self.champion else "the teacher"
        what = f"{self.decision} by {self.by}" if self.by else self.decision
        broken = "" if self.in_line else "  [compared with another champion than stands before it now]"
        return f"{when}  {self.kind:8}  {what:12}  {champion}{broken}\n    {self.reason}"


class Timeline:
    """The timeline of a workload and client."""

    def __init__(self, root: ArtifactRoot, workload_id: str, client_id: str) -> None:
        self.root = root
        self.workload_id = workload_id
        self.client_id = client_id
        self.folder = f"{champion_folder(workload_id, client_id)}/timeline"

    @classmethod
    def of(cls, root: ArtifactRoot, plan: Plan) -> Timeline:
        """Return the timeline that a run belongs to."""
        return cls(root, plan.workload_id, plan.client_id)

    def names(self) -> list[str]:
        """Return the names of all entries, oldest first."""
        names = [name for name in self.root.list(self.folder) if _NAME.fullmatch(name)]
        return sorted(names, key=lambda name: (_at(name), KINDS.index(_kind(name)), name))

    def read(self, name: str) -> Entry:
        """Return an entry.

        Raises:
            ArtifactError: it is damaged.
        """
        path = f"{self.folder}/{name}"
        try:
            return Entry.model_validate(self.root.read_json(path))
        except ValidationError as error:
            detail = error.errors()[0]
            key = ".".join(map(str, detail["loc"]))
            anew = "clear the task `promote` of its run, which writes it anew"
            if _kind(name) == "person":
                anew = "`flywheel champion restore` writes it anew"
            raise ArtifactError(
                f"{self.root.url}/{path}: not an entry of the timeline: {key}: {detail['msg']}; remove "
                f"it; {anew}"
            ) from None

    def entry_before(self, at: int) -> Entry | None:
        """Return the last entry strictly before a time; None where there is none."""
        names = [name for name in self.names() if _at(name) < at]
        if not names:
            return None
        last = [name for name in names if (_at(name), _kind(name)) == (_at(names[-1]), _kind(names[-1]))]
        return max(map(self.read, last), key=_written)

    def counting(self) -> list[Entry]:
        """Return the entries that count, one of each time, oldest first; see `entry_before`."""
        names = self.names()
        last = {_at(name): _kind(name) for name in names}
        of_a_time: dict[int, list[Entry]] = {}
        for name in names:
            if last[_at(name)] == _kind(name):
                of_a_time.setdefault(_at(name), []).append(self.read(name))
        return [max(entries, key=_written) for entries in of_a_time.values()]

    def champion_at(self, at: int) -> Champion | None:
        """Return the champion at a time, by what was decided before it; None: the teacher."""
        entry = self.entry_before(at)
        return entry.champion if entry else None

    def champions_between(self, start: int, end: int) -> list[Champion]:
        """Return all champions that there were from a time until before another, oldest first."""
        first = self.entry_before(start)
        inside = [self.read(name) for name in self.names() if start <= _at(name) < end]
        found = {
            entry.champion.adapter: entry.champion
            for entry in [*([first] if first else []), *inside]
            if entry.champion
        }
        return list(found.values())

    def entries(self, limit: int | None = None, offset: int = 0) -> list[Placed]:
        """Return entries, the latest first.

        Args:
            limit: so many at most; None: all.
            offset: pass over so many.
        """
        names = self.names()[::-1][offset:]
        wanted = [self.read(name) for name in (names if limit is None else names[: limit + 1])]
        wanted.sort(key=lambda entry: (entry.at, KINDS.index(entry.kind), *_written(entry)), reverse=True)
        return _placed(wanted)[:limit]

    def is_past(self, plan: Plan) -> bool:
        """Return whether a run's night lies in the past, so that it changes nothing that is in force."""
        if plan.is_backfill:
            return True
        own = _digits(plan.run_id)
        later = [
            _at(name) for name in self.names() if _kind(name) == "night" and not name.endswith(f"{own}.json")
        ]
        standing = read_champion(self.root, self.workload_id, self.client_id)
        if standing is not None and standing.run_id != plan.run_id:
            later.append(standing.cutoff)
        return plan.cutoff < max(later, default=plan.cutoff)

    def write(self, entry: Entry) -> Entry:
        """Keep an entry; return it, or the one of the same run that says the same already.

        Another one of the same run is replaced: of a night there is one entry for each run.
        """
        own = [name for name in self.names() if entry.kind != "person" and _is_of(name, entry)]
        for name in own:
            there = self.read(name)
            if _said(there) == _said(entry):
                return there
        self.root.write_json(f"{self.folder}/{entry.name}", entry.model_dump(mode="json"))
        for name in own:
            if name != entry.name:  # it lay in the past this time, and not before, or the other way round
                self.root.discard(f"{self.folder}/{name}")
        return entry


def compared_champion(root: ArtifactRoot, plan: Plan) -> Champion | None:
    """Return the champion that a run's candidates are compared with.

    It is the one in force; of a night in the past, the one of the timeline at its cutoff.
    """
    line = Timeline.of(root, plan)
    if line.is_past(plan):
        return line.champion_at(plan.cutoff)
    return read_champion(root, plan.workload_id, plan.client_id)


def enter_person(root: ArtifactRoot, decision: Decision) -> None:
    """Enter a person's decision that changed the champion, at its time; one that is there stays."""
    assert decision.champion is not None
    champion = decision.champion
    entry = Entry(
        at=seconds(decision.at),
        kind="person",
        run_id=champion.run_id,
        decision="rolled back" if decision.kind == "rolled back" else "promoted",
        reason=" ".join(filter(None, (champion.reason, champion.comment))),
        candidate=champion.name,
        champion=champion,
        before=decision.replaced,
        by=decision.by,
        written_at=now(),
        sequence=decision.sequence,
    )
    line = Timeline(root, champion.workload_id, champion.client_id)
    older = entry.model_copy(update={"sequence": None})  # by a flywheel whose decisions had no numbers
    if not any(root.exists(f"{line.folder}/{one.name}") for one in (entry, older)):
        line.write(entry)


def now() -> str:
    """Return the time, as entries have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _placed(entries: Sequence[Entry]) -> list[Placed]:
    """Say of entries, the latest first, which are in line; the last one is taken as the first of all."""
    placed = []
    for index, entry in enumerate(entries):
        earlier = next((other for other in entries[index + 1 :] if _comes_before(other, entry)), None)
        same = (earlier.adapter if earlier else None) == entry.before
        placed.append(Placed(**dict(entry), in_line=same))
    return placed


def _comes_before(one: Entry, other: Entry) -> bool:
    """Return whether an entry counts before another; two decisions of persons may be of one second."""
    if one.at == other.at and one.sequence is not None and other.sequence is not None:
        return one.sequence < other.sequence
    return one.at < other.at


def _said(entry: Entry) -> tuple[object, ...]:
    """Return what makes two entries of a run the same; how it came to be known may differ."""
    return (entry.at, entry.decision, entry.candidate, entry.adapter, entry.before)


def _is_of(name: str, entry: Entry) -> bool:
    return _kind(name) != "person" and name.endswith(f"-{_digits(entry.run_id)}.json")


def _written(entry: Entry) -> tuple[int, str, str]:
    return entry.sequence or 0, entry.written_at, entry.name


def _at(name: str) -> int:
    return int(name[:12])


def _kind(name: str) -> str:
    return name.split("-")[1]


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
