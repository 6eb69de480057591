"""The texts of the operator's sources, sorted into shards of time: one pass, in memory that stays flat.

Rows are spilled to a file for each day, as they come; each day is then sorted by (published, id), without
doubles, and goes into its shard. So memory holds one day at most, whatever the number of texts. A shard is
`shard_days` days of a month, named by its first: `2019-03-01`; a text's day and month are those of its time
in UTC.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.annotation.rows import ROW_GROUP, row_id, text_hash
from flywheel.common.errors import ConfigError
from flywheel.config import Config
from flywheel.sources import Headline, read_headlines
from flywheel.sources.quarantine import Quarantine

_DAY = 86_400
# Rows that wait in memory for their days' files.
_SPILLED = 20_000
TEXTS_SCHEMA = pa.schema(
    [("id", pa.string()), ("published", pa.int64()), ("known_at", pa.int64()), ("text", pa.string())]
)


@dataclass(frozen=True)
class Text:
    """A text of a source; `published` and `known_at` are unix seconds."""

    id: str
    published: int
    known_at: int
    text: str


@dataclass(frozen=True)
class Spread:
    """What a pass over the sources gave.

    Attributes:
        shards: the file of each shard's texts, by its name, in order.
        counts: of rows: `read`, and of these `taken`, `doubled` (the same text and time again; the earlier
            `known_at` counts), `outside` the span, `undated` and `quarantined`.
    """

    shards: dict[str, Path]
    counts: dict[str, int]


def spread(config: Config, start: int, end: int, folder: Path) -> Spread:
    """Sort the texts with a time in [start, end) into shards.

    Args:
        start, end: unix seconds.
        folder: for the shards' files; what is in it goes.

    Raises:
        ConfigError: there is no source of headlines.
        SourceError: one cannot be read.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    counts: Counter[str] = Counter()
    with Quarantine(folder / "quarantine.jsonl") as quarantine:
        days = _spill(headlines(config, quarantine, counts), start, end, folder, counts)
    counts["quarantined"] += quarantine.count
    counts["read"] += quarantine.count
    shards: dict[str, list[int]] = {}
    for day in sorted(days):
        shards.setdefault(shard_of(day * _DAY, config.annotation.shard_days), []).append(day)
    files = {}
    for name, of_shard in shards.items():
        files[name] = folder / f"{name}.texts"
        _write(files[name], (folder / f"{day}.day" for day in of_shard), counts)
    return Spread(files, {name: counts[name] for name in sorted(counts)})


def headlines(config: Config, quarantine: Quarantine, counts: Counter[str]) -> Iterator[Headline]:
    """Yield the dated headlines of all sources of a config; `counts` has `read` and `undated`.

    Raises:
        ConfigError: there is no source of headlines.
        SourceError: one cannot be read.
    """
    sources = [(index, source) for index, source in enumerate(config.source) if source.kind == "headlines"]
    if not sources:
        raise ConfigError("source: expected one of kind headlines, whose texts are to be labelled")
    for index, source in sources:
        for headline in read_headlines(source, quarantine, key=f"source.{index}"):
            counts["read"] += 1
            if headline.known_at is None:
                counts["undated"] += 1
            else:
                yield headline


def shard_of(published: int, shard_days: int) -> str:
    """Return the name of the shard that a time lies in: its first day, `2019-03-01`."""
    day = datetime.fromtimestamp(published, UTC)
    return f"{day:%Y-%m}-{(day.day - 1) // shard_days * shard_days + 1:02d}"


def text_of(headline: Headline) -> Text:
    """Return a headline with a time as a text."""
    assert headline.known_at is not None
    found = row_id(text_hash(headline.text), headline.timestamp)
    return Text(found, headline.timestamp, headline.known_at, headline.text)


def read_texts(path: Path) -> Iterator[Text]:
    """Yield the texts of a shard's file, in order, holding one row group."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            columns = file.read_row_group(group).to_pydict()
            yield from map(Text, *(columns[name] for name in TEXTS_SCHEMA.names))


def _spill(found: Iterable[Headline], start: int, end: int, folder: Path, counts: Counter[str]) -> set[int]:
    waiting: dict[int, list[bytes]] = {}
    days: set[int] = set()
    held = 0

    def flush() -> None:
        for day, lines in waiting.items():
            with (folder / f"{day}.day").open("ab") as file:
                file.write(b"".join(lines))
        waiting.clear()

    for headline in found:
        if not start <= headline.timestamp < end:
            counts["outside"] += 1
            continue
        one = text_of(headline)
        line = [one.id, one.published, one.known_at, one.text]
        day = one.published // _DAY
        days.add(day)
        waiting.setdefault(day, []).append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        held += 1
        if held >= _SPILLED:
            flush()
            held = 0
    flush()
    return days


def _write(path: Path, days: Iterable[Path], counts: Counter[str]) -> None:
    group: list[Text] = []
    with pq.ParquetWriter(path, TEXTS_SCHEMA, compression="zstd") as writer:

        def flush() -> None:
            columns = [[getattr(one, name) for one in group] for name in TEXTS_SCHEMA.names]
            arrays = [pa.array(c, field.type) for c, field in zip(columns, TEXTS_SCHEMA, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=TEXTS_SCHEMA))
            group.clear()

        for day in days:
            for one in _sorted(day, counts):
                group.append(one)
                if len(group) == ROW_GROUP:
                    flush()
            day.unlink()
        if group:
            flush()


def _sorted(day: Path, counts: Counter[str]) -> Iterator[Text]:
    with day.open("rb") as file:
        texts = sorted(
            (Text(*orjson.loads(line)) for line in file),
            key=lambda one: (one.published, one.id, one.known_at),
        )
    before = ""
    for one in texts:
        if one.id == before:
            counts["doubled"] += 1
            continue
        before = one.id
        counts["taken"] += 1
        yield one
