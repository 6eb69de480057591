"""A flywheel whose wheel has turned once, and the endpoint that answers with its champion."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.demo.headlines import generate
from flywheel.promotion.champion import Champion, read_champion
from flywheel.promotion.transitions import decide, promoted
from flywheel.promotion.whole import keep_whole
from flywheel.report.model import Report
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.serving.app import Serving
from flywheel.serving.switching import wait_until_served
from flywheel.stages.promote import champion_of
from flywheel.workloads.workload import Workload
from tests.unit.teacher_servers import served
from tests.unit.turned_wheel import turn

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
HEADLINES = list(generate(900))
STUDENT = {
    "model_name": "flywheel/demo-small",
    "name": "small",
    "weights": "include/flywheel/demo/students/small",
    "context_length": 2048,
    "gpus": 0,
}


def config_of(folder: Path, **changes: Any) -> Config:
    data = {
        "client_id": "desk",
        "nims": [STUDENT],
        "sizes": [300, 600],
        "source": [{"path": str(folder / "log.jsonl"), "kind": "log_records"}],
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
        "mlflow_config": {"tracking_uri": f"sqlite:///{folder}/mlflow.db"},
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
        "serving": {"follow_seconds": 0.1, **changes.pop("serving", {})},
        **changes,
    }
    return validate_config(data, "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A flywheel whose wheel has turned once: two candidates, one of them the champion."""
    home = tmp_path_factory.mktemp("home")
    with (home / "log.jsonl").open("wb") as file:
        for place, headline in enumerate(HEADLINES):
            answer = WORKLOAD.answer_for(headline.teacher_label)
            line = {
                "request": {"model": "teacher", "messages": WORKLOAD.messages(headline.text)},
                "response": {"choices": [{"message": {"role": "assistant", "content": answer}}]},
                "timestamp": 1_700_000_000 + place,
                "workload_id": WORKLOAD.id,
                "client_id": "desk",
            }
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_DEVICE", "cpu")
        patch.setenv("FLYWHEEL_THREADS", "1")
        plan = make_plan(config_of(home), run_id="night", cutoff=datetime(2026, 1, 1, tzinfo=UTC))
        report = turn(Run.create(plan))
        assert report.champion is not None, report.decision
        yield home


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(Serving(config_of(folder)).app()) as address:
        deadline = time.monotonic() + 60
        while httpx.get(f"{address}/health/ready").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield address


def predictions_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the champion's evaluated answers, by text."""
    run = Run(ArtifactRoot(str(folder / "artifacts")), "night")
    champion = read_champion(run.root, WORKLOAD.id, "desk")
    assert champion is not None
    file = folder / "artifacts" / "evaluations" / str(champion.evaluation) / "predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {line["text"]: line for line in lines}


def ask(url: str, messages: Any, model: str = WORKLOAD.id, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": messages, **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def of_user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def serving_name(folder: Path) -> str:
    return champion_in(folder).name


def wait(url: str, adapter: str, seconds: float = 60) -> list[str]:
    said: list[str] = []
    wait_until_served(
        url,
        workload=WORKLOAD.id,
        client="desk",
        adapter=adapter,
        seconds=seconds,
        say=said.append,
        pause=0.02,
    )
    return said


def champion_in(folder: Path) -> Champion:
    champion = read_champion(ArtifactRoot(str(folder / "artifacts")), WORKLOAD.id, "desk")
    assert champion is not None
    return champion


def put_into_force(run: Run, size: int) -> None:
    """Put a candidate into production, as a person does by API."""
    whole = whole_of(run, size)
    decide(run.root, WORKLOAD.id, "desk", lambda state: promoted(state, whole), by="pat")


def whole_of(run: Run, size: int) -> Champion:
    report = Report.read(Path(run.root.url) / run.path)
    row = report.candidate("small", size)
    assert row is not None
    champion = champion_of(run.plan, report, row, reason="by hand", comment="", registry=None)
    return keep_whole(run.root, run.plan, champion)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
