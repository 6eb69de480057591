"""Files in archives: each file in a zip or tar is a file of the source, as if it lay in a folder.

What systems add of their own (`__MACOSX`, `._name`, `.DS_Store`, folders) is passed over; a file that is no
source stops it, as one in a glob does. An archive is opened once for all of its files, read in the order in
which they lie there, so that a compressed tar is not read from its start for each.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from itertools import islice
from lzma import LZMAError
from typing import Any, BinaryIO, cast

import fsspec.compression

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
ARCHIVES = (".zip", *TARS)
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
# What a damaged or vanished file raises while it is read.
READ_ERRORS = (OSError, EOFError, zlib.error, LZMAError, zipfile.BadZipFile, tarfile.TarError)
# A piece of a compressed file that is read at once, and what is given to zstandard of it: of four bytes it
# makes up to 128 KB, all of them at once.
_PIECE, _BITE = 1 << 14, 1 << 9
# Files in an archive, and what may always come out of one.
MAX_MEMBERS = 10_000
ALWAYS_BYTES = 64_000_000
_SHORT = {".tgz": ".gz", ".tbz2": ".bz2", ".txz": ".xz"}


@dataclass(frozen=True, slots=True)
class Unpacking:
    """How much may come out of a file.

    Attributes:
        most: bytes.
        ratio: of them to the file's own, from `ALWAYS_BYTES` on.
    """

    most: int
    ratio: int

    def limit(self, size: int) -> int:
        """Return the bytes that may come out of a file of `size` bytes."""
        return min(self.most, max(ALWAYS_BYTES, size * self.ratio))


class Archive:
    """A zip or tar.

    Args:
        path: by whose end it is told which.
        open_raw: opens it, as it is stored.
        unpacking: how much may come out of it, all its files together.
    """

    def __init__(self, path: str, open_raw: Callable[[], BinaryIO], unpacking: Unpacking) -> None:
        self._path = path.lower()
        self._open_raw = open_raw
        self._unpacking = unpacking
        self._limit = 0
        self._archive: zipfile.ZipFile | tarfile.TarFile | None = None
        self._raw: BinaryIO | None = None
        self._left = 0

    def members(self) -> list[tuple[str, Any]]:
        """Return the files in it with their paths, without what systems add.

        Raises:
            READ_ERRORS: it is damaged.
        """
        archive = self._opened()
        found: list[tuple[str, Any]]
        entries = archive.infolist() if isinstance(archive, zipfile.ZipFile) else archive
        some = list(islice(entries, MAX_MEMBERS + 1))
        if len(some) > MAX_MEMBERS:
            raise OSError(f"it holds more than {MAX_MEMBERS:,} files")
        if isinstance(archive, zipfile.ZipFile):
            found = [(i.filename, i) for i in archive.infolist() if not i.is_dir()]
        else:
            found = [(i.name, i) for i in archive.getmembers() if not i.isdir()]
            for name, info in found:
                if not info.isfile():
                    raise OSError(f"{name!a:.200} in it is a link or a device, not a file")
            self._check_end(archive)
        found = [(name, info) for name, info in found if not is_of_the_system(name)]
        self._left = len(found)
        if not found:
            self._close()
        return found

    @contextmanager
    def open(self, name: str, info: Any) -> Iterator[BinaryIO]:
        """Open a file in it, decompressed by the end of its name; the last one closes the archive."""
        archive = self._opened()
        try:
            if isinstance(archive, zipfile.ZipFile):
                opened = cast(BinaryIO, archive.open(info))
            else:
                opened = cast(BinaryIO, archive.extractfile(info))
        except RuntimeError as error:  # encrypted, or packed in a way that Python does not know
            raise OSError(str(error)) from None
        with opened, _decompressed(opened, name) as file:
            bounded = _BoundedFile(file, self._limit)
            yield cast(BinaryIO, bounded)
        self._limit -= bounded.furthest
        self._left -= 1
        if self._left <= 0:
            self._close()

    def _opened(self) -> zipfile.ZipFile | tarfile.TarFile:
        if self._archive is None:
            self._raw = self._open_raw()
            self._limit = self._unpacking.limit(_size(self._raw))
            if self._path.endswith(".zip"):
                self._archive = zipfile.ZipFile(self._raw)
            else:
                path = self._path.removesuffix(".tar")
                end = next((short for short in _SHORT if path.endswith(short)), "")
                inner = _decompressor(self._raw, _SHORT.get(end, path))
                if inner is not self._raw:
                    inner = cast(BinaryIO, BufferedReader(_BoundedFile(inner, self._limit), _PIECE))
                self._archive = tarfile.open(fileobj=inner, mode="r:")  # noqa: SIM115  # closed after the last file
        return self._archive

    def _check_end(self, archive: tarfile.TarFile) -> None:
        """Refuse a tar that was cut off between two files, which has no end mark of zeros."""
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if not archive.fileobj.read(1):
            raise EOFError("it is cut off: the mark of its end is missing")

    def _close(self) -> None:
        if self._archive is not None and self._raw is not None:
            self._archive.close()
            self._raw.close()
        self._archive = None


@contextmanager
def decompressed(opened: BinaryIO, name: str, unpacking: Unpacking) -> Iterator[BinaryIO]:
    """Give the content of a file, decompressed by the end of its name; see `READ_ERRORS`."""
    with _decompressed(opened, name) as file:
        if file is opened:
            yield opened
        else:
            yield cast(BinaryIO, _BoundedFile(file, unpacking.limit(_size(opened))))


@contextmanager
def _decompressed(opened: BinaryIO, name: str) -> Iterator[BinaryIO]:
    file = _decompressor(opened, name)
    if file is opened:
        yield opened
        return
    with file:
        yield file


def _decompressor(opened: BinaryIO, name: str) -> BinaryIO:
    end = next((end for end in COMPRESSIONS if name.lower().endswith(end)), "")
    if not end:
        return opened
    if end == ".zst":
        return cast(BinaryIO, BufferedReader(_ZstandardFile(opened), 1 << 18))
    kind = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}[end]
    return cast(BinaryIO, fsspec.compression.compr[kind](opened, mode="rb"))


def is_of_the_system(name: str) -> bool:
    """Return whether a path is of what systems put beside people's files, such as `__MACOSX` and `._name`."""
    parts = name.replace("\\", "/").split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] in (".DS_Store", "Thumbs.db", "")


def _size(opened: BinaryIO) -> int:
    """Return the size of a file, which is at its start."""
    size = opened.seek(0, 2)
    opened.seek(0)
    return size


class _BoundedFile(RawIOBase):
    """A file of which no more than so many bytes can be read.

    Attributes:
        furthest: place up to which it was read.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._limit = limit
        self.furthest = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether it can be read again, from its start on."""
        return self._file.seekable()

    def tell(self) -> int:
        """Return the place in it."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in it.

        Raises:
            OSError: there, more would have come out than may.
        """
        if whence == 2:  # a decompressor reads up to there
            while self.read(_PIECE):
                pass
        return self._check(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end.

        Raises:
            OSError: more comes out than may.
        """
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._check(self._file.tell())
        return len(data)

    def _check(self, place: int) -> int:
        self.furthest = max(self.furthest, place)
        if place > self._limit:
            raise OSError(
                f"it unpacks to more than {self._limit:,} bytes, as much as source.max_ratio and "
                "source.max_unpacked_gb allow a file of its size"
            )
        return place

    def close(self) -> None:
        """Close it."""
        self._file.close()
        super().close()


class _ZstandardFile(RawIOBase):
    """Frames of zstandard, one after the other; one that is cut off is an error, not an end."""

    def __init__(self, opened: BinaryIO) -> None:
        import zstandard  # here: only the orchestrator has it

        self._opened = opened
        self._errors = zstandard.ZstdError
        self._new: Callable[[], Any] = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._piece = b""
        self._out = b""
        self._place = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether it can be read again, from its start on."""
        return self._opened.seekable()

    def tell(self) -> int:
        """Return the place in what comes out."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in what comes out, by reading up to it."""
        if whence == 2:
            while self.read(_PIECE):
                pass
        offset += (0, self._place, self._place)[whence]
        if offset < self._place:
            self._opened.seek(0)
            self._frame, self._piece, self._out, self._place = None, b"", b"", 0
        while self._place < offset and self.read(min(offset - self._place, _PIECE)):
            pass
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end.

        Raises:
            EOFError: the last frame is cut off.
            OSError: this is no zstandard.
        """
        while not self._out:
            if not self._piece:
                self._piece = self._opened.read(_PIECE)
                if not self._piece:
                    if self._frame is not None:
                        raise EOFError("the file ends within a frame")
                    return 0
            if self._frame is None:
                self._frame = self._new()
            try:
                self._out = self._frame.decompress(self._piece[:_BITE])
            except self._errors as error:
                raise OSError(str(error)) from None
            self._piece = (self._frame.unused_data if self._frame.eof else b"") + self._piece[_BITE:]
            if self._frame.eof:
                self._frame = None
        taken = self._out[: len(buffer)]
        buffer[: len(taken)] = taken
        self._out = self._out[len(taken) :]
        self._place += len(taken)
        return len(taken)
