"""A real Airflow asks a person before much is asked of the teacher, once for the nights that wait."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.airflow_stack import Stack, apart, make_home, wait_for

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Give an Airflow whose operator wants to be asked above 100 answers."""
    teacher = {"model": "stand-in", "concurrency": 4, "confirm_above": {"answers": 100}}
    folder = make_home(tmp_path / "home", teacher=teacher)
    monkeypatch.setenv("FLYWHEEL_HOME", str(folder))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(folder / "config.yaml"))
    assert os.environ["FLYWHEEL_HOME"] == str(folder)
    running = Stack(folder)
    try:
        yield running
    finally:
        running.stop()


def answer(stack: Stack, run_id: str, option: str) -> str:
    """Answer a run's question; return what the person was shown."""
    wait_for(lambda: stack.states(run_id).get("confirm") == "awaiting_input", 240)
    time.sleep(5)  # a person takes longer: see test_wheel_turns
    path = f"{stack.task_path(run_id, 'confirm', -1)}/hitlDetails"
    shown = stack.rest("GET", path)
    stack.rest("PATCH", path, {"chosen_options": [option], "params_input": {}})
    return str(shown["body"])


def test_one_answer_is_for_all_nights_that_wait(asking: Stack, data: Path) -> None:
    overrides = apart(data)
    asking.trigger("first", overrides, students=["small"], sizes=[40])
    wait_for(lambda: asking.states("first").get("confirm") == "awaiting_input", 240)
    asking.trigger("second", overrides, students=["small"], sizes=[40])
    wait_for(lambda: asking.states("second").get("confirm") == "up_for_reschedule", 240)
    assert asking.teacher_calls() == 0
    shown = answer(asking, "first", "Approve")
    assert "answers will be asked of the teacher (0 of" in shown
    for run_id in ("first", "second"):
        assert asking.wait(run_id) == "success", asking.explain(run_id)
    assert "will be asked of the teacher" in asking.log("first", "plan")

    refused = apart(data.parent / "other")
    calls = asking.teacher_calls()
    asking.trigger("refused", refused, students=["small"], sizes=[40])
    answer(asking, "refused", "Reject")
    assert asking.wait("refused") == "failed"
    assert "the teacher was not asked: rejected by" in asking.log("refused", "confirm")
    assert asking.teacher_calls() == calls
