"""Probabilities that mean what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from flywheel.students.calibration import (
    LEAST_RECORDS,
    bins_of,
    calibrated,
    calibration_error,
    fit_temperature,
    probabilities_of,
)
from flywheel.students.choosing import LabelChoice

CLASSES = ("up", "down", "flat")


def drawn(count: int, sharpness: float) -> tuple[Any, Any]:
    """Return log-probabilities that are so much too sure of themselves, and classes drawn from the true ones."""
    rng = np.random.default_rng(0)
    true = log_softmax(rng.normal(0, 1.5, (count, 3)), axis=1)
    teacher = np.array([rng.choice(3, p=np.exp(row)) for row in true])
    return log_softmax(true * sharpness, axis=1), teacher


def choices_of(logs: Any) -> list[LabelChoice]:
    return [LabelChoice(int(row.argmax()), [], row) for row in logs]


def records_of(teacher: Any) -> list[dict[str, str]]:
    return [{"label": CLASSES[place]} for place in teacher]


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_is_how_much_too_sure_a_student_is(sharpness: float) -> None:
    assert fit_temperature(*drawn(20_000, sharpness)) == pytest.approx(sharpness, rel=0.05)


def test_a_student_too_sure_of_itself_is_calibrated_on_other_records_than_it_is_measured_on() -> None:
    logs, teacher = drawn(14_000, 3.0)
    found = probabilities_of(
        CLASSES, records_of(teacher[:4_000]), records_of(teacher[4_000:]), choices_of(logs)
    )
    assert found.calibration.records == 2_000  # a fifth of the slice
    assert found.calibration.temperature == pytest.approx(3, rel=0.15)
    assert found.calibration.ece < 0.03 < 0.1 < found.calibration.ece_before
    assert sum(part.records for part in found.calibration.bins) == 4_000
    assert found.values.sum(1) == pytest.approx(np.ones(4_000))
    # The order of the classes stays, so the answer does.
    assert (found.values.argmax(1) == logs[:4_000].argmax(1)).all()


def test_with_too_few_records_probabilities_stay_as_the_student_gave_them() -> None:
    logs, teacher = drawn(100 + LEAST_RECORDS - 1, 3.0)
    found = probabilities_of(CLASSES, records_of(teacher[:100]), records_of(teacher[100:]), choices_of(logs))
    assert (found.calibration.temperature, found.calibration.records) == (1, 0)
    assert found.calibration.ece == found.calibration.ece_before


def test_records_of_a_class_that_is_none_of_the_answers_count_as_wrong_and_calibrate_nothing() -> None:
    logs, _ = drawn(200, 1.0)
    held = [{"label": "unknown"}] * 100
    found = probabilities_of(CLASSES, held, held, choices_of(logs))
    assert found.calibration.records == 0
    assert all(part.right == 0 for part in found.calibration.bins)


def test_the_calibration_error_is_the_mean_distance_over_bins_of_equally_many() -> None:
    confidence = np.repeat([0.6, 0.9], 500)
    right = np.concatenate([np.arange(500) < 400, np.arange(500) < 400])
    bins = bins_of(confidence, right)
    assert [part.records for part in bins] == [100] * 10
    # Of each five hundred the first four bins are all right, and the last is all wrong.
    assert calibration_error(bins) == pytest.approx((4 * 0.4 + 0.6 + 4 * 0.1 + 0.9) / 10)
    assert all(part.low <= part.right <= part.high for part in bins)


def test_an_unlikely_class_is_no_line_of_the_predictions() -> None:
    logs = np.log(np.array([[0.9997, 0.0002, 0.0001], [0.5, 0.3, 0.2]]))
    found = probabilities_of(CLASSES, records_of(np.array([0, 0])), [], choices_of(logs))
    assert found.lines() == [{"up": 0.9997}, {"up": 0.5, "down": 0.3, "flat": 0.2}]
    assert calibrated(logs, 1.0) == pytest.approx(np.exp(logs))
