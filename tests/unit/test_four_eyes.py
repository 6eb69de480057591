"""Who starts a run does not approve it, where `promotion.four_eyes` says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import TaskAwaitingInput

from flywheel.orchestration import ReviewOperator
from flywheel.runs.run import Run
from flywheel.runtimes.context import share_run
from flywheel.stages.pipeline import score
from flywheel.web.access import LocalUser, check_four_eyes, check_starter
from flywheel.web.problems import Problem
from tests.unit.finished_run import config_of, finish, plan_of
from tests.unit.task_context import NOON, TaskInstance


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    promotion = {"approval": "human", "within": 0.101, "four_eyes": getattr(request, "param", True)}
    sections = {"promotion": promotion}
    config = config_of(str(tmp_path / "artifacts"), f"sqlite:///{tmp_path / 'mlflow.db'}", **sections)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"nims": [{"model_name": "a/x-1b"}]}))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(tmp_path / "config.yaml"))
    made = finish(plan_of(config))
    score(made)
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    request: dict[str, Any] = {}
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **details: request.update(details))
    return request


def context_of(run: Run, starter: str | None) -> dict[str, Any]:
    context = {
        "ti": TaskInstance(),
        "task_instance": SimpleNamespace(id="1"),
        "dag_run": SimpleNamespace(triggering_user_name=starter),
    }
    share_run(context, run, run.root.url)
    return context


def answered(option: str, name: str) -> dict[str, Any]:
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": NOON,
        "responded_by_user": {"id": name, "name": name},
    }


def test_the_starters_yes_is_asked_for_again(run: Run, asked: dict[str, Any]) -> None:
    task, context = ReviewOperator(task_id="review"), context_of(run, "ann")
    with pytest.raises(TaskAwaitingInput):
        task.execute(context)
    assert asked["body"].startswith("ann started this run, so another person has to say yes")
    with pytest.raises(TaskAwaitingInput):
        task.execute_complete(context, answered("Approve", "ann"))
    assert task.execute_complete(context, answered("Approve", "bob"))["approved"]
    assert not task.execute_complete(context, answered("Reject", "ann"))["approved"]


@pytest.mark.parametrize(("run", "starter"), [(True, None), (True, "bob"), (False, "ann")], indirect=["run"])
def test_anybody_else_may_say_yes(run: Run, asked: dict[str, Any], starter: str | None) -> None:
    task, context = ReviewOperator(task_id="review"), context_of(run, starter)
    assert task.execute_complete(context, answered("Approve", "ann"))["by"] == "ann"


def test_the_api_refuses_the_starter_with_a_sentence(run: Run) -> None:
    user = SimpleNamespace(get_name=lambda: "ann")
    with pytest.raises(Problem, match=r"ann started this run: .* wants another") as refused:
        check_four_eyes(user, "ann", run.plan)
    assert refused.value.status == 403
    check_four_eyes(user, "bob", run.plan)
    check_four_eyes(user, None, run.plan)  # by schedule


@pytest.mark.parametrize("run", [False], indirect=True)
def test_the_files_of_now_count_too(run: Run, tmp_path: Path) -> None:
    user = SimpleNamespace(get_name=lambda: "ann")
    check_four_eyes(user, "ann", run.plan)
    config = {"nims": [{"model_name": "a/x-1b"}], "promotion": {"four_eyes": True}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(Problem):
        check_four_eyes(user, "ann", run.plan)
    with pytest.raises(Problem, match="started with a token"):  # nobody would know who started it
        check_starter(LocalUser(), "")
    check_starter(user, "")
