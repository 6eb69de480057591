"""A file's column of times: read value by value, and stopped at where a share of it cannot be read.

A time now and then that cannot be read is a bad row. Many are a sign that the column is not understood, and
then those that could be read may be wrong as well: days taken for months, another column.
"""

from __future__ import annotations

from flywheel.sources.files import SourceFile
from flywheel.sources.timestamps import EXPECTED, Time, TimeReader

# A column is not understood where so many times, and this share of them, cannot be read.
LEAST_UNREADABLE = 3
UNREADABLE_SHARE = 0.05
# Before so many rows the share is looked at once, at the end of the file.
_ENOUGH_ROWS = 200
_EXAMPLES = 3
EMPTY = (None, "")


class TimeColumn:
    """The column of times of one file.

    Args:
        column: its name.
        key: of the source in the configuration, such as `source.0`.
    """

    def __init__(self, file: SourceFile, column: str, reader: TimeReader, key: str) -> None:
        self._file, self._column, self._reader, self._key = file, column, reader, key
        self._read = 0
        self._unreadable = 0
        self._examples: list[str] = []

    def read(self, value: object, line: int) -> Time:
        """Return the time of a row.

        Args:
            line: of the row, from 1.

        Raises:
            ValueError: the value is missing, or no time that can be told.
            SourceError: so many have been none that the column is not understood.
        """
        if value in EMPTY or (isinstance(value, str) and not value.strip()):
            raise ValueError(f"expected {EXPECTED}; it is missing")
        try:
            time = self._reader.read(value)
        except ValueError:
            self._unreadable += 1
            if len(self._examples) < _EXAMPLES:
                self._examples.append(f"line {line}: {value!r:.60}")
            if self._read + self._unreadable >= _ENOUGH_ROWS:
                self.check()
            raise
        self._read += 1
        return time

    def check(self) -> None:
        """Stop where the column is not understood.

        Raises:
            SourceError: it names rows and what stands there.
        """
        rows = self._read + self._unreadable
        if self._unreadable < LEAST_UNREADABLE or self._unreadable < UNREADABLE_SHARE * rows:
            return
        raise self._file.error(
            f"{self._unreadable} of the first {rows} times in the column {self._column!r} cannot be read, or "
            f"could be several ({'; '.join(self._examples)}); say how they are written, such as "
            "'%d/%m/%Y %H:%M', or name the column that has the times",
            f"{self._key}.time_format",
        )
