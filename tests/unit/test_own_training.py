"""A student that says itself at which rate and for how many epochs it is trained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.jobs.spec import CustomizeSpec
from flywheel.runs.plan import Candidate
from flywheel.stages.pipeline import customize_spec


def config(**training: Any) -> Config:
    nims = [
        {"model_name": "wide", "name": "wide"},
        {
            "model_name": "narrow",
            "name": "narrow",
            "customizer_configs": {"epochs": 3, "learning_rate": 0.005},
        },
    ]
    return validate_config({"nims": nims, "training_config": training, "student_prompt": "full"}, "test")


def spec_of(given: Config, student: str) -> CustomizeSpec:
    plan = SimpleNamespace(config=given, candidates=(Candidate(student=student, size=9),), workload=None)
    curated = SimpleNamespace(workload_type="generic", candidates=(), dataset="d", answers=None, classes=())
    run: Any = SimpleNamespace(plan=plan, load=lambda *_: curated)
    return customize_spec(run, Candidate(student=student, size=9))


def test_a_student_s_own_settings_stand_before_those_of_all() -> None:
    given = config(epochs=2, learning_rate=0.003, batch_size=32)
    narrow, wide = spec_of(given, "narrow").training, spec_of(given, "wide").training
    assert (narrow.epochs, narrow.learning_rate, narrow.batch_size) == (3, 0.005, 32)
    assert (wide.epochs, wide.learning_rate, wide.batch_size) == (2, 0.003, 32)


def test_what_a_student_leaves_open_is_that_of_all_or_found() -> None:
    given = config(epochs=2)
    assert given.training_of(given.student("wide")) == given.training_config
    only_rate = given.student("narrow").model_copy(
        update={
            "customizer_configs": given.student("narrow").customizer_configs.model_copy(
                update={"epochs": None}
            )
        }
    )
    assert given.training_of(only_rate).epochs == 2
    assert given.training_of(given.student("wide")).learning_rate is None
