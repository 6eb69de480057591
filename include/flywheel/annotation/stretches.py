"""Which champion labels which texts: the timeline as stretches, each with who was in force.

Of a text that was known at t, less the lag, the champion is that of the last decision strictly before: the
decision, and all that the student was made of, lie before the text. Where there was none, or a person had
put the teacher back, nobody labels: the text is a row without a label, with the reason.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from flywheel.annotation.knowledge import Knowledge, knowledge_of
from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.common.utc import to_second
from flywheel.promotion.champion import Champion, read_champion
from flywheel.promotion.timeline import Entry, Timeline

BEFORE_ALL = "no champion yet: no night had promoted one"


class Stretch(BaseModel):
    """From when on, and by whom, texts are labelled.

    Attributes:
        at: unix seconds: of texts that are known after it, less the lag.
        entry: name of the timeline's entry that decided so; empty before the first, and of today's champion.
        kind: of that entry: night, backfill or person; today: of today's champion.
        champion: who labels; None: nobody, and `reason` says why.
        cutoff: unix seconds: champion and decision know nothing of this time or later.
        planned_at: unix seconds: what persons wrote for it was written by then.
        workload_version, classes: of the prompt that it was trained with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: int
    entry: str = ""
    kind: str = ""
    champion: Champion | None = None
    reason: str = ""
    cutoff: int | None = None
    planned_at: int | None = None
    workload_version: str = ""
    classes: tuple[str, ...] = ()

    @property
    def adapter(self) -> str | None:
        """Key of the adapter that labels; None: nobody does."""
        return self.champion.adapter if self.champion else None


def stretches_of(line: Timeline, since: int = 0) -> list[Stretch]:
    """Return the stretches of a timeline, oldest first, beginning with the one before the first champion.

    Nights that kept the champion begin no stretch.

    Args:
        since: unix seconds: stretches that had ended before need not be there.

    Raises:
        ArtifactError: what a champion knows of cannot be told.
    """
    turns: list[Entry] = []
    for entry in line.counting():
        if not turns or entry.adapter is None or entry.adapter != turns[-1].adapter:
            turns.append(entry)
    first = max(bisect.bisect_left([entry.at for entry in turns], since) - 1, 0)
    return [Stretch(at=-1, reason=BEFORE_ALL), *(_stretch(line.root, entry) for entry in turns[first:])]


def today(root: ArtifactRoot, workload_id: str, client_id: str) -> list[Stretch]:
    """Return one stretch, of the champion in force.

    Raises:
        ArtifactError: there is none.
    """
    champion = read_champion(root, workload_id, client_id)
    if champion is None:
        raise ArtifactError(
            f"workload {workload_id!r}, client {client_id!r}: no champion is in force; let a run promote one "
            "first, or label point in time by the champions of backfilled nights"
        )
    knows = knowledge_of(root, champion)
    return [
        Stretch(
            at=-1,
            kind="today",
            champion=champion,
            cutoff=knows.until,
            planned_at=knows.written_until,
            workload_version=knows.workload_version,
            classes=knows.classes,
        )
    ]


def stretch_at(ats: Sequence[int], known_at: int, lag: int) -> int:
    """Return the place of the stretch whose champion labels a text.

    Args:
        ats: the stretches' `at`, rising, the first before all times.
        known_at, lag: unix seconds, and seconds.
    """
    return max(bisect.bisect_left(ats, known_at - lag) - 1, 0)


def doubt(knows: Knowledge, entry: Entry) -> str:
    """Return in words why a champion may have known more than its decision; a clock was wrong, as a rule."""
    if knows.until > entry.at:
        return f"knows of {to_second(knows.until - 1)}, after its decision of {to_second(entry.at)}"
    if knows.undated:
        return f"learned from {knows.undated:,} records of which nobody knows when they were known"
    return f"was examined on {knows.foreign:,} records that are not of its data set"


def _stretch(root: ArtifactRoot, entry: Entry) -> Stretch:
    champion = entry.champion
    if champion is None:
        return Stretch(at=entry.at, entry=entry.name, kind=entry.kind, reason=f"nobody: {entry.reason}")
    try:
        knows = knowledge_of(root, champion)
    except ArtifactError as error:
        raise ArtifactError(
            f"{champion.name} of run {champion.run_id}, in the timeline from {entry.name} on, cannot be "
            f"shown to know nothing of later: {error}"
        ) from None
    if knows.until > entry.at or knows.undated or knows.foreign:
        reason = f"nobody: {champion.name} of run {champion.run_id} {doubt(knows, entry)}"
        return Stretch(at=entry.at, entry=entry.name, kind=entry.kind, reason=reason)
    return Stretch(
        at=entry.at,
        entry=entry.name,
        kind=entry.kind,
        champion=champion,
        cutoff=entry.at,
        planned_at=knows.written_until,
        workload_version=knows.workload_version,
        classes=knows.classes,
    )
