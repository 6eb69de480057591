"""Find and open the files of a source: any fsspec URL, path or glob, compressed or not."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from lzma import LZMAError
from typing import Any, BinaryIO, Literal
from zipfile import BadZipFile

from fsspec.core import url_to_fs

from flywheel.config import resolve_path
from flywheel.config.source import SourceConfig
from flywheel.errors import SourceError

Format = Literal["csv", "jsonl", "parquet"]

# A longer line is set aside: a file without line ends must not fill the memory.
MAX_LINE_BYTES = 4 * 1024 * 1024
# Decompressors work in larger pieces through a larger buffer: a third of the time of reading gzip.
_BUFFER_BYTES = 1 << 18
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zip")
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
# What a damaged or vanished file raises while it is read.
_READ_ERRORS = (OSError, EOFError, zlib.error, LZMAError, BadZipFile)


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        name: its path as people know it, for messages and the quarantine.
        key: the configuration's key that led to it, such as `source.0.path`.
    """

    name: str
    key: str
    format: Format
    fs: Any
    path: str

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for reading, decompressed by the end of its name.

        Raises:
            SourceError: it cannot be opened, or reading it fails later.
        """
        try:
            opened = self.fs.open(self.path, "rb", compression="infer")
        except Exception as error:  # whatever the file system or the decompressor raises
            raise self.error(f"cannot be opened: {error or type(error).__name__}") from error
        try:
            with opened as file:
                yield BufferedReader(file, _BUFFER_BYTES) if _is_compressed(self.path) else file
        except _READ_ERRORS as error:
            raise self.error(f"cannot be read: {error or type(error).__name__}") from error

    def error(self, problem: str, key: str | None = None) -> SourceError:
        """Return an error that names the file, the key and the problem."""
        return SourceError(f"{self.name}: {problem} (key {key or self.key})")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a text file, with its end. `problem` says why its text cannot be used."""

    number: int
    data: bytes
    problem: str = ""


def files_of(source: SourceConfig, key: str) -> list[SourceFile]:
    """Return the files of a source, in the order of their names.

    Args:
        key: the source's place in the configuration, such as `source.0`.

    Raises:
        SourceError: no file matches, the place cannot be listed, or a file's format is unknown.
    """
    url = resolve_path(source.path)
    try:
        fs, path = url_to_fs(url)
        paths = sorted(p for p in fs.glob(path) if fs.isfile(p)) if _is_glob(path) else [path]
        found = paths if _is_glob(path) else [p for p in paths if fs.exists(p)]
        is_folder = not _is_glob(path) and bool(found) and fs.isdir(path)
    except ImportError as error:
        raise SourceError(f"{url}: {error} (key {key}.path)") from None
    except Exception as error:  # any error of any remote file system, most often credentials or a typo
        raise SourceError(
            f"{url}: cannot be listed: {error or type(error).__name__} (key {key}.path)"
        ) from error
    if is_folder:
        raise SourceError(f"{url}: is a folder; give a glob such as {url.rstrip('/')}/*.csv (key {key}.path)")
    if not found:
        raise SourceError(f"{url}: no such file{_nearest(fs, path)} (key {key}.path)")
    return [
        SourceFile(
            fs.unstrip_protocol(p).removeprefix("file://"), f"{key}.path", _format(source, p, key), fs, p
        )
        for p in found
    ]


def lines_of(file: BinaryIO) -> Iterator[Line]:
    """Yield the lines of a file with their numbers from 1; too long ones are cut and say so."""
    number = 0
    while data := file.readline(MAX_LINE_BYTES):
        number += 1
        problem = ""
        if len(data) == MAX_LINE_BYTES and not data.endswith(b"\n"):
            problem = f"line too long: more than {MAX_LINE_BYTES} bytes"
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
        if number == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        yield Line(number, data, problem)


def missing_column(file: SourceFile, column: str, there: list[str], key: str) -> SourceError:
    """Return the error for a column that a file does not have at all, naming the nearest that it has."""
    near = difflib.get_close_matches(column, there, n=1, cutoff=0.5)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    names = ", ".join(repr(name[:40]) for name in there[:20]) or "none"
    optional = "; null where there is none" if key.endswith(("timestamp", "human_label")) else ""
    return file.error(f"no column {column!r}{hint}; its columns are {names}{optional}", key)


def _is_compressed(path: str) -> bool:
    return path.lower().endswith(_COMPRESSIONS)


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def _format(source: SourceConfig, path: str, key: str) -> Format:
    if source.format != "auto":
        return source.format
    name = path.lower()
    for ending in _COMPRESSIONS:
        name = name.removesuffix(ending)
    for ending, kind in _FORMATS.items():
        if name.endswith(ending):
            return "jsonl" if source.kind == "log_records" and kind == "csv" else kind
    if source.kind == "log_records":
        return "jsonl"
    endings = ", ".join(_FORMATS)
    raise SourceError(
        f"{path}: its name ends in none of {endings}; set {key}.format to csv, jsonl or parquet"
    )


def _nearest(fs: Any, path: str) -> str:
    """Return a hint that names the file most like the one that is missing."""
    folder = fs._parent(path)
    try:
        names = [entry.rsplit("/", 1)[-1] for entry in fs.ls(folder, detail=False)]
    except (OSError, ValueError):
        return f", and no folder {folder}"
    near = difflib.get_close_matches(path.rsplit("/", 1)[-1], names, n=1, cutoff=0.4)
    return f"; the nearest in that folder is {near[0]!r}" if near else ""
