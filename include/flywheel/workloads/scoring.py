"""How far a student's labels agree with the teacher's: F1, a bootstrap interval, the confusion matrix.

An answer that names no class is the label "" here. It is in no class's precision and in its teacher's class's
recall: a miss, never a hit. F1 of a class is 0 where the student never named it. scikit-learn gives the same
(see the tests), but takes a second to import, in every pod.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flywheel.workloads.scores import ClassScore, Confusion

UNPARSABLE = ""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Agreement of two lists of labels; see `flywheel.jobs.result.EvaluateResult` for the fields.

    Attributes:
        scores: f1_weighted, the mean F1 of the classes weighted by the teacher's labels; f1_macro, the plain
            mean over the classes that either named; accuracy.
        intervals: of f1_weighted.
    """

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    unparsable: int
    per_class: dict[str, ClassScore]
    confusion: Confusion


def score_labels(
    teacher: Sequence[str],
    student: Sequence[str],
    classes: Sequence[str],
    *,
    bootstrap_samples: int,
    seed: int = 0,
) -> LabelScores:
    """Compare a student's labels with the teacher's.

    Args:
        teacher: a class for each record.
        student: a class for each record, or "" where the answer names none.
        classes: all classes, in the order of the tables; those that neither names are left out.
        bootstrap_samples: resamples for the 95 % interval.

    Raises:
        ValueError: the lists are empty or differ in length.
    """
    if not teacher or len(teacher) != len(student):
        raise ValueError(
            f"expected as many labels of the student as of the teacher, got {len(student)}, {len(teacher)}"
        )
    found = {*teacher, *student} - {UNPARSABLE}
    labels = [label for label in dict.fromkeys([*classes, *sorted(found)]) if label in found]
    matrix = confusion_of(teacher, student, labels)
    hits, support, named = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)[:-1]
    precision, recall = hits / np.maximum(named, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + named, 1)
    return LabelScores(
        scores={
            "f1_weighted": float(np.average(f1, weights=support)),
            "f1_macro": float(f1.mean()),
            "accuracy": float(np.trace(matrix) / len(teacher)),
        },
        intervals={"f1_weighted": bootstrap_f1_weighted(matrix, bootstrap_samples, seed)},
        unparsable=list(student).count(UNPARSABLE),
        per_class={
            label: ClassScore(precision=float(p), recall=float(r), f1=float(f), support=int(s))
            for label, p, r, f, s in zip(labels, precision, recall, f1, support, strict=True)
        },
        confusion=Confusion(labels=tuple(labels), matrix=tuple(tuple(map(int, row)) for row in matrix)),
    )


def confusion_of(teacher: Sequence[str], student: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return counts by the teacher's label (row) and the student's (column), the last for none.

    Of shape [C, C + 1].
    """
    index = {label: position for position, label in enumerate([*labels, UNPARSABLE])}
    size = len(index)
    cells = [index[right] * size + index[given] for right, given in zip(teacher, student, strict=True)]
    return np.bincount(cells, minlength=size * size).reshape(size, size)[:-1]


def bootstrap_f1_weighted(matrix: NDArray[np.int64], samples: int, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the weighted F1 by the percentile bootstrap; see `bootstrap_f1`."""
    f1, support = bootstrap_f1(matrix, samples, seed)
    return interval95((f1 * support).sum(1) / matrix.sum())


def bootstrap_f1(
    matrix: NDArray[np.int64], samples: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return F1 and support of each class in resamples of the records.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. To draw records with
    replacement is to draw the counts of the confusion matrix's cells from a multinomial, so that all
    resamples are one array.

    Args:
        matrix: counts by right label (row) and given one (column), the last for no class: [C, C + 1].

    Returns:
        Both of shape [samples, C].
    """
    total = int(matrix.sum())
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(total, matrix.ravel() / total, size=samples).reshape(samples, *matrix.shape)
    support = draws.sum(2)
    named = draws.sum(1)[:, :-1]
    hits = np.diagonal(draws, axis1=1, axis2=2)
    return 2 * hits / np.maximum(support + named, 1), support


def interval95(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
