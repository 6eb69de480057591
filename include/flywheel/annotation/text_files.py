"""Files of texts that get their labels beside them: CSV, JSON lines, Parquet, and one text a line.

What a row holds stays as it was read; the labels follow in columns of their own. A format gives batches of
rows, makes the finished bytes of each batch by itself, and joins them: so a labelled batch is a file that a
killed process leaves behind, and that the next one finds.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from flywheel.common.batching import batched
from flywheel.common.errors import SourceError

_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Batch:
    """Rows of a file.

    Attributes:
        texts: to be labelled; None where a row has none: [N].
        rows: what else is needed to write them again.
    """

    texts: list[str | None]
    rows: Any


class TextFile(Protocol):
    """A file of texts, in one format.

    Attributes:
        suffix: of the file with labels.
        names: its columns, as far as the first row tells.
    """

    suffix: str
    names: list[str]

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield its rows in order.

        Raises:
            SourceError: a row cannot be read; the message names file and line.
        """

    def part(self, batch: Batch, columns: Sequence[str], values: Sequence[Sequence[Any]]) -> bytes:
        """Return a batch with its labels as a file of its own.

        Args:
            columns: names of the labels' columns: [K].
            values: of each row: [N][K]; None for none.
        """

    def join(self, parts: Sequence[Path], columns: Sequence[str], out: BinaryIO) -> None:
        """Write all batches as one file."""


def open_texts(path: Path, column: str) -> TextFile:
    """Open a file of texts by its suffix.

    Args:
        column: that holds the texts; empty: `text`, else the only one.

    Raises:
        SourceError: there is no such file or column, or its format is not known.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            return _Csv(path, column)
        if suffix in (".jsonl", ".ndjson"):
            return _Jsonl(path, column)
        if suffix in (".parquet", ".pq"):
            return _Parquet(path, column)
        if suffix == ".txt":
            return _Lines(path)
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    raise SourceError(
        f"{path}: expected .csv, .tsv, .jsonl, .ndjson, .parquet, .pq or .txt, got {suffix or 'no suffix'!r}"
    )


def _chosen(path: Path, names: Sequence[str], column: str) -> str:
    if column in names:
        return column
    if not column and "text" in names:
        return "text"
    if not column and len(names) == 1:
        return names[0]
    near = difflib.get_close_matches(column, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    wanted = f"no column {column!r}{hint}" if column else "which column holds the texts? say --column"
    raise SourceError(f"{path}: {wanted}; it has {', '.join(names) or 'none'}")


class _Csv:
    suffix = ""

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self.suffix = path.suffix
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            self._delimiter = max(_DELIMITERS, key=first.count)
            file.seek(0)
            self.names: list[str] = next(self._reader(file), [])
        self._place = self.names.index(_chosen(path, self.names, column))

    def batches(self, size: int) -> Iterator[Batch]:
        """See `TextFile`."""
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            reader = self._reader(file)
            next(reader, None)
            for rows in batched(self._rows(reader), size):
                yield Batch([row[self._place] or None for row in rows], rows)

    def part(self, batch: Batch, columns: Sequence[str], values: Sequence[Sequence[Any]]) -> bytes:
        """See `TextFile`."""
        return self._written([*row, *more] for row, more in zip(batch.rows, values, strict=True))

    def join(self, parts: Sequence[Path], columns: Sequence[str], out: BinaryIO) -> None:
        """See `TextFile`."""
        out.write(self._written([[*self.names, *columns]]))
        for part in parts:
            out.write(part.read_bytes())

    def _written(self, rows: Any) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self._delimiter, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()

    def _reader(self, file: Any) -> Any:
        return csv.reader(file, delimiter=self._delimiter, strict=True)

    def _rows(self, reader: Any) -> Iterator[list[str]]:
        width = len(self.names)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError) as error:
                raise SourceError(f"{self._path}, line {reader.line_num}: {error}") from None
            if not row:
                continue
            if len(row) != width:
                raise SourceError(
                    f"{self._path}, line {reader.line_num}: expected {width} fields, got {len(row)}"
                )
            yield row


class _Lines(_Csv):
    """A text a line; its labels are a CSV file."""

    def __init__(self, path: Path) -> None:
        self._path, self._delimiter = path, ","
        self.suffix, self.names = ".csv", ["text"]

    def batches(self, size: int) -> Iterator[Batch]:
        """See `TextFile`."""
        with self._path.open(encoding="utf-8-sig") as file:
            try:
                for lines in batched((line.rstrip("\n") for line in file), size):
                    yield Batch([line or None for line in lines], [[line] for line in lines])
            except UnicodeDecodeError as error:
                raise SourceError(f"{self._path}: not UTF-8: {error.reason}") from None


class _Jsonl:
    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self.suffix = path.suffix
        with path.open("rb") as file:
            _, first = next(self._objects(file), (b"", {}))
        self.names = list(first)
        # A key that is null may be left out, so the first line need not have the column that was named.
        self._column = column if column and not first else _chosen(path, self.names, column)

    def batches(self, size: int) -> Iterator[Batch]:
        """See `TextFile`."""
        with self._path.open("rb") as file:
            for rows in batched(self._objects(file), size):
                found = [values.get(self._column) for _, values in rows]
                texts = [text if isinstance(text, str) else None for text in found]
                yield Batch(texts, [(line, set(values)) for line, values in rows])

    def part(self, batch: Batch, columns: Sequence[str], values: Sequence[Sequence[Any]]) -> bytes:
        """See `TextFile`; the line stays as it was, to the last digit of its numbers."""
        lines = []
        for (line, names), more in zip(batch.rows, values, strict=True):
            if twice := names.intersection(columns):
                raise SourceError(f"{self._path}: has a key {min(twice)!r} already; say --prefix")
            added = orjson.dumps(dict(zip(columns, more, strict=True)))[1:]
            lines.append(line[:-1].rstrip() + (b"," if names else b"") + added + b"\n")
        return b"".join(lines)

    def join(self, parts: Sequence[Path], columns: Sequence[str], out: BinaryIO) -> None:
        """See `TextFile`."""
        for part in parts:
            out.write(part.read_bytes())

    def _objects(self, file: BinaryIO) -> Iterator[tuple[bytes, dict[str, Any]]]:
        for number, read in enumerate(file, 1):
            line = read.removeprefix(b"\xef\xbb\xbf").strip()
            if not line:
                continue
            try:
                values = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise SourceError(f"{self._path}, line {number}: not JSON: {error}") from None
            if not isinstance(values, dict):
                raise SourceError(f"{self._path}, line {number}: expected an object, got {values!r:.40}")
            yield line, values


class _Parquet:
    def __init__(self, path: Path, column: str) -> None:
        import pyarrow
        from pyarrow.parquet import ParquetFile

        self._path = path
        self.suffix = path.suffix
        try:
            self._file = ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise SourceError(f"{path}: no Parquet file: {str(error).splitlines()[0]}") from None
        self.names = list(self._file.schema_arrow.names)
        self._column = _chosen(path, self.names, column)

    def batches(self, size: int) -> Iterator[Batch]:
        """See `TextFile`."""
        for rows in self._file.iter_batches(batch_size=size):
            found = rows.column(self._column).to_pylist()
            yield Batch([text if isinstance(text, str) else None for text in found], rows)

    def part(self, batch: Batch, columns: Sequence[str], values: Sequence[Sequence[Any]]) -> bytes:
        """See `TextFile`."""
        import pyarrow
        from pyarrow.parquet import write_table

        table = pyarrow.Table.from_batches([batch.rows])
        for place, name in enumerate(columns):
            kind = pyarrow.string() if place == 0 else pyarrow.float64()
            table = table.append_column(name, pyarrow.array([row[place] for row in values], kind))
        sink = io.BytesIO()
        write_table(table, sink)
        return sink.getvalue()

    def join(self, parts: Sequence[Path], columns: Sequence[str], out: BinaryIO) -> None:
        """See `TextFile`."""
        import pyarrow
        from pyarrow.parquet import ParquetWriter, read_table

        schema = self._file.schema_arrow
        for place, name in enumerate(columns):
            schema = schema.append(pyarrow.field(name, pyarrow.float64() if place else pyarrow.string()))
        with ParquetWriter(out, schema) as writer:
            for part in parts:
                writer.write_table(read_table(part).cast(schema))
