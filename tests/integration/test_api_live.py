"""The API on runs that really run: live progress, cancelling at each stage, the review."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flywheel.laptop.processes import free_port
from tests.integration.airflow_stack import (
    Stack,
    apart,
    go_on,
    halted_jobs,
    in_progress,
    is_alive,
    jobs_running,
    report_of,
    wait_for,
)

pytestmark = pytest.mark.slow

LONG = {"epochs": 400, "checkpoint_seconds": 0.5, "batch_size": 16, "validations": 0}
NOTHING_LEFT_SECONDS = 30.0
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx.Client]:
    headers = {"Authorization": stack.http.headers["Authorization"]}
    with httpx.Client(
        base_url=f"{stack.api.url}/flywheel/api", headers=headers, timeout=60, trust_env=False
    ) as made:
        yield made


@pytest.fixture(scope="module")
def slow_teacher(stack: Stack) -> int:
    """Give the port of a teacher that takes its time."""
    port = free_port()
    command = stack.teacher(stack.folder / "headlines.csv", port, "--latency-ms", "400")
    stack.launcher.start("slow-teacher-of-the-api", command)
    return port


def jobs_of(api: httpx.Client, run_id: str) -> dict[str, dict[str, Any]]:
    """Return the candidates and students of a run as the API shows them."""
    answer = api.get(f"/runs/{run_id}")
    return {job["name"]: job for job in answer.json()["jobs"]} if answer.status_code == 200 else {}


def task_processes(stack: Stack, run_id: str) -> list[int]:
    """Return the processes of the tasks that run now."""
    path = f"/dags/flywheel/dagRuns/{run_id}/taskInstances?state=running&limit=100"
    found = stack.rest("GET", path)["task_instances"]
    return [task["pid"] for task in found if task["pid"]]


def in_label(stack: Stack, api: httpx.Client, run_id: str) -> bool:
    return stack.states(run_id).get("label") == "running"


def in_review(stack: Stack, api: httpx.Client, run_id: str) -> bool:
    return bool(api.get(f"/runs/{run_id}").json().get("state") == "review")


def at_once(stack: Stack, api: httpx.Client, run_id: str) -> bool:
    return True


def held_in(stack: Stack, root: Path, run_id: str, job: str) -> list[int]:
    """Wait until a job has told how far it is, and return the jobs' processes, halted."""
    jobs: list[int] = wait_for(lambda: halted_jobs(stack.folder, in_progress(root, run_id, job)), 300)
    return jobs


def shown_running(api: httpx.Client, run_id: str, name: str, kind: str) -> dict[str, Any]:
    """Return a job of a run as the API shows it, once it shows that it runs and how far it is."""

    def running() -> Any:
        job = jobs_of(api, run_id).get(name, {}).get(kind)
        return job if job and job["state"] == "running" and job["progress"] > 0 else None

    found: dict[str, Any] = wait_for(running, 60)
    return found


Reached = Callable[[Stack, httpx.Client, str], bool]
Job = tuple[str, str, str]  # its file, and what it is in the API: a line's name and the job's kind
ONE_BY_ONE = {"evaluation_config": {"batch_size": 1, "bootstrap_samples": 100}}
STAGES: dict[str, tuple[Reached | Job, dict[str, Any]]] = {
    "queued": (at_once, {}),
    "label": (in_label, {}),
    "customize": (
        ("small@120/customize", "small @ 120", "customize"),
        {"training_config": LONG, "sizes": [120]},
    ),
    "base-eval": (("small/base_eval", "small", "evaluate"), ONE_BY_ONE),
    "evaluate": (("small@40/evaluate", "small @ 40", "evaluate"), ONE_BY_ONE),
    "review": (in_review, {"approval": "human"}),
}


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_cancelled_job_leaves_nothing_running(
    stack: Stack,
    api: httpx.Client,
    slow_teacher: int,
    data: Path,
    stage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = f"cancel-{stage}"
    reached, more = STAGES[stage][0], dict(STAGES[stage][1])
    sizes, approval = more.pop("sizes", [40]), more.pop("approval", "automatic")
    port = slow_teacher if stage == "label" else stack.teacher_port
    overrides = apart(data, teacher={"base_url": f"http://127.0.0.1:{port}/v1"}, **more)
    if stage in ("base-eval", "evaluate"):
        overrides["data_split_config"] = {"eval_size": 250, "val_ratio": 0.05, "min_total_records": 50}
    stack.trigger(run_id, overrides, students=["small"], sizes=sizes, approval=approval)
    held: list[int] = []
    if isinstance(reached, tuple):
        held = held_in(stack, data / "artifacts", run_id, reached[0])
        shown_running(api, run_id, *reached[1:])
    else:
        wait_for(lambda: reached(stack, api, run_id), 300)
    victims = jobs_running(stack.folder) + task_processes(stack, run_id)

    began = time.monotonic()
    answer = api.post(f"/jobs/{run_id}/cancel")
    go_on(held)
    assert answer.status_code == 200, answer.text
    assert api.get(f"/jobs/{run_id}").json()["status"] == "cancelled"

    def nothing_left() -> bool:
        states = {task.state for task in stack.tasks(run_id)}
        return states <= ENDED and not jobs_running(stack.folder) and not any(map(is_alive, victims))

    wait_for(nothing_left, NOTHING_LEFT_SECONDS)
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\ncancelled at {stage}: nothing left after {seconds:.1f} s")
    wait_for(lambda: stack.api.run_state(run_id) == "failed", 30)
    time.sleep(1.5)
    assert nothing_left()
    job = api.get(f"/jobs/{run_id}").json()
    assert job["status"] == "cancelled"
    assert job["finished_at"]
    assert "admin" in job["error"]
    assert stack.api.run_state(run_id) == "failed"
    note = stack.rest("GET", f"/dags/flywheel/dagRuns/{run_id}")["note"]
    assert note.startswith("cancelled by admin at ")
    assert [run["state"] for run in api.get("/runs").json()["runs"] if run["run_id"] == run_id] == [
        "cancelled"
    ]


def test_a_running_training_shows_its_loss_curve_and_the_time_that_is_left(
    stack: Stack, api: httpx.Client, data: Path
) -> None:
    overrides = apart(data, training_config=LONG)
    stack.trigger("watched", overrides, students=["small"], sizes=[120])
    held = held_in(stack, data / "artifacts", "watched", "small@120/customize")
    job = shown_running(api, "watched", "small @ 120", "customize")
    assert 0 < job["progress"] < 1
    assert job["seconds_left"] > 0
    assert len(job["losses"]) >= 1
    assert job["task"]["state"] == "running"
    customization = api.get("/jobs/watched").json()["nims"][0]["customizations"][0]
    assert 0 < customization["progress"] < 100
    assert customization["steps_completed"] > 0
    api.post("/jobs/watched/cancel")
    go_on(held)
    wait_for(lambda: not jobs_running(stack.folder), 60)


def test_a_person_reviews_with_a_comment(stack: Stack, api: httpx.Client, data: Path) -> None:
    stack.trigger("reviewed", apart(data), students=["small"], sizes=[40], approval="human")
    wait_for(lambda: in_review(stack, api, "reviewed"), 500)
    shown = api.get("/runs/reviewed/review").json()
    assert shown["state"] == "waiting"
    assert "| 40 |" in shown["body"]
    answer = api.post("/runs/reviewed/review", json={"decision": "reject", "comment": "misses strikes"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "rejected"
    assert answer.json()["comment"] == "misses strikes"
    assert api.post("/runs/reviewed/review", json={"decision": "approve"}).status_code == 409
    assert stack.wait("reviewed") == "success", stack.explain("reviewed")
    decision = report_of(data, "reviewed")["decision"]
    assert decision["state"] == "rejected"
    assert "misses strikes" in decision["comment"]
