"""What the DAG's tasks do around the stages: cutoff, review, notifications."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk import BaseNotifier
from airflow.sdk.exceptions import (
    AirflowFailException,
    TaskAwaitingInput,
)
from airflow.utils.types import DagRunType

from flywheel.artifacts.root import ArtifactRoot
from flywheel.jobs.result import EvaluateResult
from flywheel.orchestration import ReviewOperator, notifications, review
from flywheel.orchestration.notifications import announce
from flywheel.orchestration.tasks import champion_uri
from flywheel.report import read_report
from flywheel.runs.failures import RunFailure, keep
from flywheel.runs.run import Run
from flywheel.runtimes.context import cutoff_of, facts, is_backfill, run_of
from flywheel.stages.pipeline import promote, score
from tests.unit.champions import place_hold
from tests.unit.finished_run import change_plan, config_of, finish, plan_of
from tests.unit.task_context import context_of

DAWN, NOON, DUSK = (datetime(2019, 3, 2, hour, tzinfo=UTC) for hour in (6, 12, 18))


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    sections = getattr(request, "param", {})
    config = config_of(str(tmp_path / "artifacts"), f"sqlite:///{tmp_path / 'mlflow.db'}", **sections)
    return finish(plan_of(config))


# -- cutoff and XCom -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval_end", "logical_date", "cutoff"),
    [(DAWN, NOON, DAWN), (None, NOON, NOON), (None, None, DUSK + timedelta(seconds=1))],
)
def test_a_run_sees_what_was_before_its_interval_ended(
    interval_end: datetime | None, logical_date: datetime | None, cutoff: datetime
) -> None:
    dag_run = SimpleNamespace(
        data_interval_end=interval_end, logical_date=logical_date, run_after=DUSK.replace(microsecond=7)
    )
    assert cutoff_of({"dag_run": dag_run}) == cutoff


@pytest.mark.parametrize(
    ("run_type", "expected"),
    [("backfill", True), ("scheduled", False), ("manual", False), ("asset_triggered", False)],
)
def test_a_run_of_a_backfill_is_known_as_one(run_type: str, expected: bool) -> None:
    assert is_backfill({"dag_run": SimpleNamespace(run_type=DagRunType(run_type))}) is expected
    assert not is_backfill({"dag_run": None})


def test_tasks_find_the_run_that_plan_made(run: Run) -> None:
    found = run_of(context_of(run))
    assert (found.run_id, found.plan) == (run.run_id, run.plan)


def test_xcom_carries_facts_and_no_data(run: Run) -> None:
    result = run.load("jobs/1b@5/evaluate", EvaluateResult)
    carried = facts(result)
    assert carried["scores"]["f1_weighted"] == 0.29
    assert not {"per_class", "confusion", "latency_ms"} & set(carried)


# -- review --------------------------------------------------------------------------------------------

HUMAN = {"promotion": {"approval": "human", "approval_timeout_hours": 2.0, "within": 0.101}}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    request: dict[str, Any] = {}
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **details: request.update(details))
    return request


def test_by_the_config_alone_nobody_is_asked(run: Run, asked: dict[str, Any]) -> None:
    score(run)
    given = ReviewOperator(task_id="review").execute(context_of(run))
    assert given["approved"]
    assert not asked


@pytest.mark.parametrize("run", [HUMAN], indirect=True)
def test_a_person_sees_the_table_and_the_verdict(run: Run, asked: dict[str, Any]) -> None:
    score(run)
    with pytest.raises(TaskAwaitingInput) as waiting:
        ReviewOperator(task_id="review").execute(context_of(run))
    assert asked["options"] == ["Approve", "Reject"]
    assert asked["defaults"] == ["Reject"]
    assert asked["subject"] == "Promote 1b @ 25 for news_classifier?"
    assert "| 25 |" in asked["body"]
    assert "0.950" in asked["body"]
    assert waiting.value.timeout == timedelta(hours=2)


@pytest.mark.parametrize("run", [HUMAN], indirect=True)
def test_a_person_is_told_what_another_person_decided_before(run: Run, asked: dict[str, Any]) -> None:
    score(run)
    plan = run.plan
    place_hold(
        run.root,
        plan.workload_id,
        plan.client_id,
        dataset=read_report(run.root, run.run_id).data.dataset,
        adapter="a",
        by="ada",
        why="rolled back",
        comment="it misses the strikes",
    )
    with pytest.raises(TaskAwaitingInput):
        ReviewOperator(task_id="review").execute(context_of(run))
    assert asked["body"].startswith("A person's word holds: ada rolled a champion back at")
    assert "(it misses the strikes)" in asked["body"]


@pytest.mark.parametrize("run", [HUMAN], indirect=True)
def test_nobody_is_asked_about_a_night_in_the_past(run: Run, asked: dict[str, Any]) -> None:
    score(run)
    plan = run.plan.model_copy(update={"is_backfill": True})
    change_plan(run, plan)
    assert ReviewOperator(task_id="review").execute(context_of(run))["by"] == "config"
    assert not asked


@pytest.mark.parametrize("run", [HUMAN], indirect=True)
def test_nobody_is_asked_about_nothing(
    run: Run, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for candidate in run.plan.candidates:
        path = f"{run.path}/jobs/{candidate.folder}/evaluate.json"
        value = run.root.read_json(path)
        value["result"]["scores"]["f1_weighted"] = 0.1
        run.root.write_json(path, value)
    score(run)
    assert ReviewOperator(task_id="review").execute(context_of(run))["approved"]
    assert not asked


@pytest.mark.parametrize(
    ("option", "user", "answer"),
    [
        (
            "Approve",
            {"id": "7", "name": "ann"},
            {"approved": True, "by": "ann", "comment": "approved by ann"},
        ),
        (
            "Reject",
            {"id": "7", "name": "ann"},
            {"approved": False, "by": "ann", "comment": "rejected by ann"},
        ),
        (
            "Reject",
            None,
            {"approved": False, "by": "nobody in time", "comment": "rejected by nobody in time"},
        ),
    ],
)
def test_the_answer_goes_to_promote(run: Run, option: str, user: Any, answer: dict[str, Any]) -> None:
    score(run)
    context = context_of(run)
    event = {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": NOON,
        "responded_by_user": user,
    }
    given = ReviewOperator(task_id="review").execute_complete(context, event)
    assert {name: given[name] for name in answer} == answer
    context["ti"].pushed["review"] = given
    assert review.answer_of(context, run) == given


def test_nobody_else_tells_where_a_run_is_nor_how_it_was_reviewed(run: Run) -> None:
    """Who may start a run may write XComs, with Airflow's simple auth manager."""
    score(run)
    context = context_of(run)
    given = ReviewOperator(task_id="review").execute(context)
    told = context["ti"].pushed["run"]
    for forged in (
        None,
        {**told, "root": "/tmp/elsewhere"},
        {name: value for name, value in told.items() if name != "seal"},
        {**told, "seal": "0" * 64},
        {**told, "seal": 7},
        given,  # sealed, but of something else
    ):
        context["ti"].pushed["run"] = forged
        with pytest.raises(AirflowFailException, match="was not told by its task plan"):
            run_of(context)
    context["ti"].pushed["run"] = told
    with pytest.raises(AirflowFailException, match="was not told"):
        run_of({**context, "run_id": "another"})
    assert run_of({**context, "run_id": run.run_id}).path == run.path
    for forged in (None, {"approved": True, "by": "otto", "comment": ""}, {**given, "by": "otto"}, told):
        context["ti"].pushed["review"] = forged
        with pytest.raises(AirflowFailException, match="has given no answer to this run's choice"):
            review.answer_of(context, run)


def test_an_answer_holds_for_the_choice_that_was_asked_about(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(run)
    context = context_of(run)
    context["ti"].pushed["review"] = ReviewOperator(task_id="review").execute(context)
    assert review.answer_of(context, run)["approved"]
    monkeypatch.setattr(review, "_choice", lambda run: "1b @ 999")
    with pytest.raises(AirflowFailException, match="has given no answer"):
        review.answer_of(context, run)


# -- notifications and the asset event -----------------------------------------------------------------

told: list[tuple[str, dict[str, Any]]] = []


class Note(BaseNotifier):
    """Remembers what it was told."""

    template_fields = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Any) -> None:
        told.append((self.text, context["flywheel"]))


class Broken(BaseNotifier):
    def notify(self, context: Any) -> None:
        raise RuntimeError("the mail server is down")


def notifier(name: str, **arguments: str) -> dict[str, Any]:
    return {"notifier": f"{__name__}.{name}", "arguments": arguments}


class Outlets(dict[Any, Any]):
    """Collects the asset events of a task."""

    def __missing__(self, key: Any) -> "Outlets":
        self[key] = made = Outlets()
        return made

    def add(self, asset: Any, extra: dict[str, Any]) -> None:
        self[asset.uri] = extra


def promoted(run: Run) -> tuple[Outlets, Any]:
    score(run)
    context = {**context_of(run), "outlet_events": Outlets()}
    result = promote(run)
    announce(context, run, result)
    (events,) = context["outlet_events"].values() or [Outlets()]
    return events, result


NOTES = {
    "notifications": {
        "on_promotion": [notifier("Note", text="champion"), notifier("Broken")],
        "on_worse_champion": [notifier("Note", text="worse")],
    }
}


@pytest.mark.parametrize("run", [NOTES], indirect=True)
def test_a_promotion_is_an_asset_event_and_told(run: Run) -> None:
    told.clear()
    events, result = promoted(run)
    uri = champion_uri("news_classifier", run.plan.client_id)
    assert events[uri] == {
        "student": "1b",
        "size": 25,
        "adapter": result.champion.adapter,
        "metric": "f1_weighted",
        "score": 0.90,
    }
    ((text, flywheel),) = told  # and the notifier that fails keeps nothing from going on
    assert text == "champion"
    assert flywheel["champion"]["student"] == "1b"


@pytest.mark.parametrize("run", [NOTES], indirect=True)
def test_without_a_promotion_there_is_no_event(run: Run) -> None:
    told.clear()
    score(run)
    context = {**context_of(run), "outlet_events": Outlets()}
    announce(context, run, promote(run, approved=False))
    assert not context["outlet_events"]
    assert not told


def test_warnings_of_the_inputs_are_told_and_none_is_not() -> None:
    told.clear()
    config = config_of(
        "unused", "sqlite:///x.db", notifications={"on_warning": [notifier("Note", text="look")]}
    )
    run = SimpleNamespace(plan=SimpleNamespace(config=config))
    notifications.warn({}, run, ())  # type: ignore[arg-type]
    notifications.warn({}, run, ("source.0: all of it lies in the future",))  # type: ignore[arg-type]
    assert told == [("look", {"warnings": ["source.0: all of it lies in the future"]})]


def test_a_failure_is_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told.clear()
    config = config_of(
        str(tmp_path), "sqlite:///x.db", notifications={"on_failure": [notifier("Note", text="failed")]}
    )
    monkeypatch.setattr("flywheel.config.load_config", lambda **_: config)
    failure = RunFailure(stage="label", sentence="spent", mend="Raise it.", task_id="label")
    keep(Run(ArtifactRoot(str(tmp_path)), "night-1"), failure)
    notifications.notify_failure({"run_id": "night-1"})
    notifications.notify_failure({"run_id": "night-1"})  # by Airflow at its end, once a task has told it
    assert [text for text, _ in told] == ["failed"]


def test_the_end_of_a_run_that_a_person_stopped_is_no_failure_to_tell_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told.clear()
    config = config_of(
        str(tmp_path), "sqlite:///x.db", notifications={"on_failure": [notifier("Note", text="failed")]}
    )
    monkeypatch.setattr("flywheel.config.load_config", lambda **_: config)
    mark = {"by": "vera", "at": "2025-03-04T00:00:00+00:00", "clear_number": 1}
    ArtifactRoot(str(tmp_path)).write_json("runs/night-1/cancelled.json", mark)
    notifications.notify_failure({"run_id": "night-1", "dag_run": SimpleNamespace(clear_number=1)})
    assert not told
    notifications.notify_failure({"run_id": "night-1", "dag_run": SimpleNamespace(clear_number=2)})
    assert [text for text, _ in told] == ["failed"]


def test_ids_are_safe_in_the_assets_uri() -> None:
    assert champion_uri("news", "a b/c") == "x-flywheel://champion/news/a%20b%2Fc"


def test_review_has_no_time_limit_of_its_own_that_would_race_the_answer() -> None:
    assert review.ReviewOperator(task_id="review").execution_timeout is None
