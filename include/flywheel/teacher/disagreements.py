"""The file of headlines that people and the teacher label differently: a table for a person to read."""

from __future__ import annotations

import csv
from pathlib import Path

from flywheel.common.aside import AsideFile
from flywheel.sources import Headline
from flywheel.teacher.agreement import HumanDisagreement

COLUMNS = ("human_label", "teacher_label", "headline", "answer", "confidence", "file", "line")


class DisagreementsFile(AsideFile):
    """Writes a CSV file, aside until it is whole; without a disagreement there is none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)

    def add(self, headline: Headline, found: HumanDisagreement, answer: str) -> None:
        """Write one."""
        self.count += 1
        confidence = "" if found.confidence is None else f"{found.confidence:.4f}"
        row = (found.human, found.teacher, found.text, answer, confidence, headline.file, headline.line)
        self._writer.writerow([_safe(value) for value in row])


def _safe(value: object) -> object:
    """Keep a spreadsheet from taking a text for a formula, and lone surrogates out of the file."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
