"""`tuning: {trials: N}`: settings by successive halving on the validation slice, in one process."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_students import CLASSES, save_dataset, save_student

from flywheel.common.errors import JobError, StudentError
from flywheel.config import Student
from flywheel.config.training import LoraConfig, TrainingConfig, TuningConfig
from flywheel.jobs.spec import CustomizeSpec
from flywheel.stages import tuning as stage
from flywheel.stages.customize import customize
from flywheel.students import training


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")
    save_student(tmp_path / "student")
    save_dataset(tmp_path / "artifacts", "d1", train=48, val=24)
    return tmp_path


def spec_of(folder: Path, trials: int, **changes: Any) -> CustomizeSpec:
    settings: dict[str, Any] = {
        "artifact_root": str(folder / "artifacts"),
        "student": Student(model_name="tiny-1m", weights=str(folder / "student")),
        "dataset": "d1",
        "size": 48,
        "student_prompt": "text",
        "answers": tuple(f"[[[{label}]]]" for label in CLASSES),
        "training": TrainingConfig(epochs=2, batch_size=16, learning_rate=5e-3, validations=0),
        "lora": LoraConfig(adapter_dim=4),
        "tuning": TuningConfig(trials=trials),
    }
    return CustomizeSpec(**{**settings, **changes})


def test_the_best_third_goes_on_with_three_times_the_steps_and_the_configs_settings_always(
    folder: Path,
) -> None:
    made = customize(spec_of(folder, 9))
    tuning = made.tuning
    assert tuning is not None and (tuning.by, tuning.records) == ("F1", 24)
    shares = Counter(round(trial.share, 4) for trial in tuning.trials)
    assert shares[round(1 / 9, 4)] == 9 and shares[round(1 / 3, 4)] in (3, 4)
    assert {trial.number for trial in tuning.trials if trial.share > 0.3} >= {0, tuning.chosen}
    last = {trial.number: trial for trial in tuning.trials if trial.share > 0.3}
    assert last[tuning.chosen].score == max(trial.score for trial in last.values())
    assert (
        len({(one.learning_rate, one.epochs, one.batch_size, one.adapter_dim) for one in tuning.trials}) > 6
    )


def test_the_adapter_is_trained_in_full_with_what_won(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(folder, 4)
    monkeypatch.setattr(
        stage._Done, "_score", lambda self, model, spec: float(model.peft_config["default"].r)
    )
    made = customize(spec)
    assert made.tuning is not None and made.tuning.chosen != 0
    best = made.tuning.last(made.tuning.chosen)
    path = folder / "artifacts" / made.path
    assert json.loads((path / "adapter_config.json").read_text())["r"] == best.adapter_dim > 4
    assert (made.learning_rate, made.epochs) == (best.learning_rate, best.epochs)
    assert made.steps == -(-48 // best.batch_size) * best.epochs
    assert made.tuning.sentence() in made.notes
    assert f"rank {best.adapter_dim}" in made.tuning.sentence() and "tokens" in made.tuning.sentence()
    assert all(trial.tokens > 0 and trial.seconds > 0 for trial in made.tuning.trials)
    assert made.adapter == spec.key != spec_of(folder, 0).key


def test_a_search_that_was_killed_goes_on_with_the_trials_that_it_has(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = training.fine_tune, list[float]()

    def stopped(*arguments: Any, **settings: Any) -> Any:
        if len(asked) == 2:
            raise JobError("stopped by SIGTERM")
        asked.append(settings["share"])
        return real(*arguments, **settings)

    monkeypatch.setattr(training, "fine_tune", stopped)
    with pytest.raises(JobError):
        customize(spec_of(folder, 4))
    asked.clear()

    def counted(*arguments: Any, **settings: Any) -> Any:
        asked.append(settings.get("share", 1.0))
        return real(*arguments, **settings)

    monkeypatch.setattr(training, "fine_tune", counted)
    made = customize(spec_of(folder, 4))
    assert [round(share, 3) for share in asked] == [0.333, 0.333, 1.0]
    assert made.tuning is not None and len(made.tuning.trials) == 4
    assert not list((folder / "artifacts/scratch/adapters").glob("*/*"))


def test_settings_at_which_a_training_diverges_are_not_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.fine_tune

    def diverges(model: Any, *arguments: Any, **settings: Any) -> Any:
        if arguments[2].learning_rate != 5e-3:
            raise StudentError("the loss is nan at step 2")
        return real(model, *arguments, **settings)

    monkeypatch.setattr(training, "fine_tune", diverges)
    made = customize(spec_of(folder, 4))
    assert made.tuning is not None and made.tuning.chosen == 0 and made.learning_rate == 5e-3


def test_the_search_looks_at_the_validation_slice_alone(folder: Path) -> None:
    for name in ("eval", "calibration"):
        (folder / f"artifacts/datasets/d1/{name}.jsonl").write_text("no record\n")
    manifest = folder / "artifacts/datasets/d1/manifest.json"
    sizes = {file.name: file.stat().st_size for file in manifest.parent.glob("*.jsonl")}
    manifest.write_text(json.dumps({"files": sizes}))
    assert customize(spec_of(folder, 2)).tuning is not None


def test_without_classes_the_loss_decides(folder: Path) -> None:
    made = customize(spec_of(folder, 2, answers=None, student_prompt="full"))
    assert made.tuning is not None and made.tuning.by == "loss"
    assert made.tuning.last(made.tuning.chosen).score == max(trial.score for trial in made.tuning.trials)


def test_nothing_is_searched_unless_it_is_asked_for(folder: Path) -> None:
    made = customize(spec_of(folder, 0))
    assert made.tuning is None
    assert spec_of(folder, 0).key == spec_of(folder, 1).key
