"""The threshold of a cascade: what it promises holds, and where nothing is shown the teacher answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flywheel.evaluation.cascade import ERROR_RATE, cascade_of, curve, least_records
from flywheel.jobs.result import Calibration
from flywheel.students.calibration import levels_of, probabilities_of
from flywheel.students.choosing import LabelChoice

Floats = NDArray[np.float64]
SLICES = 400


def calibration(levels: Any) -> Calibration:
    return Calibration(temperature=1, records=100, ece=0, ece_before=0, bins=(), levels=levels)


def slice_of(rng: np.random.Generator, agree: Callable[[Floats], Floats], records: int) -> Calibration:
    """Return a calibration slice of answers that agree, at each confidence, as often as `agree` says."""
    apart, counted = rng.beta(4, 1, records // 5), rng.beta(4, 1, records - records // 5)
    right = rng.random(len(counted)) < agree(counted)
    return calibration(levels_of(apart, counted, right))


SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "calibrated": lambda p: p,
    "too sure of itself": lambda p: 0.75 * p + 0.1,
    "wrong where it is most sure": lambda p: np.where(p > 0.97, 0.8, np.minimum(0.99, p + 0.1)),
    "as good at any confidence, just below the target": lambda p: np.full_like(p, 0.895),
    "good above a level and bad below it": lambda p: np.where(p > 0.85, 0.93, 0.4),
}


@pytest.mark.parametrize("records", [250, 1500])
@pytest.mark.parametrize("shape", SHAPES)
def test_over_many_slices_the_promised_agreement_is_missed_in_no_more_than_one_of_twenty(
    shape: str, records: int
) -> None:
    rng, target = np.random.default_rng(0), 0.9
    world = rng.beta(4, 1, 50_000)
    agrees = SHAPES[shape](world)
    missed = 0
    for _ in range(SLICES):
        found = cascade_of(slice_of(rng, SHAPES[shape], records), target)
        if found.threshold is not None:
            missed += agrees[world >= found.threshold].mean() < target
    # Three standard errors of the simulation above the rate.
    assert missed / SLICES <= ERROR_RATE + 3 * (ERROR_RATE * (1 - ERROR_RATE) / SLICES) ** 0.5


def test_the_lowest_level_by_its_own_bound_would_break_the_promise() -> None:
    """What the procedure is for: on the same slices the naive choice is wrong too often."""
    rng, target, missed = np.random.default_rng(0), 0.9, 0
    for _ in range(200):
        points = list(curve(slice_of(rng, lambda p: np.full_like(p, 0.895), 1500)))
        missed += any(point.low >= target for point in points)
    assert missed / 200 > 2 * ERROR_RATE


def test_a_student_that_is_good_enough_answers_most_of_what_it_may() -> None:
    rng = np.random.default_rng(1)
    world = rng.beta(4, 1, 200_000)
    # The largest share whose true agreement is .9.
    order = np.sort(world)[::-1]
    best = (np.cumsum(order) / np.arange(1, len(order) + 1) >= 0.9).mean()
    shares = [cascade_of(slice_of(rng, lambda p: p, 1500), 0.9).share for _ in range(30)]
    assert np.mean(shares) > 0.75 * best


def test_the_temperature_is_fitted_on_other_records_than_the_levels_count() -> None:
    rng = np.random.default_rng(2)
    logs = np.log(rng.dirichlet([4, 1, 1], 700))
    choices = [LabelChoice(int(row.argmax()), [], row) for row in logs]
    records = [{"label": "abc"[int(row.argmax())]} for row in logs]
    found = probabilities_of(("a", "b", "c"), records[:100], records[100:], choices).calibration
    assert (found.records, found.level_records) == (120, 480)
    assert [level.records for level in found.levels] == sorted(level.records for level in found.levels)
    assert all(level.right == level.records for level in found.levels)


def test_few_records_show_nothing_and_the_reason_says_how_many_are_needed() -> None:
    rng = np.random.default_rng(3)
    found = cascade_of(slice_of(rng, lambda p: np.ones_like(p), 100), 0.99)
    assert found.threshold is None
    assert not found.answers(1.0)
    assert f"{2 * least_records(0.99):,} are needed" in found.reason


def test_without_probabilities_the_teacher_answers_all() -> None:
    found = cascade_of(None, 0.9)
    assert found.threshold is None
    assert "evaluation_config.decoding: labels" in found.reason


def test_a_student_that_never_agrees_answers_nothing() -> None:
    found = cascade_of(slice_of(np.random.default_rng(4), lambda p: np.zeros_like(p), 1500), 0.8)
    assert found.threshold is None
    assert "at no confidence" in found.reason


def test_answers_at_the_threshold_are_the_students() -> None:
    found = cascade_of(slice_of(np.random.default_rng(5), lambda p: np.ones_like(p), 1500), 0.9)
    assert found.threshold == 0.0  # it is always right: all of them
    assert found.answers(0.0)
    assert not found.answers(None)
    assert found.low is not None
    assert found.low >= 0.9
