"""What labelling will cost is told before anything is asked, and above a limit a person is asked first."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, TaskAwaitingInput
from typer.testing import CliRunner

from flywheel.artifacts.root import ArtifactRoot
from flywheel.cli import main as cli
from flywheel.common.errors import UnconfirmedError
from flywheel.config.teacher import ConfirmAbove
from flywheel.orchestration import ConfirmOperator
from flywheel.report import html
from flywheel.report.build import build_report
from flywheel.report.outcomes import gather
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.runtimes.context import share_run
from flywheel.stages import confirmation
from flywheel.stages import pipeline as wheel
from flywheel.stages.forecast import Forecast, forecast
from flywheel.stages.label import label
from flywheel.workloads.versions import remember_version
from flywheel.workloads.workload import Workload
from tests.unit import finished_run
from tests.unit.teacher_servers import stand_in
from tests.unit.test_stages_label import WORKLOAD, lines_of, make, write_headlines

EDITED = replace(WORKLOAD, before=WORKLOAD.before.replace("Classes:", "The classes:"))
TEXTS = [f"Acme unit {number} posts results" for number in range(60)]
LABELS = {text: WORKLOAD.classes[number % 13] for number, text in enumerate(TEXTS)}
PRICES = {"prompt": 2.0, "completion": 4.0}


@pytest.fixture(autouse=True)
def _no_teacher_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLYWHEEL_TEACHER_BASE_URL", "FLYWHEEL_TEACHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [(text, "2024-03-01" if n < 40 else "2024-05-01", "") for n, text in enumerate(TEXTS)]
    write_headlines(tmp_path, [*rows, (TEXTS[0], "2024-03-02", ""), (TEXTS[1], "2024-06-02", "")])
    return tmp_path


def edited(plan: Plan, workload: Workload = EDITED) -> Plan:
    return plan.model_copy(update={"workload": workload})


def told(plan: Plan) -> Forecast:
    found = forecast(plan)
    assert found is not None
    return found


def figures(found: Forecast) -> tuple[int, int, int, int]:
    return found.texts, found.found, found.ask, found.later


# -- counting ------------------------------------------------------------------------------------------


def test_different_texts_without_an_answer_are_counted_before_and_after_the_cutoff(folder: Path) -> None:
    found = told(make(folder, None, cutoff="2024-04-01"))
    assert figures(found) == (40, 0, 40, 20)
    assert found.basis == "by its length"
    assert found.cost == 0
    assert not found.currency


def test_a_forecast_is_what_is_then_asked(folder: Path) -> None:
    with stand_in(LABELS) as (url, _):
        early = make(folder, url, cutoff="2024-04-01", prices=PRICES)
        label(early, folder)
        assert figures(told(early)) == (40, 40, 0, 20)
        whole = make(folder, url, prices=PRICES)
        found = told(whole)
        result = label(whole, folder)
    assert figures(found) == (60, 40, 20, 0)
    assert result.asked == found.ask
    assert found.basis == "by answers to the same prompt"
    assert found.cost == pytest.approx(result.cost, rel=0.1)


def test_an_edit_of_the_prompt_is_told_what_it_costs(folder: Path) -> None:
    with stand_in(LABELS) as (url, _):
        plan = make(folder, url, prices=PRICES)
        Run.create(plan)
        asked = label(plan, folder)
    found = told(edited(plan))
    assert figures(found) == (60, 0, 60, 0)
    assert found.basis == "by answers to another version of the prompt"
    assert found.cost == pytest.approx(asked.cost, rel=0.1)
    assert "60 answers will be asked of the teacher (0 of 60 headlines have one): about" in found.line()
    assert f"and {found.cost:,.2f} USD" in found.line()


def test_answers_of_a_version_whose_labels_hold_are_not_asked_anew(folder: Path) -> None:
    with stand_in(LABELS) as (url, _):
        plan = make(folder, url)
        Run.create(plan)
        label(plan, folder)
        before = lines_of(folder / "labelled.jsonl.gz")
        held = edited(plan, replace(EDITED, labels_hold_from=(WORKLOAD.sha256,)))
        assert figures(told(held)) == (60, 60, 0, 0)
        result = label(held, folder)
    assert (result.asked, result.found) == (0, 62)
    # The same records as before, which are there already: the label was given to that prompt.
    assert lines_of(folder / "labelled.jsonl.gz") == before


def test_an_answer_that_holds_but_names_a_removed_class_is_asked_anew(folder: Path) -> None:
    with stand_in(LABELS) as (url, _):
        plan = make(folder, url)
        Run.create(plan)
        label(plan, folder)
        fewer = tuple(name for name in WORKLOAD.classes if name != LABELS[TEXTS[0]])
        held = replace(EDITED, classes=fewer, labels_hold_from=(WORKLOAD.sha256,))
        gone = sum(name == LABELS[TEXTS[0]] for name in LABELS.values())
        assert told(edited(plan, held)).ask == gone


def test_a_run_without_headlines_reads_nothing(tmp_path: Path) -> None:
    plan = make(tmp_path, None, source={"path": str(tmp_path / "logs.jsonl"), "kind": "log_records"})
    assert forecast(plan) is None
    assert not (tmp_path / "records.sqlite").exists()


def test_what_cannot_be_counted_is_left_to_label_to_say(folder: Path, caplog: Any) -> None:
    (folder / "headlines.csv").unlink()
    run = Run.create(make(folder, None))
    assert wheel.forecast(run) is None
    assert "what will be asked of the teacher cannot be told" in caplog.text


def test_the_report_tells_what_was_foretold_and_what_stayed_out_for_its_prompt(tmp_path: Path) -> None:
    config = finished_run.config_of(str(tmp_path / "artifacts"), "sqlite:////nowhere/mlflow.db")
    run = finished_run.finish(finished_run.plan_of(config))
    run.root.write_json(f"{run.path}/forecast.json", {"ask": 60, "cost": 1.5})
    path = f"{run.path}/stages/curate.json"
    curate = run.root.read_json(path)
    counts = {"other_version": {"0123456789ab": 30}, "unknown_version": 2, "removed_class": {"Weather": 4}}
    curate["result"]["prompts"] = {**counts, "taken_over": {"ba9876543210": 20}}
    run.root.write_json(path, curate)
    report = build_report(run.plan, gather(run))
    data = report.data
    assert (data.foretold, data.foretold_cost) == (60, 1.5)
    assert (data.other_prompts, data.removed_classes, data.taken_over) == (32, 4, 20)
    shown = dict(html._data(report))
    assert shown["labelled under another version of the prompt, left out"] == 32


# -- asking a person -----------------------------------------------------------------------------------

ABOVE_TEN = ConfirmAbove(answers=10)


def night(folder: Path, run_id: str = "night", cutoff: str = "2024-04-01", **teacher: Any) -> Run:
    plan = make(folder, None, cutoff=cutoff, **teacher).model_copy(update={"run_id": run_id})
    return Run.create(plan)


@pytest.mark.parametrize(
    ("limit", "is_asked"),
    [
        (ConfirmAbove(), False),
        (ConfirmAbove(answers=39), True),
        (ConfirmAbove(answers=40), False),
        (ConfirmAbove(cost=0.001), True),
        (ConfirmAbove(cost=100), False),
    ],
)
def test_a_person_is_asked_above_the_limit_alone(folder: Path, limit: ConfirmAbove, is_asked: bool) -> None:
    assert (confirmation.needed(night(folder, prices=PRICES), limit) is not None) == is_asked


def test_one_yes_is_for_a_whole_backfill(folder: Path) -> None:
    first, second = night(folder), night(folder, "next", "2025-01-01")
    found = confirmation.needed(first, ABOVE_TEN)
    assert found is not None
    confirmation.confirm(first, found, "ada")
    assert confirmation.needed(first, ABOVE_TEN) is None
    assert confirmation.needed(second, ABOVE_TEN) is None


def test_a_yes_is_not_for_more_headlines_nor_another_prompt_teacher_or_client(folder: Path) -> None:
    first = night(folder)
    found = confirmation.needed(first, ABOVE_TEN)
    assert found is not None
    confirmation.confirm(first, found, "ada")
    others = {
        "prompt": edited(first.plan),
        "teacher": night(folder, "dearer", model="larger").plan,
        "client": first.plan.model_copy(
            update={
                "client_id": "other",
                "config": first.plan.config.model_copy(update={"client_id": "other"}),
            }
        ),
    }
    for name, plan in others.items():
        run = Run.create(plan.model_copy(update={"run_id": name}))
        assert confirmation.needed(run, ABOVE_TEN) is not None, name
    write_headlines(folder, [(f"{text} {n}", "2024-03-01", "") for n in range(2) for text in TEXTS])
    assert confirmation.needed(night(folder, "more"), ABOVE_TEN) is not None


def test_the_command_line_wants_a_yes(folder: Path) -> None:
    run = night(folder)
    with pytest.raises(UnconfirmedError, match=r"40 answers .* 60 answers.*--yes"):
        confirmation.check(run, ABOVE_TEN, yes=False)
    confirmation.check(run, ABOVE_TEN, yes=True)
    confirmation.check(run, ABOVE_TEN, yes=False)


class TaskInstance:
    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str, key: str) -> Any:
        return self.pushed[key]


def context_of(run: Run) -> dict[str, Any]:
    context = {"ti": TaskInstance(), "task_instance": SimpleNamespace(id="1")}
    share_run(context, run, run.root.url)
    return context


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What Airflow is asked to show; the config in force asks above ten answers."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **given: seen.update(given))
    config = SimpleNamespace(teacher=SimpleNamespace(confirm_above=ABOVE_TEN))
    monkeypatch.setattr("flywheel.config.load_config", lambda **_: config)
    monkeypatch.setattr(confirmation, "SETTLE_SECONDS", 0)
    yield seen


def answer(option: str) -> dict[str, Any]:
    user = {"id": "1", "name": "ada"}
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_by_user": user,
        "responded_at": datetime.now(UTC),
        "timedout": False,
    }


def test_with_four_eyes_the_starters_yes_is_asked_for_again(folder: Path, asked: dict[str, Any]) -> None:
    run = night(folder)
    promotion = run.plan.config.promotion.model_copy(update={"four_eyes": True})
    config = run.plan.config.model_copy(update={"promotion": promotion})
    plan = run.plan.model_copy(update={"config": config})
    finished_run.change_plan(run, plan)
    task, context = ConfirmOperator(task_id="confirm"), context_of(run)
    context["dag_run"] = SimpleNamespace(triggering_user_name="ada")
    with pytest.raises(TaskAwaitingInput):
        task.execute(context)
    assert asked["body"].startswith("ada started this run")
    with pytest.raises(TaskAwaitingInput):
        task.execute_complete(context, answer("Approve"))
    context["dag_run"].triggering_user_name = "bob"
    assert task.execute_complete(context, answer("Approve"))["confirmed"]


def test_the_task_asks_once_and_the_other_nights_wait(folder: Path, asked: dict[str, Any]) -> None:
    first, second = night(folder), night(folder, "next", "2025-01-01")
    task = ConfirmOperator(task_id="confirm")
    with pytest.raises(TaskAwaitingInput):
        task.execute(context_of(first))
    assert asked["subject"] == "Ask the teacher for 40 answers (news_classifier)?"
    assert "60 answers" in asked["body"]
    asked.clear()
    with pytest.raises(AirflowRescheduleException):
        task.execute(context_of(second))
    assert not asked
    assert task.execute_complete(context_of(first), answer("Approve")) == {"confirmed": True, "by": "ada"}
    assert task.execute(context_of(second))["confirmed"]


def test_of_two_nights_that_ask_in_one_moment_one_waits(
    folder: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = night(folder), night(folder, "next", "2025-01-01")
    wait = timedelta(hours=1)

    def meanwhile(seconds: float) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(confirmation, "SETTLE_SECONDS", 0)
        asking = first.root.read_json(confirmation._asked_path(first.plan))
        first.root.write_json(confirmation._asked_path(first.plan), {**asking, "run_id": second.run_id})

    monkeypatch.setattr(confirmation.time, "sleep", meanwhile)
    assert confirmation.asks_elsewhere(first, wait) == "next"
    assert confirmation.asks_elsewhere(second, wait) is None


def test_a_no_ends_the_run_and_those_that_wait_for_the_answer(folder: Path, asked: dict[str, Any]) -> None:
    first, second = night(folder), night(folder, "next", "2025-01-01")
    task = ConfirmOperator(task_id="confirm")
    with pytest.raises(TaskAwaitingInput):
        task.execute(context_of(first))
    with pytest.raises(AirflowRescheduleException):
        task.execute(context_of(second))
    with pytest.raises(AirflowFailException, match="rejected by ada"):
        task.execute_complete(context_of(first), answer("Reject"))
    with pytest.raises(AirflowFailException, match=r"run night: .*rejected by ada"):
        task.execute(context_of(second))
    asked.clear()
    with pytest.raises(TaskAwaitingInput):  # who tries again is asked again
        task.execute(context_of(second))
    assert asked


def test_nights_do_not_wait_for_a_run_that_was_cancelled(folder: Path, asked: dict[str, Any]) -> None:
    first, second = night(folder), night(folder, "next", "2025-01-01")
    task = ConfirmOperator(task_id="confirm")
    with pytest.raises(TaskAwaitingInput):
        task.execute(context_of(first))
    first.root.write_json(f"{first.path}/cancelled.json", {})
    with pytest.raises(TaskAwaitingInput):
        task.execute(context_of(second))


def test_params_of_a_run_do_not_loosen_the_limit(folder: Path, asked: dict[str, Any]) -> None:
    run = night(folder, confirm_above={"answers": 1_000_000})
    with pytest.raises(TaskAwaitingInput):
        ConfirmOperator(task_id="confirm").execute(context_of(run))


# -- versions, for people ------------------------------------------------------------------------------


def test_flywheel_workload_shows_the_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "nims: [{model_name: test/1b}]\n"
        f"store: {{path: {tmp_path / 'records.sqlite'}}}\nartifacts: {{root: {tmp_path / 'artifacts'}}}\n"
    )
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(config))
    remember_version(ArtifactRoot(str(tmp_path / "artifacts")), EDITED)
    shown = CliRunner().invoke(cli.app, ["workload"]).output.splitlines()
    assert shown[1].startswith(EDITED.version)
    assert shown[2].startswith(WORKLOAD.version)
    assert shown[2].endswith("in force")
