"""Keys of jobs: the same for the same work, another for every input that matters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Student
from flywheel.config.evaluation import EvaluationConfig
from flywheel.config.student import CustomizerConfig
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec


@pytest.fixture
def student(tmp_path: Path) -> Student:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return Student(model_name="meta/llama-3.2-1b-instruct", weights=str(tmp_path))


def customize_spec(student: Student, **changes: Any) -> CustomizeSpec:
    return CustomizeSpec(**{"artifact_root": "a", "student": student, "dataset": "d", "size": 10, **changes})


def evaluate_spec(student: Student, **changes: Any) -> EvaluateSpec:
    return EvaluateSpec(
        **{"artifact_root": "a", "student": student, "dataset": "d", "classes": ("x", "y"), **changes}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "other"},
        {"size": 11},
        {"seed": 1},
        {"training": TrainingConfig(learning_rate=1e-3)},
        {"lora": LoraConfig(adapter_dim=8)},
    ],
)
def test_an_adapter_has_another_key_when_its_input_changes(student: Student, changes: dict[str, Any]) -> None:
    assert customize_spec(student, **changes).key != customize_spec(student).key


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "other"},
        {"adapter": "k"},
        {"classes": ("x",)},
        {"aliases": {"z": "x"}},
        {"evaluation": EvaluationConfig(max_new_tokens=3)},
    ],
)
def test_an_evaluation_has_another_key_when_its_input_changes(
    student: Student, changes: dict[str, Any]
) -> None:
    assert evaluate_spec(student, **changes).key != evaluate_spec(student).key


def test_what_has_no_part_in_the_work_has_none_in_the_key(student: Student) -> None:
    renamed = student.model_copy(update={"name": "other", "gpus": 2})
    assert customize_spec(renamed, artifact_root="b").key == customize_spec(student).key
    often = TrainingConfig(checkpoint_seconds=1.0)
    assert customize_spec(student, training=often).key == customize_spec(student).key
    assert evaluate_spec(renamed, size=5).key == evaluate_spec(student).key


def test_other_weights_or_limits_give_another_key(student: Student) -> None:
    before = customize_spec(student).key
    shorter = student.model_copy(update={"customizer_configs": CustomizerConfig(max_seq_length=99)})
    assert customize_spec(shorter).key != before
    (Path(student.weights) / "model.safetensors").write_bytes(b"other weights")
    assert customize_spec(student).key != before


def test_specs_survive_json(student: Student) -> None:
    spec = customize_spec(student)
    assert CustomizeSpec.model_validate_json(spec.model_dump_json()) == spec
    again = EvaluateSpec.model_validate(json.loads(evaluate_spec(student).model_dump_json()))
    assert again.key == evaluate_spec(student).key


def test_jobs_and_stages_are_imported_without_torch() -> None:
    code = (
        "import sys, flywheel.jobs.spec, flywheel.stages.customize, flywheel.stages.evaluate; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_students_starts_no_thread_and_no_gpu() -> None:
    code = (
        "import os, sys, threading\n"
        "import flywheel.students.training, flywheel.students.generation, flywheel.workloads.scoring\n"
        "import flywheel.students.adapter, flywheel.students.loading, torch\n"
        "sys.exit(f'{threading.enumerate()}' if threading.active_count() > 1 or torch.cuda.is_initialized() else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
