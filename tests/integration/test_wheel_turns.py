"""Whole runs of the DAG through a real scheduler."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import read_champion
from tests.integration.airflow_stack import Stack, apart, report_of, table_of, wait_for
from tests.integration.browser import log_in, open_browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Give the data folder and the report of a run with a broken student and a size that is out of reach."""
    folder = tmp_path_factory.mktemp("first")
    state = stack.turn("first", apart(folder), sizes=[40, 120, 5000])
    assert state == "success", stack.explain("first")
    return folder, report_of(folder, "first")


def test_good_candidates_are_in_the_table(first: tuple[Path, dict[str, Any]]) -> None:
    rows = {f"{row['student']} @ {row['size']}": row for row in first[1]["candidates"]}
    for name in ("small @ 40", "small @ 120"):
        assert 0 <= rows[name]["score"] <= 1
        assert rows[name]["adapter"]


def test_a_failing_student_is_in_the_table_with_its_reason(first: tuple[Path, dict[str, Any]]) -> None:
    for row in first[1]["candidates"]:
        if row["student"] == "broken":
            assert row["state"] == "failed"
            assert "no/such/weights" in row["reason"]


def test_a_size_out_of_reach_is_one_candidate_on_all_records(first: tuple[Path, dict[str, Any]]) -> None:
    train = first[1]["data"]["train"]
    rows = {r["size"]: r for r in first[1]["candidates"] if r["student"] == "small"}
    assert 120 < train < 5000
    assert 5000 not in rows
    assert rows[train]["state"] == "scored"
    assert any("5,000" in note for note in first[1]["data"]["notes"])


def test_tasks_have_names_and_states(stack: Stack, first: Any) -> None:
    states = stack.states("first")
    train = first[1]["data"]["train"]
    assert states["customize small @ 120"] == "success"
    assert states[f"customize small @ {train}"] == "success"
    assert states["evaluate small @ 120"] == "success"
    assert states["base_eval small"] == "success"
    assert states["base_eval broken"] == "failed"
    assert states["customize broken @ 40"] == "failed"
    assert {states[name] for name in ("plan", "label", "ingest", "curate", "score", "review", "promote")} == {
        "success"
    }


def test_a_student_that_cannot_be_loaded_is_tried_once(stack: Stack, first: Any) -> None:
    (task,) = [task for task in stack.tasks("first") if task.name == "customize broken @ 40"]
    assert task.attempt == 1


def test_the_jobs_lines_are_in_the_tasks_log(stack: Stack, first: Any) -> None:
    assert "small" in stack.log("first", "customize small @ 120")
    events = [json.loads(line) for line in stack.log("first", "customize broken @ 40").splitlines()]
    assert any("no/such/weights" in event["event"] and event["level"] == "error" for event in events)


def test_the_champion_is_an_asset_event(stack: Stack, first: tuple[Path, dict[str, Any]]) -> None:
    champion = first[1]["champion"]
    events = stack.rest("GET", "/assets/events?source_run_id=first")["asset_events"]
    (event,) = [event for event in events if event["source_task_id"] == "promote"]
    assert event["uri"] == "x-flywheel://champion/news_classifier/test"
    assert event["extra"]["student"] == champion["student"]
    assert event["extra"]["size"] == champion["size"]


def test_xcoms_are_small(stack: Stack, first: Any) -> None:
    for task in stack.tasks("first"):
        if task.state == "success":
            index = max(task.map_index, -1)
            path = stack.task_path("first", task.full_id)
            entries = stack.rest("GET", f"{path}/xcomEntries?map_index={index}")["xcom_entries"]
            for entry in entries:
                value = stack.rest("GET", f"{path}/xcomEntries/{entry['key']}?map_index={index}")["value"]
                assert len(json.dumps(value)) < 4000, task.name


def test_the_same_run_again_finds_everything(stack: Stack, first: tuple[Path, dict[str, Any]]) -> None:
    folder, before = first
    calls = stack.teacher_calls()
    assert stack.turn("again", apart(folder), sizes=[40, 120, 5000]) == "success", stack.explain("again")
    report = report_of(folder, "again")
    assert report["counters"] == {"teacher_calls": 0, "training_steps": 0}
    assert stack.teacher_calls() == calls
    assert table_of(report) == table_of(before)
    assert report["decision"]["state"] == "in place"


def test_a_run_in_which_nothing_could_be_scored_fails_with_the_reason(stack: Stack, first: Any) -> None:
    folder, _ = first
    assert stack.turn("hopeless", apart(folder), students=["broken"]) == "failed"
    log = stack.log("hopeless", "score")
    assert "no candidate could be scored" in log
    assert "no/such/weights" in log


def answer(stack: Stack, run_id: str, option: str) -> str:
    """Answer the review through the REST API; return what the person was shown."""
    wait_for(lambda: stack.states(run_id).get("review") == "awaiting_input", 240)
    # A person takes longer. An answer in the second in which the task's process ends is lost: the scheduler
    # then takes that end for the end of the task that goes on, and asks again.
    time.sleep(5)
    path = f"{stack.task_path(run_id, 'review', -1)}/hitlDetails"
    shown = stack.rest("GET", path)
    stack.rest("PATCH", path, {"chosen_options": [option], "params_input": {}})
    return str(shown["body"])


def approve_in_the_browser(stack: Stack, run_id: str) -> None:
    """Approve in Airflow's own UI, without a comment."""
    wait_for(lambda: stack.states(run_id).get("review") == "awaiting_input", 240)
    time.sleep(5)  # as above
    token = stack.http.headers["Authorization"].removeprefix("Bearer ")
    with open_browser() as browser:
        page = log_in(browser, stack.api.url, token).new_page()
        page.goto(f"{stack.api.url}/dags/flywheel/runs/{run_id}/tasks/review/required_actions")
        page.get_by_role("button", name="Approve").click(timeout=60_000)
        expect(page.get_by_text("Response received at").first).to_be_visible(timeout=60_000)


def test_a_person_decides(stack: Stack, data: Path, first: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = first
    # Another client has no champion yet; its headlines were labelled before.
    overrides = apart(folder, client_id="other")
    stack.trigger("rejected", overrides, students=["small"], client_id="other", approval="human")
    shown = answer(stack, "rejected", "Reject")
    assert "| 120 |" in shown
    assert stack.wait("rejected") == "success", stack.explain("rejected")
    report = report_of(folder, "rejected")
    assert report["decision"]["state"] == "rejected"
    assert "rejected by" in report["decision"]["comment"]
    root = ArtifactRoot(str(folder / "artifacts"))
    assert read_champion(root, "news_classifier", "other") is None

    stack.trigger("approved", overrides, students=["small"], client_id="other", approval="human")
    approve_in_the_browser(stack, "approved")
    assert stack.wait("approved") == "success", stack.explain("approved")
    champion = read_champion(root, "news_classifier", "other")
    assert champion is not None
    assert champion.run_id == "approved"
    events = stack.rest("GET", "/assets/events?source_run_id=rejected")["asset_events"]
    assert not events
