"""The labels that persons gave to texts with a time, kept for the check of a verdict (promotion/persons.py).

A label counts as known with its text. A text without a time is in no data of a dated run, so that its label
checks the teacher alone and is not kept here.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

FILE = "label.human.jsonl"


class PersonsLabels:
    """Writes a JSONL file of text, label and known_at, aside until it is whole; without a label none."""

    def __init__(self, path: Path) -> None:
        self._count = 0
        self._path = path
        self._aside = path.with_name(f".{path.name}.{os.getpid()}")
        self._file = self._aside.open("wb")

    def add(self, text: str, label: str, known_at: int) -> None:
        """Write one; the label is a class of the workload."""
        self._count += 1
        line = {"text": text, "label": label, "known_at": known_at}
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if self._count:
            os.replace(self._aside, self._path)
        else:
            self._aside.unlink()
            self._path.unlink(missing_ok=True)
