"""A flywheel whose wheel has turned once over 900 demo headlines, with a small real student as champion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

import flywheel
from flywheel.annotation.champion import ChampionModel
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.demo.headlines import generate
from flywheel.promotion.champion import Champion, read_champion
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.workloads.workload import Workload
from tests.unit.kept_in import kept_in
from tests.unit.turned_wheel import turn

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
SMALL = {
    "model_name": "flywheel/demo-small",
    "name": "small",
    "weights": "include/flywheel/demo/students/small",
    "context_length": 2048,
    "gpus": 0,
}
LINEAR = {"model_name": "flywheel/linear", "name": "linear", "family": "linear", "context_length": 2048}
# Seconds at which the records were made: the first champion's cutoff is after them.
FIRST = 1_700_000_000


def config_of(folder: Path, student: dict[str, Any], **changes: Any) -> Config:
    """Return the config of a desk that has one student."""
    data = {
        "client_id": "desk",
        "nims": [student],
        "sizes": [600],
        "source": [{"path": str(folder / "log.jsonl"), "kind": "log_records"}],
        **kept_in(folder),
        "data_split_config": {
            "split": "random",
            "eval_size": 100,
            "min_total_records": 100,
            "val_ratio": 0,
            "calibration_ratio": 0.08,
        },
        "student_prompt": "text",
        "lora_config": {"adapter_dropout": 0.0},
        "training_config": {"batch_size": 16, "epochs": 4, "learning_rate": 0.008, "validations": 0},
        "evaluation_config": {"workload_type": "classification", "batch_size": 50, "decoding": "labels"},
        "promotion": {"within": 0.9, "min_eval": 1},
        **changes,
    }
    return validate_config(data, "test")


@contextmanager
def promoted(home: Path, student: dict[str, Any], headlines: int = 900, **changes: Any) -> Iterator[Path]:
    """Turn the wheel in a folder, on one thread of the CPU; the champion is in force meanwhile."""
    with (home / "log.jsonl").open("wb") as file:
        for place, headline in enumerate(generate(headlines)):
            answer = WORKLOAD.answer_for(headline.teacher_label)
            line = {
                "request": {"model": "teacher", "messages": WORKLOAD.messages(headline.text)},
                "response": {"choices": [{"message": {"role": "assistant", "content": answer}}]},
                "timestamp": FIRST + place,
                "workload_id": WORKLOAD.id,
                "client_id": "desk",
            }
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_DEVICE", "cpu")
        patch.setenv("FLYWHEEL_THREADS", "1")
        plan = make_plan(
            config_of(home, student, **changes), run_id="night", cutoff=datetime(2026, 1, 1, tzinfo=UTC)
        )
        report = turn(Run.create(plan))
        assert report.champion is not None, report.decision
        yield home


def root_of(folder: Path) -> ArtifactRoot:
    """Return its artifacts."""
    return ArtifactRoot(str(folder / "artifacts"))


def champion_in(folder: Path) -> Champion:
    """Return the champion in force."""
    champion = read_champion(root_of(folder), WORKLOAD.id, "desk")
    assert champion is not None
    return champion


def predictions_of(folder: Path) -> list[dict[str, Any]]:
    """Return the champion's evaluated answers."""
    file = folder / "artifacts" / "evaluations" / str(champion_in(folder).evaluation) / "predictions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def model(folder: Path) -> ChampionModel:
    """The champion of a test's `folder`."""
    return flywheel.champion(WORKLOAD.id, "desk", root=folder / "artifacts")
