"""The answers of two evaluations on the same records, and how much one of them is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.evaluation.statistics import paired_difference


@dataclass(frozen=True)
class EvaluationAnswers:
    """The answers of an evaluation, in its order.

    Attributes:
        ids: of the records.
        teacher, student: labels.
        values: of each record, for metrics that are means; else None.
    """

    ids: list[str]
    teacher: list[str]
    student: list[str]
    values: list[float] | None


def read_answers(root: ArtifactRoot, key: str, metric: str) -> EvaluationAnswers:
    """Return the answers of an evaluation.

    Raises:
        ArtifactError: it is no longer there, or damaged.
    """
    if not root.find("evaluations", key):
        raise ArtifactError(f"evaluation {key} is no longer in the artifact root")
    lines = (root.fetch("evaluations", key) / "predictions.jsonl").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    values = [float(row[metric]) for row in rows] if rows and metric in rows[0] else None
    if metric == "accuracy" and values is None:
        values = [float(row["student"] == row["teacher"]) for row in rows]
    return EvaluationAnswers(
        ids=[row["id"] for row in rows],
        teacher=[row.get("label", row["teacher"]) for row in rows],
        student=[row["student"] for row in rows],
        values=values,
    )


def difference(new: EvaluationAnswers, old: EvaluationAnswers, kept: Sequence[int]) -> tuple[float, float]:
    """Return how much better the new answers are than the old ones, and the standard error of that.

    Args:
        kept: places of the records that count, at least one.
    """
    if new.values is not None and old.values is not None:
        gains = (np.array(new.values) - np.array(old.values))[list(kept)]
        return float(gains.mean()), float(gains.std()) / len(kept) ** 0.5
    teacher, one, other = (
        [texts[place] for place in kept] for texts in (new.teacher, new.student, old.student)
    )
    return paired_difference(teacher, one, other)
