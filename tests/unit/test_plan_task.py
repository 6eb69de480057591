"""The task `plan`: it runs no plan but its own run's, and later tasks know if that is changed."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import OtherPlanError
from flywheel.config import Config
from flywheel.orchestration import settings, tasks
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.runtimes.context import run_of
from flywheel.stages import pipeline as wheel
from tests.unit.finished_run import config_of

TONIGHT = "scheduled__2026-11-25T02:00:00+00:00"
CUTOFF = datetime(2026, 11, 25, 2, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    config = config_of(str(tmp_path / "artifacts"), "sqlite:////nowhere/mlflow.db")
    monkeypatch.setattr(settings, "config_of", lambda experiment: config)
    monkeypatch.setattr(wheel, "forecast", lambda run: None)
    return config


def plan(monkeypatch: pytest.MonkeyPatch, *, attempt: int = 1, **params: Any) -> dict[str, Any]:
    """Run the task for tonight's scheduled run; return the context of the tasks after it."""
    told: dict[str, Any] = {}
    names = ("workload_id", "client_id", "students", "sizes", "overrides", "approval")
    ti = SimpleNamespace(
        dag_id="flywheel",
        try_number=attempt,
        xcom_push=lambda key, value: told.update({key: value}),
        xcom_pull=lambda task_ids, key: told[key],
    )
    context = {
        "params": {**dict.fromkeys(names), **params},
        "run_id": TONIGHT,
        "ti": ti,
        "dag_run": SimpleNamespace(data_interval_end=CUTOFF, logical_date=CUTOFF, run_type="scheduled"),
    }
    monkeypatch.setattr(tasks, "get_current_context", lambda: context)
    tasks.plan.function()
    return context


def planted(config: Config, run_id: str, **arguments: Any) -> Run:
    """Return a run whose plan somebody has put there, with another size."""
    made = make_plan(config, run_id=run_id, cutoff=CUTOFF, sizes=[1], **arguments)
    return Run.create(made)


def test_what_is_planted_under_the_name_that_tonight_had_in_0_1_0_is_not_run(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(config, "scheduled__2026-11-25T02-00-00-00-00", dag_id="flywheel")
    run = run_of(plan(monkeypatch))
    assert run.plan.run_id == TONIGHT
    assert {candidate.size for candidate in run.plan.candidates} == set(config.sizes)


@pytest.mark.parametrize("dag_id", ["flywheel", ""])
def test_what_is_planted_under_tonights_name_fails_tonight_at_once_and_is_not_run(
    config: Config, monkeypatch: pytest.MonkeyPatch, dag_id: str
) -> None:
    planted(config, TONIGHT, dag_id=dag_id)
    with pytest.raises(AirflowFailException, match=r"before the run .* began|planned by hand"):
        plan(monkeypatch)


def test_a_second_try_keeps_the_plan_of_the_first(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_of(plan(monkeypatch))
    again = run_of(plan(monkeypatch, attempt=2, sizes=[7]))
    assert again.plan == first.plan


def test_the_tasks_after_it_refuse_a_plan_that_was_changed_since(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = plan(monkeypatch)
    run = run_of(context)
    assert ArtifactRoot(config.artifacts.root).list("runs") == [run.path.removeprefix("runs/")]
    changed = run.plan.model_copy(update={"approval": "automatic", "client_id": "another"})
    run.root.write_json(f"{run.path}/plan.json", changed.model_dump(mode="json"))
    with pytest.raises(OtherPlanError, match="not the plan that this run began with"):
        wheel.label(run_of(context))
