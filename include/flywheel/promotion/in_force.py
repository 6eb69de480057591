"""Which champion was in force at which time, by the timeline: stretches of time, each with who and why.

A stretch begins with a decision that changed the champion and ends where the next one begins. Nights that
changed nothing lie in it, with what they decided. Where no champion was, the stretch says why: nothing had
been decided yet, no candidate was good enough, a person held them back, or put the teacher back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flywheel.common.utc import to_minute
from flywheel.promotion.champion import Champion
from flywheel.promotion.timeline import Entry, Timeline

NOTHING_YET = "No night had decided anything: there was no champion yet."
DAY = 86_400


class InForce(BaseModel):
    """A stretch of time with one champion, or with none.

    Attributes:
        since: unix seconds: of what is decided strictly after it; None: from the beginning on.
        until: unix seconds: up to it, and itself; None: it lasts.
        champion: who answers; None: the teacher.
        by: the person who decided that it begins; empty where the rules did.
        kind: of that decision; empty before the first.
        reason: of it, in words; of a stretch without a champion why there is none.
        unchanged: how many decisions in it changed nothing, by what they were: kept, held, refused, ...
        last: what the latest of these said.
        behind: seconds from the champion's cutoff to the end of the stretch, or now: what it had not seen.
        in_line: its decision was compared with the champion that stands before it.
    """

    model_config = ConfigDict(frozen=True)

    since: int | None
    until: int | None
    champion: Champion | None
    by: str = ""
    kind: Literal["", "backfill", "night", "person"] = ""
    reason: str
    unchanged: dict[str, int] = Field(default_factory=dict)
    last: str = ""
    behind: int | None = None
    in_line: bool = True

    def lines(self) -> list[str]:
        """Return it in words, a line for what it is and one for each thing more."""
        start = to_minute(self.since) if self.since is not None else "the beginning"
        end = to_minute(self.until) if self.until is not None else "now"
        who = "the teacher"
        if self.champion is not None:
            seen = f"knows until {to_minute(self.champion.cutoff)}"
            behind = f", {self.behind / DAY:,.1f} days before the end" if self.behind is not None else ""
            who = f"{self.champion.name} of run {self.champion.run_id} ({seen}{behind})"
        how = f", by {self.by}" if self.by else ", by the rules" if self.champion else ""
        past = ", in the past: it would have been" if self.kind == "backfill" else ""
        found = [f"{start} to {end}  {who}{how}{past}", f"    {self.reason}"]
        if self.unchanged:
            said = ", ".join(f"{name} {count}" for name, count in self.unchanged.items())
            count = sum(self.unchanged.values())
            decisions = "1 decision" if count == 1 else f"{count} decisions"
            found.append(f"    {decisions} changed nothing ({said}): {self.last}")
        if not self.in_line:
            found.append("    compared with another champion than stands before it now: backfill it anew")
        return found


def in_force(line: Timeline, now: int | None = None) -> list[InForce]:
    """Return who was in force, oldest first, from the beginning until now without a gap between stretches.

    Args:
        now: unix seconds; None: of the clock.

    Raises:
        ArtifactError: an entry of the timeline is damaged.
    """
    entries = line.counting()
    end = int(time.time()) if now is None else now
    turns: list[list[Entry]] = []
    for entry in entries:
        if turns and entry.adapter == turns[-1][0].adapter:
            turns[-1].append(entry)
        else:
            turns.append([entry])
    first = entries[0].at if entries else None
    found = [InForce(since=None, until=first, champion=None, reason=NOTHING_YET)]
    for place, turn in enumerate(turns):
        until = turns[place + 1][0].at if place + 1 < len(turns) else None
        before = turns[place - 1][0].adapter if place else None
        found.append(_stretch(turn, until, before, end))
    return found


def _stretch(turn: Sequence[Entry], until: int | None, before: str | None, now: int) -> InForce:
    began, rest = turn[0], turn[1:]
    champion = began.champion
    return InForce(
        since=began.at,
        until=until,
        champion=champion,
        by=began.by,
        kind=began.kind,
        reason=began.reason,
        unchanged=dict(Counter(entry.decision for entry in rest).most_common()),
        last=f"{to_minute(rest[-1].at)}: {rest[-1].reason}" if rest else "",
        behind=(now if until is None else until) - champion.cutoff if champion else None,
        in_line=began.before == before,
    )
