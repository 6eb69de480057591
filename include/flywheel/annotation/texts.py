"""Texts as research code has them, in; labels as a table of the same library, out.

A list, a tuple, a NumPy array or a pandas Series gives a pandas DataFrame (with the Series' index), a polars
Series a polars DataFrame, a pyarrow Array or ChunkedArray a pyarrow Table. Libraries are told by the names of
their types, so that none is imported that is not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flywheel.common.errors import FlywheelError
from flywheel.serving.classified import Classified

Kind = Literal["pandas", "polars", "pyarrow"]

LABEL, PROBABILITY = "label", "probability"
# Rows that a message names.
_MOST_NAMED = 5
_COLUMNS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "pandas": ("pandas", ("Series", "Index")),
    "polars": ("polars", ("Series",)),
    "pyarrow": ("pyarrow", ("Array", "ChunkedArray")),
}


class TextError(FlywheelError):
    """What was given to be labelled are no texts; the message names the row."""


@dataclass(frozen=True)
class Texts:
    """N texts.

    Attributes:
        values: None where a text is missing.
        kind: of the table that the labels go into.
        index: of a pandas Series; None: 0 to N - 1.
        first: number of the first row, in messages.
    """

    values: list[str | None]
    kind: Kind = "pandas"
    index: Any = None
    first: int = 0

    @classmethod
    def of(cls, given: Any) -> Texts:
        """Read a column of texts.

        None, NaN and other libraries' words for a missing value are missing texts, and keep their row.

        Raises:
            TextError: it is no column, or an entry is neither a text nor missing.
        """
        library = type(given).__module__.partition(".")[0]
        kind: Kind = "pandas"
        index = None
        if library in _COLUMNS:
            kind, names = _COLUMNS[library]
            if not any(one.__name__ in names for one in type(given).__mro__):
                raise TextError(
                    f"texts: expected a column, got a {type(given).__name__} of {library}; give one of its "
                    "columns"
                )
            index = given.index if hasattr(given, "index") and type(given).__name__ == "Series" else None
            index = index if kind == "pandas" else None
            values = given.to_pylist() if kind == "pyarrow" else list(given.to_list())
        elif isinstance(given, np.ndarray):
            if given.ndim != 1:
                raise TextError(f"texts: expected one dimension, got an array of shape {given.shape}")
            values = given.tolist()
        elif isinstance(given, str | bytes):
            raise TextError("texts: got one text; put it into a list")
        elif isinstance(given, Sequence):
            values = list(given)
        else:
            more = "; streams go to label_batches" if isinstance(given, Iterable) else ""
            raise TextError(
                "texts: expected a list, a tuple, a NumPy array, a Series of pandas or polars, or an Array "
                f"of pyarrow, got {type(given).__name__}{more}"
            )
        return cls([_text(value, row, index) for row, value in enumerate(values)], kind, index)

    def row(self, place: int) -> str:
        """Return a row as messages name it."""
        return _row(place, self.index, self.first)

    def named(self, places: Iterable[int]) -> str:
        """Return a few rows as messages name them."""
        rows = list(places)
        more = f" and {len(rows) - _MOST_NAMED:,} more" if len(rows) > _MOST_NAMED else ""
        return ", ".join(self.row(place) for place in rows[:_MOST_NAMED]) + more

    def table(self, classes: Sequence[str], found: Classified) -> Any:
        """Return the labels as a table: label, probability, and one column a class.

        A text without a class has no label, and no probabilities: null in polars and pyarrow, NaN in pandas.
        """
        labels = [classes[answer] if answer >= 0 else None for answer in found.answers.tolist()]
        rows = np.arange(len(labels))
        likely = np.where(found.answers >= 0, found.probabilities[rows, found.answers], np.nan)
        numbers = {PROBABILITY: likely}
        for place, name in enumerate(columns_of(classes)):
            numbers[name] = np.ascontiguousarray(found.probabilities[:, place])
        if self.kind == "polars":
            import polars

            schema = {LABEL: polars.String, **dict.fromkeys(numbers, polars.Float64)}
            return polars.DataFrame({LABEL: labels, **numbers}, schema=schema, nan_to_null=True)
        if self.kind == "pyarrow":
            import pyarrow

            columns = {name: pyarrow.array(values, from_pandas=True) for name, values in numbers.items()}
            return pyarrow.table({LABEL: pyarrow.array(labels, pyarrow.string()), **columns})
        import pandas

        column = pandas.Series(labels, dtype=object, index=self.index)
        return pandas.DataFrame({LABEL: column, **numbers}, index=column.index)


def columns_of(classes: Sequence[str]) -> list[str]:
    """Return the names of the classes' columns; a class that is called as another column is told apart."""
    return [f"{name} (class)" if name in (LABEL, PROBABILITY) else name for name in classes]


def is_missing(value: Any) -> bool:
    """Return whether a value stands for none, in the words of any of the libraries."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def _text(value: Any, place: int, index: Any) -> str | None:
    if isinstance(value, str):
        return str(value)
    if is_missing(value):
        return None
    raise TextError(
        f"texts: {_row(place, index)}: expected a text, got {type(value).__name__} {str(value)[:40]!r}; None "
        "stands for a missing text"
    )


def _row(place: int, index: Any, first: int = 0) -> str:
    if index is None:
        return f"row {place + first}"
    return f"row {place} (index {index[place]!r})"
