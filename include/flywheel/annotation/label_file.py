"""Label a file of texts: finished batches lie beside the output until it is whole, so a killed work goes on.

headlines.labels.csv                    appears whole, by a rename
.headlines.labels.csv.parts/            gone then
    of.json                             what the batches were made of: file, column, champion
    00000000.csv, 00000001.csv, ...     finished batches, by number
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from filelock import FileLock, Timeout

from flywheel.annotation.champion import ChampionModel
from flywheel.annotation.model import WINDOW
from flywheel.annotation.text_files import Batch, TextFile, open_texts
from flywheel.annotation.texts import LABEL, PROBABILITY, Texts, columns_of
from flywheel.common.durable import put_in_place
from flywheel.common.errors import SourceError

log = logging.getLogger(__name__)

_VERSION = 1  # of what a batch holds
_DIGITS = 6


@dataclass(frozen=True)
class Labelled:
    """What became of a file.

    Attributes:
        rows: of the file; `missing`: of those labelled now, without a label.
        found: rows that a killed work had labelled before.
        seconds: it took.
    """

    rows: int
    missing: int
    found: int
    seconds: float


def label_file(
    champion: ChampionModel, path: Path, output: Path | None, *, column: str = "", prefix: str = ""
) -> Labelled:
    """Label the texts of a file.

    Args:
        output: the file with labels, which is replaced when all is labelled; None: standard output.
        column: that holds the texts; empty: `text`, else the only one.
        prefix: of the names of the labels' columns.

    Raises:
        SourceError: the file cannot be read, has columns of the labels' names already, or is being labelled
            into that output by another process.
    """
    started = time.monotonic()
    texts = open_texts(path, column)
    columns = [f"{prefix}{name}" for name in (LABEL, PROBABILITY, *columns_of(list(champion.classes_)))]
    if twice := [name for name in columns if name in texts.names]:
        raise SourceError(f"{path}: has a column {twice[0]!r} already; say --prefix, such as champion_")
    made_of = _made_of(champion, path, column, columns)
    with _work(output, made_of) as folder:
        parts: list[Path] = []
        rows = missing = found = 0
        for number, batch in enumerate(texts.batches(WINDOW)):
            part = folder / f"{number:08}{texts.suffix}"
            parts.append(part)
            rows, first = rows + len(batch.texts), rows
            if part.exists():
                found += len(batch.texts)
            else:
                missing += _label(champion, texts, batch, first, columns, part)
                rate = (rows - found) / (time.monotonic() - started)
                log.info("%s: %s rows, %.0f/s", path, f"{rows:,}", rate)
        if output is None:
            texts.join(parts, columns, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            whole = folder / f"whole{texts.suffix}"
            with whole.open("wb") as out:
                texts.join(parts, columns, out)
            put_in_place(whole, output)
    return Labelled(rows, missing, found, time.monotonic() - started)


def output_beside(path: Path, column: str = "") -> Path:
    """Return where the labels of a file go: `headlines.csv` gives `headlines.labels.csv`.

    Raises:
        SourceError: the file is not there or of no known format.
    """
    return path.with_name(f"{path.stem}.labels{open_texts(path, column).suffix}")


def _label(
    champion: ChampionModel, texts: TextFile, batch: Batch, first: int, columns: Sequence[str], part: Path
) -> int:
    """Label a batch into a file of its own; return how many rows have no label."""
    found = champion.ask(Texts(batch.texts, first=first))
    values: list[list[Any]] = []
    rounded = found.probabilities.round(_DIGITS).tolist()
    for answer, likely in zip(found.answers.tolist(), rounded, strict=True):
        known = answer >= 0
        values.append(
            [champion.classes_[answer], likely[answer], *likely] if known else [None] * len(columns)
        )
    aside = part.with_name(f".{part.name}")
    aside.write_bytes(texts.part(batch, columns, values))
    os.replace(aside, part)
    return len(found.refused)


def _made_of(champion: ChampionModel, path: Path, column: str, columns: Sequence[str]) -> bytes:
    status = path.stat()
    parts: dict[str, Any] = {
        "version": _VERSION,
        "file": [str(path.resolve()), status.st_size, status.st_mtime_ns],
        "column": column,
        "columns": columns,
        "adapter": champion.adapter,
        "workload": champion.workload_version,
        "batch": WINDOW,
    }
    return orjson.dumps(parts, option=orjson.OPT_INDENT_2)


@contextmanager
def _work(output: Path | None, made_of: bytes) -> Iterator[Path]:
    """Give the folder of the finished batches, with those of the same work alone; at the end it goes."""
    if output is None:
        with TemporaryDirectory(prefix="flywheel-labels-") as name:
            yield Path(name)
        return
    folder = output.with_name(f".{output.name}.parts")
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SourceError(f"{output}: another process is labelling into it") from None
    try:
        of = folder / "of.json"
        if folder.exists() and not (of.exists() and of.read_bytes() == made_of):
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        of.write_bytes(made_of)
        yield folder
        shutil.rmtree(folder)
    finally:
        lock.release()
        with suppress(OSError):
            Path(f"{folder}.lock").unlink()
