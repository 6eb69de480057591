"""The labels that persons gave to texts with a time, kept for the check of a verdict (promotion/persons.py).

A label counts as known with its text. A text without a time is in no data of a dated run, so that its label
checks the teacher alone and is not kept here.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from flywheel.common.aside import AsideFile

FILE = "label.human.jsonl"


class PersonsLabels(AsideFile):
    """Writes a JSONL file of text, label and known_at, aside until it is whole; without a label none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")

    def add(self, text: str, label: str, known_at: int) -> None:
        """Write one; the label is a class of the workload."""
        self.count += 1
        line = {"text": text, "label": label, "known_at": known_at}
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
