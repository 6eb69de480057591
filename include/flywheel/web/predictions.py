"""The answers of an evaluation, record by record, beside the teacher's labels, calls or texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, Field

from flywheel.artifacts.root import ArtifactRoot
from flywheel.stages.examined import PREDICTIONS
from flywheel.web import settings


class Disagreement(BaseModel):
    """A record that the student answers otherwise than the teacher."""

    id: str = Field(description="Of the record.")
    text: str
    teacher: str
    student: str = Field(description="Empty: its answer names no class.")
    answer: str = Field(description="What it said, word by word.")
    label: str = Field("", description="Of calls, the teacher's functions; empty where `teacher` is a class.")

    @property
    def group(self) -> str:
        """What it is counted by."""
        return self.label or self.teacher


@lru_cache(maxsize=32)
def disagreements(root_url: str, evaluation: str) -> tuple[Disagreement, ...]:
    """Return where the student and the teacher differ in an evaluation, in the order of the eval set.

    Raises:
        ArtifactError: the evaluation is not there, or damaged.
    """
    root = settings.artifact_root(root_url)
    return tuple(Disagreement.model_validate(row) for row in lines_of(root, evaluation) if not _agrees(row))


@lru_cache(maxsize=256)
def labels_of(root_url: str, evaluation: str) -> dict[str, int]:
    """Return how many disagreements there are for each label of the teacher, the most first."""
    counts = Counter(one.group for one in disagreements(root_url, evaluation))
    return dict(counts.most_common())


def _agrees(row: dict[str, Any]) -> bool:
    """Return whether an answer is the teacher's; calls and texts are compared by more than their form."""
    for metric in ("function_name_and_args_accuracy", "exact_match"):
        if metric in row:
            return bool(row[metric] == 1)
    return bool(row["student"] == row["teacher"])


def lines_of(root: ArtifactRoot, evaluation: str) -> Iterator[dict[str, Any]]:
    """Stream all answers of an evaluation."""
    with root.open_in("evaluations", evaluation, PREDICTIONS) as file:
        for line in file:
            yield orjson.loads(line)
