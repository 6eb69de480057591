"""What a training is run with where the config leaves it open, and what is said of what it sets."""

from __future__ import annotations

import re

import pytest

from flywheel.config.student import Student
from flywheel.config.training import TrainingConfig
from flywheel.jobs.settings import settle
from flywheel.jobs.spec import CustomizeSpec


@pytest.mark.parametrize(
    ("records", "epochs", "steps"), [(500, 10, 80), (2_000, 5, 160), (8_000, 3, 375), (25_000, 3, 1_173)]
)
def test_few_records_are_passed_over_more_often(records: int, epochs: int, steps: int) -> None:
    found = settle(TrainingConfig(), records, 576)
    assert (found.epochs, found.steps) == (epochs, steps)
    assert not found.doubts


@pytest.mark.parametrize(("width", "rate"), [(96, 8e-3), (256, 3.7e-3), (576, 2e-3), (2048, 7.5e-4)])
def test_a_wider_student_is_given_a_lower_rate(width: int, rate: float) -> None:
    assert settle(TrainingConfig(), 500, width).learning_rate == rate


def test_what_the_config_sets_stays() -> None:
    found = settle(TrainingConfig(epochs=2, learning_rate=1e-3, min_steps=100), 500, 576)
    assert (found.epochs, found.learning_rate, found.steps) == (2, 1e-3, 100)


def test_where_the_width_is_unknown_the_blueprints_numbers_stand() -> None:
    found = settle(TrainingConfig(), 500, None)
    assert (found.epochs, found.learning_rate, found.steps) == (1, 1e-4, 8)
    (doubt,) = found.doubts
    assert doubt.startswith("8 optimizer steps are few") and "leave" not in doubt


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"learning_rate": 1e-4},
            r"learning_rate 0\.0001 lies far from 0\.002, which fits a model of width 576",
        ),
        ({"learning_rate": 0.1}, r"learning_rate 0\.1 lies far from 0\.002"),
        ({"epochs": 1}, r"8 optimizer steps are few"),
    ],
    ids=["low rate", "high rate", "few steps"],
)
def test_settings_far_from_what_was_measured_to_be_good_are_said(
    settings: dict[str, float], said: str
) -> None:
    (doubt,) = settle(TrainingConfig.model_validate(settings), 500, 576).doubts
    assert re.search(said, doubt)


def test_an_adapter_whose_settings_were_found_is_another_than_one_whose_settings_were_set() -> None:
    def key(**settings: float) -> str:
        student = Student(model_name="small", weights="include/flywheel/demo/students/small")
        training = TrainingConfig.model_validate(settings)
        spec = CustomizeSpec(artifact_root="unused", student=student, dataset="d", size=10, training=training)
        return spec.key

    assert key() != key(epochs=10, learning_rate=0.008)
