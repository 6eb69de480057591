"""Signal 9 to the scheduler, a training process and the labelling task; tasks that people end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import load_config
from flywheel.jobs.result import CustomizeResult
from flywheel.laptop.processes import free_port
from flywheel.runs.run import Run
from flywheel.stores import open_store
from tests.integration.airflow_stack import (
    HEADLINES,
    Stack,
    apart,
    go_on,
    halted_jobs,
    is_alive,
    report_of,
    table_of,
    wait_for,
)

pytestmark = pytest.mark.slow

# Long enough to be killed in the middle; a checkpoint after nearly every step.
LONG = {"epochs": 24, "checkpoint_seconds": 0.05, "batch_size": 16, "validations": 0}
SIZES = [40, 120]
CONCURRENCY = 4


@pytest.fixture(scope="module")
def slow_teacher(stack: Stack) -> Iterator[int]:
    """Give the port of a teacher that takes its time."""
    port = free_port()
    command = stack.teacher(stack.folder / "headlines.csv", port, "--latency-ms", "80")
    stack.launcher.start("slow-teacher", command)
    yield port


def settings(folder: Path, port: int) -> dict[str, Any]:
    return apart(
        folder,
        teacher={"base_url": f"http://127.0.0.1:{port}/v1", "concurrency": CONCURRENCY},
        training_config=LONG,
    )


def small_only(stack: Stack, run_id: str, overrides: dict[str, Any]) -> None:
    stack.trigger(run_id, overrides, students=["small"], sizes=SIZES)


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give the report of the same run without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    small_only(stack, "undisturbed", settings(folder, stack.teacher_port))
    assert stack.wait("undisturbed") == "success", stack.explain("undisturbed")
    return report_of(folder, "undisturbed")


def label_pid(stack: Stack, run_id: str) -> int | None:
    found = stack.rest("GET", stack.task_path(run_id, "label"))
    return found["pid"] if found["state"] == "running" else None


def has_checkpoint(folder: Path) -> bool:
    """Return whether a training that has not ended has written a checkpoint."""
    return any((folder / "artifacts" / "scratch" / "adapters").glob("*/checkpoint.safetensors"))


def test_the_table_is_that_of_an_undisturbed_run(
    stack: Stack, undisturbed: dict[str, Any], slow_teacher: int, data: Path
) -> None:
    calls = stack.teacher_calls(slow_teacher)
    small_only(stack, "killed", settings(data, slow_teacher))

    # The labelling task, in the middle of it.
    wait_for(lambda: stack.teacher_calls(slow_teacher) - calls > HEADLINES // 3, 120)
    pid = wait_for(lambda: label_pid(stack, "killed"), 10)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: stack.states("killed").get("curate") == "success", 180)

    # A training process, after a checkpoint.
    victims = wait_for(lambda: halted_jobs(stack.folder, lambda: has_checkpoint(data)), 120)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)

    # The scheduler, with everything it runs.
    wait_for(lambda: any("running" in state for state in stack.states("killed").values()), 120)
    scheduler = stack.pids["scheduler"]
    os.kill(scheduler, signal.SIGKILL)
    wait_for(lambda: stack.pids["scheduler"] != scheduler, 30)

    assert stack.wait("killed", 400) == "success", stack.explain("killed")
    report = report_of(data, "killed")
    assert table_of(report) == table_of(undisturbed)
    assert report["base"][0]["score"] == undisturbed["base"][0]["score"]

    # Only what was on its way when the task was killed was asked again; no record is there twice.
    assert stack.teacher_calls(slow_teacher) - calls <= HEADLINES + CONCURRENCY
    config = load_config().store.model_copy(update={"path": str(data / "records.sqlite")})
    with open_store(config) as store:
        records = list(store.read("news_classifier", "test", 2**62))
    assert len({record.id for record in records}) == len(records)
    assert len(records) == report["data"]["records"]

    run = Run(ArtifactRoot(str(data / "artifacts")), "killed")
    results = [run.load(f"jobs/small@{size}/customize", CustomizeResult) for size in SIZES]
    assert any(result.resumed_from_step for result in results)


def held_jobs(stack: Stack, data: Path) -> list[int]:
    """Return the jobs, halted after a training's checkpoint: it is in the middle when it is to be ended."""
    return list(wait_for(lambda: halted_jobs(stack.folder, lambda: has_checkpoint(data)), 240))


def test_a_task_that_is_marked_failed_takes_its_job_along(
    stack: Stack, undisturbed: dict[str, Any], data: Path
) -> None:
    long = {**LONG, "epochs": 400}
    overrides = {**settings(data, stack.teacher_port), "training_config": long}
    stack.trigger("marked", overrides, students=["small"], sizes=[120])
    jobs = held_jobs(stack, data)
    path = stack.task_path("marked", "candidate.customize", 0)
    stack.rest("PATCH", path, {"new_state": "failed"})
    go_on(jobs)
    wait_for(lambda: not any(map(is_alive, jobs)), 30)
    # The run goes on without that candidate, and fails for it is the only one.
    assert stack.wait("marked") == "failed"
    assert "no candidate could be scored" in stack.log("marked", "score")


def test_a_run_that_is_marked_failed_ends_its_jobs(
    stack: Stack, undisturbed: dict[str, Any], data: Path
) -> None:
    long = {**LONG, "epochs": 400}
    overrides = {**settings(data, stack.teacher_port), "training_config": long}
    stack.trigger("stopped", overrides, students=["small"], sizes=[120])
    jobs = held_jobs(stack, data)
    stack.rest("PATCH", "/dags/flywheel/dagRuns/stopped", {"state": "failed"})
    go_on(jobs)
    wait_for(lambda: not any(map(is_alive, jobs)), 30)
