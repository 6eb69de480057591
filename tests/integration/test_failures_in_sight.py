"""A drill: six planted failures in a real Airflow: API, page and notification say stage, reason and what to do.

The killed job of this machine stands for a killed pod here; pods are killed in tests/e2e/test_killed_pods.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.integration.airflow_stack import Stack, apart, halted_jobs, in_progress, wait_for
from tests.integration.browser import Watched, axe_faults, log_in, open_browser
from tests.integration.leaky import EchoingTeacher

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.timeout(1200)]

# By run: stage, a part of the reason, a part of what to do.
HOPELESS = {
    "teacher-refuses": ("label", "401", "doctor"),
    "budget": ("label", "teacher.budget.calls", "teacher.budget"),
    "empty": ("curate", "0 records", "source"),
    "weights": ("customize", "no/such/weights", "weights"),
}
FAILURES = {
    **HOPELESS,
    "disk": ("label", "No space left", "flywheel prune"),
    "killed": ("customize", "signal 9", "memory"),
}


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Give a file system that has no room left."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def plant(stack: Stack, folder: Path, disk: Path, refusing: str) -> dict[str, Path]:
    """Start a run for each failure; return where each one's notifications are written down."""
    (folder / "empty.csv").write_text("headline,date,human_label\n")
    columns = {"text": "headline", "timestamp": "date", "human_label": "human_label"}
    more: dict[str, dict[str, Any]] = {
        "teacher-refuses": {"teacher": {"base_url": refusing}},
        "budget": {"teacher": {"budget": {"calls": 10}}},
        "empty": {"source": {"path": str(folder / "empty.csv"), "columns": columns}},
        "weights": {},
        "disk": {"store": {"path": str(disk / "records.sqlite")}},
        "killed": {"training_config": {"epochs": 400, "validations": 0}},
    }
    notes = {}
    for name, sections in more.items():
        notes[name] = folder / f"{name}.notes"
        notifier = {
            "notifier": "tests.integration.noting.NotingNotifier",
            "arguments": {"path": str(notes[name])},
        }
        told = {"notifications": {"on_failure": [notifier]}}
        overrides = {**apart(folder / name, **told), **sections}
        student = "broken" if name == "weights" else "small"
        stack.trigger(name, overrides, students=[student], sizes=[40])
    return notes


def shown(stack: Stack, name: str) -> Any:
    answer = stack.http.get(f"/flywheel/api/runs/{name}")
    return answer.json().get("failure") if answer.is_success else None


def fits(failure: dict[str, Any], name: str) -> bool:
    stage, reason, mend = FAILURES[name]
    has_stage = not stage or failure["stage"] == stage
    return has_stage and reason in failure["sentence"] and mend in failure["sentence"] + failure["mend"]


def watch_them_fail(stack: Stack, folder: Path) -> dict[str, float]:
    """Kill each try of `killed` until all runs have ended; return when the API told each one's failure."""
    is_training = in_progress(folder / "killed" / "artifacts", "killed", "small@40/customize")
    seen: dict[str, float] = {}

    def look() -> bool:
        for job in halted_jobs(stack.folder, is_training):
            os.kill(job, signal.SIGKILL)
        for name in FAILURES.keys() - seen.keys():
            failure = shown(stack, name)
            if failure and not failure["tries_again"]:
                seen[name] = time.time()
        return len(seen) == len(FAILURES) and all(
            stack.api.run_state(name) in ("failed", "success") for name in FAILURES
        )

    wait_for(look, 600)
    return seen


@pytest.fixture
def refusing(stack: Stack) -> Iterator[EchoingTeacher]:
    """Give a teacher that takes nobody's key."""
    teacher = EchoingTeacher(stack.teacher_url)
    yield teacher
    teacher.stop()


def test_stage_reason_and_mend_are_in_sight_everywhere(
    stack: Stack, refusing: EchoingTeacher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "dag-processor" not in stack.pids:
        stack.launcher.start("dag-processor")  # which calls what a run has for its failure
    with small_disk(tmp_path / "small") as disk:
        notes = plant(stack, tmp_path, disk, refusing.url)
        began = time.time()
        seen = watch_them_fail(stack, tmp_path)
    for name, file in notes.items():
        assert stack.api.run_state(name) == "failed"
        failure = shown(stack, name)
        assert failure, f"{name}: the API says nothing; {stack.explain(name)}"
        assert fits(failure, name), (name, failure)
        wait_for(file.exists)
        (said,) = file.read_text().splitlines()  # by the task that failed, and not once more at the run's end
        note = json.loads(said)
        assert (note["stage"], note["sentence"]) == (failure["stage"], failure["sentence"])
        assert "/tasks/" in note["link"]
        failed_at = datetime.fromisoformat(failure["at"]).timestamp()
        assert note["noted_at"] < ended_at(stack, name)
        with capsys.disabled():
            print(
                f"\n{name}: told {note['noted_at'] - failed_at:.1f} s, in the API {seen[name] - max(began, failed_at):.1f} s "
                f"after {failure['stage']} failed: {failure['sentence'][:90]}"
            )
        if name in HOPELESS:
            assert failure["try_number"] == 1
    look_at_the_page(stack)


def ended_at(stack: Stack, name: str) -> float:
    run = stack.rest("GET", f"/dags/flywheel/dagRuns/{name}")
    return datetime.fromisoformat(run["end_date"]).timestamp()


def look_at_the_page(stack: Stack) -> None:
    token = str(stack.http.headers["Authorization"]).removeprefix("Bearer ")
    shots = os.environ.get("FLYWHEEL_SCREENSHOTS")
    with open_browser() as browser:
        for theme, width in (("light", 1440), ("dark", 1440), ("light", 390)):
            context = log_in(browser, stack.api.url, token, theme=theme, width=width)
            watched = Watched(context.new_page(), ("404",))  # no run has made a champion
            for name in FAILURES:
                watched.page.goto(f"{stack.api.url}/plugin/flywheel?run={name}")
                card = watched.page.get_by_role("region", name="Why the run failed")
                failure = shown(stack, name)
                expect(card).to_contain_text(failure["sentence"], timeout=30_000)
                expect(card).to_contain_text(failure["mend"])
                expect(card.get_by_role("link", name="Log of")).to_be_visible()
                if shots and name == "killed":
                    watched.page.screenshot(path=f"{shots}/failed-{theme}-{width}.png")
            assert not axe_faults(watched.page, ".flywheel .failure")
            watched.page.goto(f"{stack.api.url}/plugin/flywheel")
            expect(watched.page.locator(".failure-line").first).to_be_visible(timeout=30_000)
            if shots:
                watched.page.screenshot(path=f"{shots}/list-{theme}-{width}.png")
            assert not watched.complaints
            context.close()
