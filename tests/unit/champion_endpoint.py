"""A flywheel whose wheel has turned once, and the endpoint that answers with its champion."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flywheel.config import Config
from flywheel.demo.headlines import generate
from flywheel.promotion.champion import Champion
from flywheel.promotion.transitions import decide, promoted
from flywheel.promotion.whole import keep_whole
from flywheel.report.model import Report
from flywheel.runs.run import Run
from flywheel.serving.app import Serving
from flywheel.serving.switching import wait_until_served
from flywheel.stages.promote import champion_of
from flywheel.workloads.workload import Workload
from tests.unit import promoted_desk
from tests.unit.promoted_desk import SMALL, champion_in
from tests.unit.teacher_servers import served

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
HEADLINES = list(generate(900))
SIZES = [300, 600]


def config_of(folder: Path, **changes: Any) -> Config:
    """Return the config of the desk whose endpoint it is."""
    serving = {"follow_seconds": 0.1, **changes.pop("serving", {})}
    return promoted_desk.config_of(folder, SMALL, **{"sizes": SIZES, "serving": serving, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A flywheel whose wheel has turned once: two candidates, one of them the champion."""
    with promoted_desk.promoted(tmp_path_factory.mktemp("home"), SMALL, sizes=SIZES) as home:
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
    return {line["text"]: line for line in promoted_desk.predictions_of(folder)}


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
