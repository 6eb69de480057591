"""`student_prompt: auto`: the text alone, unless the validation slice shows that whole prompts are better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_students import CLASSES, save_dataset, save_student

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Student
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.spec import CustomizeSpec
from flywheel.runtimes.job_command import is_done
from flywheel.stages import prompt_choice as stage
from flywheel.stages.customize import customize


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")
    save_student(tmp_path / "student")
    save_dataset(tmp_path / "artifacts", "d1", train=60, val=40)
    return tmp_path


def open_spec(folder: Path, **changes: Any) -> CustomizeSpec:
    settings: dict[str, Any] = {
        "artifact_root": str(folder / "artifacts"),
        "student": Student(model_name="tiny-1m", weights=str(folder / "student")),
        "dataset": "d1",
        "size": 48,
        "student_prompt": "auto",
        "chosen_with": 24,
        "answers": tuple(f"[[[{label}]]]" for label in CLASSES),
        "training": TrainingConfig(epochs=1, batch_size=16, learning_rate=5e-3, validations=0),
        "lora": LoraConfig(adapter_dim=4),
    }
    return CustomizeSpec(**{**settings, **changes})


def validation_says(
    monkeypatch: pytest.MonkeyPatch, text: list[bool], full: list[bool], untrained: list[bool] | None = None
) -> list[str]:
    """Have validation say so; return the list to which each examined form is added."""
    asked: list[str] = []

    def right(root: Any, spec: Any, made: Any, records: Any) -> list[bool]:
        form = "untrained" if made is None else "text" if made.short_prompt else "full"
        asked.append(form)
        return {"untrained": untrained or [True] * 40, "text": text, "full": full}[form]

    monkeypatch.setattr(stage, "_right", right)
    return asked


def test_both_forms_are_trained_and_compared_where_a_student_can_read_instructions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stage, "_constant", lambda records: [False] * len(records)
    )  # so that both are trained
    monkeypatch.setattr(stage, "LEVEL", 0.5)
    spec = open_spec(folder)
    made = customize(spec)
    choice = made.prompt_choice
    assert choice is not None and choice.asked == 40 and choice.trained_on == 24
    assert choice.form == ("full" if choice.p_value <= 0.5 else "text")
    assert made.adapter == spec.with_prompt(choice.form).key
    assert len(choice.compared) == 2 and choice.reason in made.notes


def test_a_student_that_cannot_read_instructions_is_asked_the_text_alone_untried(folder: Path) -> None:
    spec = open_spec(folder)
    made = customize(spec)
    choice = made.prompt_choice
    assert choice is not None and (choice.form, choice.asked) == ("text", 0)
    assert made.short_prompt is not None and made.adapter == spec.with_prompt("text").key
    assert choice.reason in made.notes and "the instructions tell it nothing" in choice.reason
    assert not ArtifactRoot(spec.artifact_root).find("adapters", spec.trainings[-1].key)


def test_whole_prompts_are_taken_where_validation_shows_that_they_are_better(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation_says(monkeypatch, text=[True] * 34 + [False] * 6, full=[True] * 40)
    made = customize(open_spec(folder))
    assert made.prompt_choice is not None and made.prompt_choice.form == "full"
    assert made.short_prompt is None and made.adapter == open_spec(folder).with_prompt("full").key
    assert "whole prompts, which is more than chance" in made.prompt_choice.reason


def test_a_difference_within_chance_leaves_the_text_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nine records are right by whole prompts alone and two by the text alone: p = .033 of one side.
    text = [False] * 9 + [True] * 31
    full = [True] * 9 + [False] * 2 + [True] * 29
    validation_says(monkeypatch, text, full)
    made = customize(open_spec(folder))
    assert made.prompt_choice is not None and made.prompt_choice.form == "text"
    assert made.prompt_choice.p_value == pytest.approx(0.0327, abs=1e-4)


def test_whole_prompts_are_not_even_trained_where_no_student_could_be_shown_to_be_better(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = validation_says(monkeypatch, text=[False] * 5 + [True] * 35, full=[True] * 40)
    made = customize(open_spec(folder))
    assert asked == ["text"] and made.prompt_choice is not None and made.prompt_choice.asked == 0
    assert not ArtifactRoot(str(folder / "artifacts")).find("adapters", open_spec(folder).trainings[-1].key)


def test_a_student_chooses_once_for_all_its_sizes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = validation_says(monkeypatch, text=[False] * 40, full=[True] * 40)
    made = [customize(open_spec(folder, size=size)) for size in (24, 48, 24)]
    assert asked == ["text", "untrained", "full"]
    assert {one.prompt_choice.form for one in made if one.prompt_choice} == {"full"}
    assert made[0].prompt_choice == made[1].prompt_choice and made[2].found


def test_a_job_whose_choice_and_adapter_are_there_is_done(folder: Path) -> None:
    path = folder / "artifacts/runs/r/jobs/c/customize.spec.json"
    path.parent.mkdir(parents=True)
    path.write_text(open_spec(folder).model_dump_json())
    assert not is_done("customize", str(path))
    customize(open_spec(folder))
    assert is_done("customize", str(path))


def test_the_choice_looks_at_the_validation_slice_alone(folder: Path) -> None:
    for name in ("eval", "calibration"):
        (folder / f"artifacts/datasets/d1/{name}.jsonl").write_text("no record\n")
    manifest = folder / "artifacts/datasets/d1/manifest.json"
    sizes = {file.name: file.stat().st_size for file in manifest.parent.glob("*.jsonl")}
    manifest.write_text(json.dumps({"files": sizes}))
    assert customize(open_spec(folder)).prompt_choice is not None


def test_without_classes_whole_prompts_stay(folder: Path) -> None:
    made = customize(open_spec(folder, answers=None))
    assert made.short_prompt is None and made.prompt_choice is None
