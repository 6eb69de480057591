"""A run that nothing goes on in says so: on the page, in the API and, once, in notifications."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.integration.airflow_stack import Stack, apart, wait_for
from tests.integration.browser import Watched, axe_faults, log_in, open_browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def stuck(stack: Stack, stage: str) -> Any:
    """Return what the API says that the run is stuck at, as soon as that is a stage."""

    def said() -> Any:
        failure = stack.http.get("/flywheel/api/runs/stuck").json().get("failure")
        return failure if failure and failure["is_stuck"] and failure["stage"] == stage else None

    return wait_for(said, 240)


def test_a_run_that_waits_says_for_what_and_tells_it_once(stack: Stack, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    noting = {"notifier": "tests.integration.noting.NotingNotifier", "arguments": {"path": str(notes)}}
    told = {"notifications": {"on_stuck": [noting], "stuck_minutes": 0.05}}
    with stack.configured(apart(tmp_path / "data", **told)):
        is_stuck_twice(stack, notes)


def is_stuck_twice(stack: Stack, notes: Path) -> None:
    stack.rest("PATCH", "/dags/flywheel", {"is_paused": True})
    try:
        stack.trigger("stuck", {}, students=["small"], sizes=[40], approval="human")
        failure = stuck(stack, "run")
        assert "its DAG is paused" in failure["sentence"]
        look_at_the_page(stack, failure)
        first = told_of(notes, "run")
        assert (first["sentence"], first["mend"]) == (failure["sentence"], failure["mend"])
    finally:
        stack.rest("PATCH", "/dags/flywheel", {"is_paused": False})
    failure = stuck(stack, "review")
    assert "a person was asked" in failure["sentence"]
    (line,) = [run for run in stack.http.get("/flywheel/api/runs").json()["runs"] if run["run_id"] == "stuck"]
    assert line["failure"] == failure
    assert told_of(notes, "review")["sentence"] == failure["sentence"]
    answer = {"chosen_options": ["Reject"], "params_input": {"comment": "not now"}}
    stack.rest("PATCH", f"{stack.task_path('stuck', 'review', -1)}/hitlDetails", answer)
    assert stack.wait("stuck") == "success"
    assert stack.http.get("/flywheel/api/runs/stuck").json()["failure"] is None
    stages = [json.loads(line)["stage"] for line in notes.read_text().splitlines()]
    assert len(stages) == len(set(stages))


def told_of(file: Path, stage: str) -> dict[str, Any]:
    """Return what was told of a stage, as soon as it is."""

    def found() -> list[dict[str, Any]]:
        lines = file.read_text().splitlines() if file.exists() else []
        return [note for line in lines if (note := json.loads(line))["stage"] == stage]

    return dict(wait_for(found, 120)[0])


def look_at_the_page(stack: Stack, failure: dict[str, Any]) -> None:
    token = str(stack.http.headers["Authorization"]).removeprefix("Bearer ")
    with open_browser() as browser:
        context = log_in(browser, stack.api.url, token)
        watched = Watched(context.new_page(), ("404",))  # no run has made a champion
        watched.page.goto(f"{stack.api.url}/plugin/flywheel?run=stuck")
        card = watched.page.get_by_role("region", name="What the run is stuck at")
        expect(card).to_contain_text(failure["sentence"], timeout=30_000)
        expect(card).to_contain_text(failure["mend"])
        assert not axe_faults(watched.page, ".flywheel .failure")
        if shots := os.environ.get("FLYWHEEL_SCREENSHOTS"):
            watched.page.screenshot(path=f"{shots}/stuck-{int(time.time())}.png")
        assert not watched.complaints
        context.close()
