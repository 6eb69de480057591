"""The headlines of a source: text, time and, where there is one, the label that a person gave."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from flywheel.common.errors import SourceError
from flywheel.config.source import SourceConfig
from flywheel.sources.files import files_of
from flywheel.sources.quarantine import Quarantine
from flywheel.sources.rows import SourceRow, rows_of
from flywheel.sources.spans import Span
from flywheel.sources.time_column import TimeColumn
from flywheel.sources.timestamps import TimeReader

MAX_TEXT_CHARACTERS = 10_000
MAX_LABEL_CHARACTERS = 1000
# What bytes that are not UTF-8 were read as.
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Headline:
    """A text to label.

    Attributes:
        text: on one line, without spaces around it.
        timestamp: unix seconds; 0 where the source has no times.
        known_at: unix seconds from which it counts as known; None where the source has no times: such a text
            serves the check of the teacher alone.
        human_label: as the person wrote it; None without one.
        file: where it stood.
        line: and on which line.
    """

    text: str
    timestamp: int
    known_at: int | None
    human_label: str | None
    file: str
    line: int


def read_headlines(
    source: SourceConfig,
    quarantine: Quarantine,
    *,
    key: str = "source",
    before: int | None = None,
    counts: Counter[str] | None = None,
    span: Span | None = None,
) -> Iterator[Headline]:
    """Yield the headlines of a source, file by file; memory does not grow with their number.

    Args:
        source: files and columns.
        quarantine: takes the rows that cannot be used.
        key: the source's place in the configuration, for messages.
        before: unix seconds; headlines that are not known before are left for later runs.
        counts: counts rows by what became of them: `used`, `later`, `quarantined`; and `passed_over`, texts
            without a time and without a person's label, which serve nothing.
        span: takes note of the times.

    Raises:
        SourceError: no such file, an unreadable one, a column that a file lacks altogether, a column of times
            of which a share cannot be read, or a source of which not one row can be used.
    """
    counts = Counter() if counts is None else counts
    start = Counter(counts)
    reader = TimeReader(ZoneInfo(source.time_zone), source.time_format)
    columns = columns_of(source, key)
    first_problem = ""
    for file in files_of(source, key):
        times = TimeColumn(file, source.columns.timestamp, reader, key) if source.columns.timestamp else None
        for row in rows_of(file, columns):
            headline = headline_of(row, source, times, file.name)
            if isinstance(headline, str):
                counts["quarantined"] += 1
                first_problem = first_problem or f"{file.name}, line {row.line}: {headline}"
                quarantine.add(file.name, row.line, headline, row.raw or row.values)
                continue
            if headline.known_at is None and headline.human_label is None:
                counts["passed_over"] += 1
                continue
            is_later = before is not None and headline.known_at is not None and headline.known_at >= before
            if span is not None and headline.known_at is not None:
                span.add(headline.timestamp, is_later)
            counts["later" if is_later else "used"] += 1
            if not is_later:
                yield headline
        if times is not None:
            times.check()
    if first_problem and all(counts[name] == start[name] for name in ("used", "later", "passed_over")):
        raise SourceError(
            f"{source.path}: not one row can be used (key {key}.columns); the first: {first_problem}"
        )


def clean_text(text: str) -> str:
    """Return a text on one line: each run of white space is one space, none is left around it."""
    return " ".join(text.split())


def columns_of(source: SourceConfig, key: str) -> dict[str, str]:
    """Return the columns to read, each with the key of the configuration that names it."""
    names = {
        "text": source.columns.text,
        "timestamp": source.columns.timestamp,
        "human_label": source.columns.human_label,
    }
    return {name: f"{key}.columns.{field}" for field, name in names.items() if name is not None}


def headline_of(row: SourceRow, source: SourceConfig, times: TimeColumn | None, file: str) -> Headline | str:
    """Return the headline of a row, or the reason why it is none."""
    if row.problem:
        return row.problem
    columns = source.columns
    text = row.values.get(columns.text)
    problem = _problem_of(text, columns.text)
    if problem:
        return problem
    assert isinstance(text, str)
    timestamp, known_at = 0, None
    if times is not None:
        written = row.values.get(columns.timestamp or "")
        if isinstance(written, dict | list):
            return f"{columns.timestamp}: expected a time, got an object or a list"
        try:
            timestamp, known_at = times.read(written, row.line)
            known_at += source.known_after
        except ValueError as error:
            return f"{columns.timestamp}: {error}"
    human_label = None
    if columns.human_label is not None:
        value = row.values.get(columns.human_label)
        if isinstance(value, str):
            if len(value) > MAX_LABEL_CHARACTERS:
                return (
                    f"{columns.human_label}: too long: {len(value)} characters, at most "
                    f"{MAX_LABEL_CHARACTERS} are allowed"
                )
            if _SURROGATE.search(value):
                return f"{columns.human_label}: not valid UTF-8"
            human_label = value.strip() or None
        elif value is not None:
            return f"{columns.human_label}: expected a text, got {type(value).__name__}"
    return Headline(clean_text(text), timestamp, known_at, human_label, file, row.line)


def _problem_of(text: Any, column: str) -> str:
    """Return why a text cannot be a headline; empty if it can."""
    if text is None:
        return f"{column}: missing"
    if not isinstance(text, str):
        return f"{column}: expected a text, got {type(text).__name__}"
    if len(text) > MAX_TEXT_CHARACTERS:
        return f"{column}: too long: {len(text)} characters, at most {MAX_TEXT_CHARACTERS} are allowed"
    if _SURROGATE.search(text):
        return f"{column}: not valid UTF-8"
    if "\x00" in text:
        return f"{column}: contains a NUL character"
    if not text.strip():
        return f"{column}: empty"
    if not any(character.isalnum() for character in text):
        return f"{column}: without a letter or digit"
    return ""
