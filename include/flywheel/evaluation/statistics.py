"""How sure a score is: standard errors, one-sided bounds, and paired differences of two students.

Weighted F1 is a smooth function of the shares of the confusion matrix's cells, so its variance follows from
the delta method (influence function; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
21.3): each record has the derivative of F1 by its own weight, and their variance by n is that of F1. On 400
records it is that of the bootstrap to a few per cent, and it needs no resampling.

A normal bound is too optimistic for a score near 1 on few records, where an exact binomial one is not. So a
bound is Clopper and Pearson's at the effective number of records, the n of which a share would be as
uncertain as the score is (Korn and Graubard, Survey Methodology 24, 1998).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
# Half the width of a 95 % interval, in standard errors.
_HALF95 = 1.96


def influence(matrix: NDArray[np.int64]) -> Floats:
    """Return how far a record of each cell lifts the weighted F1, in its units; the mean over records is 0.

    Args:
        matrix: records by the teacher's class (row) and the student's (column), the last column for answers
        that
            name none: [C, C + 1].

    Returns:
        [C, C + 1].
    """
    total = max(1, int(matrix.sum()))
    hits, support, named = np.diagonal(matrix) / total, matrix.sum(1) / total, matrix.sum(0)[:-1] / total
    both = np.maximum(support + named, 1e-300)
    f1 = 2 * hits / both
    by_hit, by_name = 2 * support / both, -support * f1 / both
    cells = np.zeros(matrix.shape)
    cells += (f1 + by_name)[:, None]  # the record is one more of its class ...
    cells[:, :-1] += by_name[None, :]  # ... and one more answer of a class ...
    cells[np.arange(len(hits)), np.arange(len(hits))] += by_hit  # ... and perhaps a hit.
    return np.asarray(cells - (cells * matrix).sum() / total)


def weighted_f1(matrix: NDArray[np.int64]) -> float:
    """Return the mean F1 of the classes, weighted by the teacher's labels, of a matrix as for `influence`."""
    hits, support, named = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)[:-1]
    return float((2 * hits * support / np.maximum(support + named, 1)).sum() / max(1, matrix.sum()))


def standard_error(matrix: NDArray[np.int64]) -> float:
    """Return the standard error of the weighted F1 of a confusion matrix, by the delta method."""
    total = max(1, int(matrix.sum()))
    return math.sqrt(float((influence(matrix) ** 2 * matrix).sum())) / total


def lower_bound(score: float, error: float, records: int, rate: float) -> float:
    """Return what a score is at least, but for a chance of `rate`.

    Args:
        score: in [0, 1].
        error: its standard error.
        records: that it was measured on.
        rate: one-sided error, such as 0.02.
    """
    spread = score * (1 - score)
    # No more than all records: a score can be luckily steady, as one of 1 with no error at all is.
    effective = min(records, spread / error**2) if error > 0 and spread > 0 else float(records)
    hits = score * effective
    return float(betaincinv(hits, effective - hits + 1, rate)) if hits > 0 else 0.0


def paired_difference(
    teacher: Sequence[str], one: Sequence[str], other: Sequence[str]
) -> tuple[float, float]:
    """Return the weighted F1 of one student less that of another on the same records, and its standard error.

    What both find hard makes both wrong, so the error of the difference is far below that of two samples.

    Args:
        teacher: a label for each record; so for `one` and `other`, with "" for an answer that names none.

    Raises:
        ValueError: the lists are empty or differ in length.
    """
    if not teacher or not len(teacher) == len(one) == len(other):
        raise ValueError(f"expected as many answers as labels: {len(teacher)}, {len(one)}, {len(other)}")
    scores, lifts = [], []
    for given in (one, other):
        matrix, right, answer = _counted(teacher, given)
        scores.append(weighted_f1(matrix))
        lifts.append(influence(matrix)[right, answer])
    error = float(np.std(lifts[0] - lifts[1])) / math.sqrt(len(teacher))
    return scores[0] - scores[1], error


def f1_with_interval(right: Sequence[str], given: Sequence[str]) -> tuple[float, tuple[float, float]]:
    """Return the weighted F1 of answers and its 95 % interval, by the delta method.

    Args:
        right: a label for each record.
        given: an answer for each, "" for one that names no class.

    Raises:
        ValueError: the lists are empty or differ in length.
    """
    if not right or len(right) != len(given):
        raise ValueError(f"expected as many answers as labels: {len(right)}, {len(given)}")
    matrix, _, _ = _counted(right, given)
    score, half = weighted_f1(matrix), _HALF95 * standard_error(matrix)
    # Without a mistake there is no spread to see; of n right ones, one in n / 3 may be wrong (rule of three).
    below = max(half, 3 / len(right)) if score > 1 - 1e-9 else half
    return score, (max(0.0, score - below), min(1.0, score + half))


def _counted(right: Sequence[str], given: Sequence[str]) -> tuple[NDArray[np.int64], Places, Places]:
    """Return the matrix [C, C + 1] of labels and answers, and the row and the column of each record."""
    names = sorted({*right, *given} - {""})
    place = {name: index for index, name in enumerate([*names, ""])}
    rows, columns = np.array([place[name] for name in right]), np.array([place[name] for name in given])
    width = len(place)
    matrix = np.bincount(rows * width + columns, minlength=width * width).reshape(width, width)[:-1]
    return matrix, rows, columns


def bound_of_difference(difference: float, error: float, rate: float) -> float:
    """Return what a difference is at least, but for a chance of `rate` (normal: differences are near 0)."""
    return difference - float(-ndtri(rate)) * error
