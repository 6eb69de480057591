"""A night's cost, by the teacher's own count: one figure in report, API, command line and MLflow."""

from __future__ import annotations

import httpx
import mlflow
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.report.files import read_report
from tests.integration.airflow_stack import Stack

pytestmark = pytest.mark.slow

PROMPT, COMPLETION, HOUR = 2.0, 8.0, 0.36
TRACKING = "sqlite:///{}/costs.db"


def teachers_count(stack: Stack) -> dict[str, int]:
    """Return what the teacher's own log has counted."""
    found = httpx.get(f"http://127.0.0.1:{stack.teacher_port}/stats", trust_env=False).json()
    return {name: found.get(name, 0) for name in ("prompt_tokens", "completion_tokens")}


def test_a_nights_cost_is_the_teachers_count_times_its_prices_and_the_jobs_hours(stack: Stack) -> None:
    before = teachers_count(stack)
    overrides = {
        "client_id": "costs",
        "store": {"path": str(stack.folder / "costs.sqlite")},  # no answer is there already
        "mlflow_config": {"tracking_uri": TRACKING.format(stack.folder)},
        "teacher": {"prices": {"prompt": PROMPT, "completion": COMPLETION}},
        "prices": {"cpu_hour": HOUR},
    }
    assert stack.turn("costs", overrides, client_id="costs", students=["small"], sizes=[40]) == "success"
    after = teachers_count(stack)
    asked, given = (after[name] - before[name] for name in ("prompt_tokens", "completion_tokens"))
    assert asked > given > 0
    teacher = (asked * PROMPT + given * COMPLETION) / 1e6

    report = read_report(ArtifactRoot(str(stack.folder / "artifacts")), "costs")
    cost = report.cost
    assert cost is not None
    assert cost.tokens == asked + given
    assert cost.teacher == pytest.approx(teacher, abs=1e-6)
    assert cost.machines == pytest.approx(cost.cpu_hours * HOUR, abs=1e-6)
    assert cost.machines > 0
    total = cost.total

    run = stack.http.get("/flywheel/api/runs/costs").json()
    assert run["report"]["cost"]["total"] == total
    so_far = stack.http.get("/flywheel/api/costs", params={"client_id": "costs"}).json()
    assert (
        so_far["last"]["total"] == so_far["total"]["total"] == so_far["months"][-1]["cost"]["total"] == total
    )
    assert report.tracking is not None
    mlflow.set_tracking_uri(TRACKING.format(stack.folder))
    assert mlflow.get_run(report.tracking.run_id).data.metrics["cost"] == pytest.approx(total)
    for command in (["report", "costs"], ["costs", "--client", "costs"]):
        said = stack.flywheel(*command)
        assert said.returncode == 0, said.stderr
        assert " ".join(cost.words.split()) in " ".join(said.stdout.split())
