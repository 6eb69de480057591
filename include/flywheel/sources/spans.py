"""From when to when a source's texts are, how many lie after the cutoff, and whether that can be right.

A feed that has stopped, an old file in the place of a new one, a wrong zone or unit: rows are read, nothing
fails, and a student learns from the wrong days. What the last runs saw of a source is in the artifact root:

    sources/<key>.json      {"path": ..., "seen": [{"run_id", "cutoff", "newest"}, ...]}, in order of cutoffs
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.utc import to_minute
from flywheel.config.source import SourceConfig

log = logging.getLogger(__name__)

# So many runs are remembered; by fewer than LEAST_SEEN a feed's usual lag is not known.
MOST_SEEN = 30
LEAST_SEEN = 3
# A source of which no larger share than this lies before the cutoff lies after it as a whole.
_SHARE_BEFORE = 0.01
_DAY = 86_400


class SourceSpan(BaseModel):
    """The times of a source's usable rows, in unix seconds; None where there are none.

    Attributes:
        key: its place in the configuration, such as `source.0`.
        rows: that have a time; `later` of them are known at or after the cutoff, left for later runs.
        newest: the latest of those before the cutoff.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    path: str
    rows: int
    later: int
    earliest: int | None = None
    latest: int | None = None
    newest: int | None = None

    def line(self) -> str:
        """Return it in a sentence."""
        if self.earliest is None or self.latest is None:
            return f"{self.path}: no text with a time"
        after = f", {self.later:,} of them after the cutoff" if self.later else ""
        texts = f"{self.rows:,} texts" if self.rows != 1 else "1 text"
        return f"{self.path}: {texts} from {_said(self.earliest)} to {_said(self.latest)}{after}"


class Span:
    """Takes note of times while a source is read."""

    __slots__ = ("earliest", "later", "latest", "newest", "rows")

    def __init__(self) -> None:
        self.rows = self.later = 0
        self.earliest: int | None = None
        self.latest: int | None = None
        self.newest: int | None = None

    def add(self, timestamp: int, is_later: bool) -> None:
        """Take note of a row's time, unix seconds."""
        self.rows += 1
        if self.earliest is None or timestamp < self.earliest:
            self.earliest = timestamp
        if self.latest is None or timestamp > self.latest:
            self.latest = timestamp
        if is_later:
            self.later += 1
        elif self.newest is None or timestamp > self.newest:
            self.newest = timestamp

    def of(self, key: str, source: SourceConfig) -> SourceSpan:
        """Return what was seen of a source."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return SourceSpan(key=key, path=source.path, **values)


class SourceSpans:
    """The spans of the sources that a stage reads."""

    def __init__(self) -> None:
        self._spans: dict[str, tuple[SourceConfig, Span]] = {}

    def of(self, key: str, source: SourceConfig) -> Span:
        """Return what takes note of the times of a source, which is about to be read."""
        return self._spans.setdefault(key, (source, Span()))[1]

    def all(self) -> tuple[SourceSpan, ...]:
        """Return the spans, and log each."""
        found = tuple(span.of(key, source) for key, (source, span) in self._spans.items())
        for span in found:
            log.info("%s", span.line())
        return found

    def doubts(self, root: ArtifactRoot, whose: Sequence[str], run_id: str, cutoff: int) -> tuple[str, ...]:
        """Return what speaks against the times of each source, and log it; see `doubts_of`."""
        doubts: list[str] = []
        for key, (source, span) in self._spans.items():
            doubts += doubts_of(root, whose, run_id, cutoff, span.of(key, source), source)
        for doubt in doubts:
            log.warning("%s", doubt)
        return tuple(doubts)


def doubts_of(
    root: ArtifactRoot, whose: Sequence[str], run_id: str, cutoff: int, span: SourceSpan, source: SourceConfig
) -> list[str]:
    """Return what speaks against the times of a source, and remember what this run has seen of it.

    Runs of later cutoffs are not looked at, so that a night that is made up for is told what it would have
    been told then.

    Args:
        whose: workload and client.
        cutoff: unix seconds.
    """
    path = f"sources/{key_of('source', list(whose), source.path, source.columns.timestamp)}.json"
    there: dict[str, Any] = root.read_json(path) if root.exists(path) else {"path": source.path, "seen": []}
    there |= dict(zip(("workload_id", "client_id"), whose, strict=True))  # by which it is forgotten with him
    others = [seen for seen in there["seen"] if seen["run_id"] != run_id]
    before = [seen for seen in others if seen["cutoff"] <= cutoff]
    doubts = [said for said in (_is_ahead(span, cutoff), _is_stale(span, cutoff, source, before)) if said]
    if span.newest is not None:
        own = {"run_id": run_id, "cutoff": cutoff, "newest": span.newest}
        there["seen"] = sorted([*others, own], key=lambda seen: int(seen["cutoff"]))[-MOST_SEEN:]
        root.write_json(path, there)
    return doubts


def _is_ahead(span: SourceSpan, cutoff: int) -> str:
    if not span.later or span.rows - span.later > _SHARE_BEFORE * span.rows:
        return ""
    what = "all" if span.later == span.rows else f"{span.later:,} of"
    return (
        f"{span.key}: {what} {span.rows:,} texts of {span.path} lie after the cutoff {_said(cutoff)}, from "
        f"{_said(span.earliest)} on: are their times right ({span.key}.columns.timestamp, time_format, "
        "time_zone), and is the cutoff?"
    )


def _is_stale(span: SourceSpan, cutoff: int, source: SourceConfig, seen: Sequence[dict[str, Any]]) -> str:
    if span.newest is None:
        return ""
    newest, age = span.newest, cutoff - span.newest
    text = f"{span.key}: the newest text of {span.path} before the cutoff is of {_said(newest)}"
    known = max((entry["newest"] for entry in seen), default=newest)
    if known > newest:
        return f"{text}, but an earlier run has seen one of {_said(known)}: has an old file come back?"
    if source.stale_after is not None:
        allowed = f"{span.key}.stale_after allows {_duration(source.stale_after)}"
        return f"{text}, {_duration(age)} before it; {allowed}" if age > source.stale_after else ""
    # Runs that have seen the same newest text already are part of the silence, not of what is usual.
    ages = [entry["cutoff"] - entry["newest"] for entry in seen if entry["newest"] != newest]
    if len(ages) >= LEAST_SEEN and age > max(_DAY, 2 * max(ages)):
        return (
            f"{text}, {_duration(age)} before it; the last {len(ages)} runs had one of at most "
            f"{_duration(max(ages))}: has the feed stopped? ({span.key}.stale_after says what is usual)"
        )
    return ""


def _said(seconds: int | None) -> str:
    return to_minute(seconds or 0)


def _duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 2 * _DAY else f"{seconds / _DAY:.1f} days"
