"""Bounds and paired tests behind a promotion: against the bootstrap, exact intervals, and made answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from flywheel.evaluation.choice import margin_left
from flywheel.evaluation.statistics import (
    bound_of_difference,
    lower_bound,
    paired_difference,
    standard_error,
    weighted_f1,
)
from flywheel.workloads.scoring import bootstrap_f1, confusion_of


def answers(records: int, right: float, seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    teacher = rng.choice(["a", "b", "c", "d"], records, p=[0.5, 0.3, 0.15, 0.05])
    other = rng.choice(["a", "b", "c", "d", ""], records)
    return teacher.tolist(), np.where(rng.random(records) < right, teacher, other).tolist()


@pytest.mark.parametrize("records", [400, 3000])
def test_the_error_of_weighted_f1_is_that_of_the_bootstrap(records: int) -> None:
    teacher, student = answers(records, 0.85, 1)
    matrix = confusion_of(teacher, student, ["a", "b", "c", "d"])
    assert weighted_f1(matrix) == pytest.approx(f1_score(teacher, student, average="weighted"))
    f1, support = bootstrap_f1(matrix, 4000)
    resampled = (f1 * support).sum(1) / records
    assert standard_error(matrix) == pytest.approx(resampled.std(), rel=0.05)


def test_a_bound_of_a_share_is_clopper_and_pearsons() -> None:
    # Of 95 right in 100 the lower end of the two-sided 95 % interval is .8872 (Clopper and Pearson 1934).
    assert lower_bound(0.95, (0.95 * 0.05 / 100) ** 0.5, 100, 0.025) == pytest.approx(0.8872, abs=1e-4)
    assert lower_bound(1.0, 0.0, 100, 0.025) == pytest.approx(0.9638, abs=1e-4)
    assert lower_bound(0.0, 0.0, 100, 0.025) == 0.0


def test_a_paired_difference_knows_that_the_same_records_are_hard() -> None:
    teacher, one = answers(2000, 0.85, 2)
    other = list(one)
    for place in range(0, 2000, 100):  # another answer on one record in a hundred
        other[place] = "a" if one[place] != "a" else "b"
    difference, error = paired_difference(teacher, one, other)
    expected = f1_score(teacher, one, average="weighted") - f1_score(teacher, other, average="weighted")
    assert difference == pytest.approx(expected)
    alone = standard_error(confusion_of(teacher, one, ["a", "b", "c", "d"]))
    assert error < 0.4 * alone
    assert paired_difference(teacher, one, one) == (0.0, 0.0)
    assert bound_of_difference(0.01, 0.01, 0.025) == pytest.approx(0.01 - 0.0196, abs=1e-4)


def test_margins_do_not_add_up() -> None:
    assert margin_left([], 0.02) == 0.02
    assert margin_left([-0.015], 0.02) == pytest.approx(0.005)
    assert margin_left([-0.015, -0.015], 0.02) == 0.0
    assert margin_left([-0.015, 0.03], 0.02) == 0.02
