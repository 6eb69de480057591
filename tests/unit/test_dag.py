"""The DAG is the figure of the design, and its form and schedule are those of the config."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import Asset
from airflow.sdk.exceptions import ParamValidationError

from flywheel.config.clock import ClockSection
from flywheel.orchestration import dag_params, dag_schedule, read_config, settings
from flywheel.orchestration.nights import NightOrAssetTimetable, NightTimetable, nightly
from tests.unit import dag_file
from tests.unit.dag_file import DAG_FILE, load, write_config

dag = dag_file.dag  # a fixture


def test_it_is_the_figure(dag: Any) -> None:
    arrows = {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}
    # `plan` also leads to base_eval, and `curate` to candidate.evaluate: they are mapped over what it returns.
    jobs = {"base_eval", "champion_eval", "candidate.customize"}
    assert arrows == {
        "plan": {"label", "base_eval"},
        "label": {"ingest"},
        "ingest": {"curate"},
        "curate": jobs | {"candidate.evaluate"},
        "base_eval": {"score"},
        "champion_eval": {"score"},
        "candidate.customize": {"candidate.evaluate"},
        "candidate.evaluate": {"score"},
        "score": {"review"},
        "review": {"promote"},
        "promote": set(),
    }


@pytest.mark.parametrize("runtime", ["local", "kubernetes"])
def test_a_run_waits_for_the_endpoint_where_one_is_configured(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (
        {"kubernetes": {"image": "x@sha256:" + "0" * 64, "volume_claim": "artifacts"}}
        if runtime == "kubernetes"
        else {}
    )
    write_config(
        tmp_path, monkeypatch, runtime={"type": runtime, **own}, serving={"url": "http://endpoint:8700/v1"}
    )
    bag = load()
    assert not bag.import_errors
    assert bag.dags["flywheel"].get_task("serve").upstream_task_ids == {"promote"}


def test_a_person_is_asked_before_label_where_the_config_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, monkeypatch, teacher={"confirm_above": {"answers": 10_000}})
    dag = load().dags["flywheel"]
    assert dag.get_task("confirm").upstream_task_ids == {"plan"}
    assert dag.get_task("confirm").downstream_task_ids == {"label"}


def test_a_candidates_failure_does_not_keep_the_others_from_being_scored(dag: Any) -> None:
    assert dag.get_task("score").trigger_rule == "all_done"
    assert dag.get_task("promote").trigger_rule == "all_success"


def test_map_indexes_have_names(dag: Any) -> None:
    assert dag.get_task("base_eval").map_index_template == "{{ task.student }}"
    for name in ("customize", "evaluate"):
        template = dag.get_task(f"candidate.{name}").map_index_template
        assert template == "{{ task.student }} @ {{ task.size }}"


def test_it_explains_itself(dag: Any) -> None:
    assert "cutoff" in dag.doc_md
    assert {"flywheel", "distillation"} <= dag.tags
    assert {task.owner for task in dag.tasks} == {"flywheel"}
    undocumented = [task.task_id for task in dag.tasks if not task.doc_md]
    assert not undocumented


def test_tasks_are_tried_again_and_do_not_hang(dag: Any) -> None:
    assert {task.retries for task in dag.tasks} == {2}
    assert max(task.retry_delay for task in dag.tasks) < timedelta(minutes=1)
    # Jobs and the review have time limits of their own, from the run's plan.
    own = {"base_eval", "champion_eval", "candidate.customize", "candidate.evaluate", "review"}
    assert {task.task_id for task in dag.tasks if task.execution_timeout is None} == own


def test_headlines_are_labelled_by_one_run_at_a_time(dag: Any) -> None:
    assert dag.get_task("label").max_active_tis_per_dag == 1


def test_experiments_that_share_a_store_over_machines_label_in_a_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load().dags["flywheel"].get_task("label").pool == "default_pool"
    write_config(tmp_path, monkeypatch, dag={"label_pool": "flywheel_label"})
    pools = {task.task_id: task.pool for task in load().dags["flywheel"].tasks if task.pool != "default_pool"}
    assert pools == {"label": "flywheel_label"}


def test_a_wrong_config_is_an_import_error_that_names_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(tmp_path, monkeypatch, training_config={"epoch": 2})
    (error,) = load().import_errors.values()
    assert f"{path}, line " in error
    assert "training_config.epoch: no such key; the nearest valid key is 'epochs'" in error


class Parsing:
    """What Airflow says about why it parses a file."""

    def __init__(self, task_id: str | None) -> None:
        self.task_id = task_id


def test_a_run_that_has_begun_does_not_mind_a_wrong_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, monkeypatch, training_config={"epoch": 2})
    monkeypatch.setattr(settings, "get_parsing_context", lambda: Parsing("score"))
    assert read_config() is None
    assert not load().import_errors


def test_defaults_of_the_form_are_those_of_the_config(dag: Any) -> None:
    values = dag.params.dump()
    assert values == {
        "workload_id": None,
        "client_id": "default",
        "students": ["1b", "8b"],
        "sizes": [5000, 10000, 25000],
        "approval": "automatic",
        "overrides": {},
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workload_id", "has spaces"),
        ("students", ["1b", "70b"]),
        ("sizes", [0]),
        ("sizes", ["many"]),
        ("approval", "maybe"),
        ("overrides", []),
        ("client_id", "x" * 129),
    ],
)
def test_the_form_refuses_what_a_run_could_not_use(dag: Any, name: str, value: Any) -> None:
    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def test_every_field_of_the_form_has_a_title_and_a_description(dag: Any) -> None:
    for name in dag.params:
        param = dag.params.get_param(name)
        assert param.schema["title"], name
        assert param.description, name


def test_without_a_schedule_it_runs_by_hand_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, monkeypatch)
    assert dag_schedule(read_config()) is None
    assert dag_schedule(None) is None
    assert dag_params(None)["students"].value == []


def test_a_clock_has_its_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, monkeypatch, schedule={"cron": "0 2 * * *", "time_zone": "Europe/London"})
    schedule = dag_schedule(read_config())
    assert isinstance(schedule, NightTimetable)
    assert schedule == nightly(ClockSection(cron="0 2 * * *", time_zone="Europe/London"))
    assert not load().import_errors


def test_an_asset_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, monkeypatch, schedule={"asset": "x-flywheel://new-data"})
    assert dag_schedule(read_config()) == [Asset("x-flywheel://new-data")]
    assert not load().import_errors


def test_a_clock_or_an_asset_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, monkeypatch, schedule={"cron": "@daily", "asset": "x-flywheel://new-data"})
    assert isinstance(dag_schedule(read_config()), NightOrAssetTimetable)
    assert not load().import_errors


@pytest.mark.parametrize("cron", ["30 4 * * 0", None])
def test_what_nobody_needs_is_removed_by_a_dag_of_its_own_where_the_config_says_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cron: str | None
) -> None:
    write_config(tmp_path, monkeypatch, retention={"cron": cron})
    bag = DagBag(str(DAG_FILE.with_name("flywheel_prune.py")), safe_mode=False)
    assert not bag.import_errors
    assert set(bag.dags) == ({"flywheel_prune"} if cron else set())
    if cron:
        assert bag.dags["flywheel_prune"].task_ids == ["prune"]
        assert bag.dags["flywheel_prune"].schedule.summary == "30 4 * * 0"


@pytest.mark.parametrize("cron", ["30 1 * * *", None])
def test_a_night_of_production_is_looked_at_by_a_dag_of_its_own_where_the_config_says_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cron: str | None
) -> None:
    write_config(tmp_path, monkeypatch, serving={"watch": {"cron": cron}})
    bag = DagBag(str(DAG_FILE.with_name("flywheel_watch.py")), safe_mode=False)
    assert not bag.import_errors
    assert set(bag.dags) == ({"flywheel_watch"} if cron else set())
    if cron:
        (task,) = bag.dags["flywheel_watch"].tasks
        assert [outlet.name for outlet in task.outlets] == ["flywheel-drift"]


def test_examples_in_prompts_are_a_task_where_the_config_has_them(
    dag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "icl_eval" not in dag.task_ids
    write_config(tmp_path, monkeypatch, icl_config={"max_examples": 2})
    with_examples = load().dags["flywheel"]
    task = with_examples.get_task("icl_eval")
    assert task.upstream_task_ids == {"plan", "curate"}
    assert "score" in task.downstream_task_ids
