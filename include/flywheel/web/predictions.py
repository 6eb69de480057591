"""The answers of an evaluation, headline by headline, beside the teacher's labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import orjson
from pydantic import BaseModel, Field

from flywheel.artifacts import ArtifactRoot
from flywheel.stages.evaluate import PREDICTIONS
from flywheel.web import settings


class Disagreement(BaseModel):
    """A headline that the student labels otherwise than the teacher."""

    id: str = Field(description="Of the record.")
    text: str
    teacher: str
    student: str = Field(description="Empty: its answer names no class.")
    answer: str = Field(description="What it said, word by word.")


@lru_cache(maxsize=32)
def disagreements(root_url: str, evaluation: str) -> tuple[Disagreement, ...]:
    """Return where the student and the teacher differ in an evaluation, in the order of the eval set.

    Raises:
        ArtifactError: the evaluation is not there, or damaged.
    """
    root = settings.artifact_root(root_url)
    return tuple(
        Disagreement.model_validate(row)
        for row in lines_of(root, evaluation)
        if row["student"] != row["teacher"]
    )


@lru_cache(maxsize=256)
def labels_of(root_url: str, evaluation: str) -> dict[str, int]:
    """Return how many disagreements there are for each label of the teacher, the most first."""
    counts = Counter(one.teacher for one in disagreements(root_url, evaluation))
    return dict(counts.most_common())


def lines_of(root: ArtifactRoot, evaluation: str) -> Iterator[dict[str, str]]:
    """Stream all answers of an evaluation."""
    with (root.fetch("evaluations", evaluation) / PREDICTIONS).open("rb") as file:
        for line in file:
            yield orjson.loads(line)
