"""Find and open the files of a source: any fsspec URL, path or glob, compressed, in archives or neither."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, BinaryIO, Literal, cast

from fsspec.core import url_to_fs

from flywheel.common.errors import SourceError
from flywheel.config import resolve_path
from flywheel.config.source import SourceConfig
from flywheel.sources.archives import (
    ARCHIVES,
    COMPRESSIONS,
    READ_ERRORS,
    Archive,
    Unpacking,
    decompressed,
    is_of_the_system,
)

Format = Literal["csv", "jsonl", "parquet"]

# A longer line is set aside: a file without line ends must not fill the memory.
MAX_LINE_BYTES = 4 * 1024 * 1024
# Decompressors work in larger pieces through a larger buffer: a third of the time of reading gzip.
_BUFFER_BYTES = 1 << 18
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


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        name: its path as people know it, for messages and the quarantine.
        key: the configuration's key that led to it, such as `source.0.path`.
        unpacking: how much may come out of it.
        archive: the one that it lies in, with what it is there; None of a file by itself.
    """

    name: str
    key: str
    format: Format
    fs: Any
    path: str
    unpacking: Unpacking
    archive: tuple[Archive, Any] | None = None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for reading, decompressed by the end of its name.

        Raises:
            SourceError: it cannot be opened, or reading it fails later.
        """
        try:
            if self.archive is not None:
                archive, info = self.archive
                with archive.open(self.path, info) as file:
                    yield BufferedReader(cast(Any, file), _BUFFER_BYTES)
                return
            with self._raw() as opened, decompressed(opened, self.path, self.unpacking) as file:
                yield BufferedReader(cast(Any, file), _BUFFER_BYTES) if file is not opened else file
        except READ_ERRORS as error:
            raise self.error(f"cannot be read: {error or type(error).__name__}") from error

    def _raw(self) -> BinaryIO:
        try:
            return cast(BinaryIO, self.fs.open(self.path, "rb"))
        except Exception as error:  # whatever the file system raises
            raise self.error(f"cannot be opened: {error or type(error).__name__}") from error

    @property
    def is_packed(self) -> bool:
        """Whether it is compressed or in an archive, so that damage shows only when all of it is read."""
        return self.archive is not None or self.path.lower().endswith(COMPRESSIONS)

    def error(self, problem: str, key: str | None = None) -> SourceError:
        """Return an error that names the file, the key and the problem."""
        return SourceError(f"{self.name}: {' '.join(problem.split())} (key {key or self.key})")


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
        # What systems put beside files, as an unpacked archive has it, is nobody's news.
        found = [p for p in paths if (not is_of_the_system(p) if _is_glob(path) else fs.exists(p))]
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
    files: list[SourceFile] = []
    for path in found:
        name = fs.unstrip_protocol(path).removeprefix("file://")
        if path.lower().endswith(ARCHIVES):
            files += _files_in(source, name, fs, path, key)
        else:
            files.append(
                SourceFile(name, f"{key}.path", _format(source, path, key), fs, path, _unpacking(source))
            )
    return files


def _files_in(source: SourceConfig, name: str, fs: Any, path: str, key: str) -> list[SourceFile]:
    """Return the files in an archive."""
    whole = SourceFile(name, f"{key}.path", "csv", fs, path, _unpacking(source))
    archive = Archive(path, whole._raw, whole.unpacking)
    try:
        members = archive.members()
    except READ_ERRORS as error:
        raise whole.error(f"is no readable archive: {error or type(error).__name__}") from error
    if not members:
        raise whole.error("is an archive without a file")
    files = []
    for member, info in members:
        # Names in archives may hold anything; they go into logs and messages.
        shown = member.encode("utf-8", "backslashreplace").decode()
        shown = f"{name}/{shown if shown.isprintable() else ascii(shown)[1:-1]}"
        if member.lower().endswith(ARCHIVES):
            raise whole.error(f"holds an archive, {shown}; unpack it")
        kind = _format(source, member, key, shown, outer=path)
        files.append(SourceFile(shown, f"{key}.path", kind, fs, member, whole.unpacking, (archive, info)))
    return files


def _unpacking(source: SourceConfig) -> Unpacking:
    return Unpacking(int(source.max_unpacked_gb * 1e9), source.max_ratio)


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


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def _format(source: SourceConfig, path: str, key: str, shown: str = "", outer: str = "") -> Format:
    """Return how a file is read: as the source says, else by its name's end, else by its archive's."""
    if source.format != "auto":
        return source.format
    for name in (path.lower(), outer.lower()):
        for ending in (*ARCHIVES, *COMPRESSIONS):
            name = name.removesuffix(ending)
        for ending, kind in _FORMATS.items():
            if name.endswith(ending):
                return "jsonl" if source.kind == "log_records" and kind == "csv" else kind
    if source.kind == "log_records":
        return "jsonl"
    endings = ", ".join(_FORMATS)
    raise SourceError(
        f"{shown or path}: its name ends in none of {endings}; set {key}.format to csv, jsonl or parquet"
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
