"""The DAG is the figure of the design, and its form and schedule are those of the config."""

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Asset, AssetAll, AssetOrTimeSchedule, CronTriggerTimetable
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization

from flywheel.common.errors import ConfigError, JobError
from flywheel.orchestration import CHAMPION_ASSET, dag_params, dag_schedule, read_config, settings
from flywheel.runtimes import Job, RefusedJobError, open_runtime
from tests.unit import finished_run
from tests.unit.task_context import context_of
from tests.unit.toy_runtime import ToyRuntime

ROOT = Path(__file__).parents[2]
DAG_FILE = ROOT / "dags" / "flywheel.py"
CONFIG = {
    "nims": [{"model_name": "meta/llama-3.2-1b-instruct"}, {"model_name": "meta/llama-3.1-8b-instruct"}]
}


def write_config(folder: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **sections}))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(path))
    return path


def load() -> DagBag:
    return DagBag(str(DAG_FILE), safe_mode=False)


@pytest.fixture
def dag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    write_config(tmp_path, monkeypatch)
    bag = load()
    assert not bag.import_errors
    return bag.dags["flywheel"]


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
        "experiment": "",
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
    assert isinstance(schedule, CronTriggerTimetable)
    assert (schedule.expression, str(schedule.timezone)) == ("0 2 * * *", "Europe/London")
    assert not load().import_errors


def test_an_asset_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, monkeypatch, schedule={"asset": "x-flywheel://new-data"})
    assert dag_schedule(read_config()) == [Asset("x-flywheel://new-data")]
    assert not load().import_errors


def test_a_clock_or_an_asset_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, monkeypatch, schedule={"cron": "@daily", "asset": "x-flywheel://new-data"})
    assert isinstance(dag_schedule(read_config()), AssetOrTimeSchedule)
    assert not load().import_errors


def test_a_run_on_nemo_is_swept_and_serves_its_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://nemo.test"
    addresses = dict.fromkeys(("nemo_base_url", "nim_base_url", "datastore_base_url"), url)
    write_config(tmp_path, monkeypatch, nmp_config=addresses)
    bag = load()
    assert not bag.import_errors
    dag = bag.dags["flywheel"]
    assert dag.get_task("serve").upstream_task_ids == {"promote"}
    clean_up = dag.get_task("clean_up")
    assert clean_up.is_teardown and clean_up.upstream_task_ids == {"serve"}
    sweep = dag.get_task("sweep")
    assert sweep.task_type == "NemoSweepOperator" and sweep.is_teardown
    assert sweep.upstream_task_ids == {"base_eval", "champion_eval", "candidate.evaluate"}


@pytest.mark.parametrize("runtime", ["nemo", "local"])
def test_on_nemo_another_dag_follows_a_persons_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    addresses = dict.fromkeys(("nemo_base_url", "nim_base_url", "datastore_base_url"), "http://nemo.test")
    write_config(tmp_path, monkeypatch, nmp_config=addresses, runtime={"type": runtime})
    bag = DagBag(str(DAG_FILE.with_name("flywheel_serving.py")), safe_mode=False)
    assert not bag.import_errors
    assert set(bag.dags) == ({"flywheel_serving"} if runtime == "nemo" else set())
    if runtime == "nemo":
        dag = bag.dags["flywheel_serving"]
        assert dag.timetable.asset_condition == AssetAll(CHAMPION_ASSET)
        assert dag.task_ids == ["serve"]


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
        assert bag.dags["flywheel_prune"].schedule.expression == "30 4 * * 0"


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


def test_on_kubernetes_jobs_are_kubernetes_pod_operators_with_their_usual_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    pods = {
        "volume_claim": "disk",
        "node_selector": {"zone": "a"},
        "tolerations": tolerations,
        "limits": {"memory": "9Gi"},
    }
    write_config(tmp_path, monkeypatch, runtime={"type": "kubernetes", "kubernetes": pods})
    bag = load()
    assert not bag.import_errors
    dag = bag.dags["flywheel"]
    jobs = ("base_eval", "champion_eval", "candidate.customize", "candidate.evaluate")
    for name in jobs:
        task = dag.get_task(name)
        made = getattr(task, "operator_class", type(task))
        assert issubclass(made, KubernetesPodOperator), name
        assert task.operator_name == "KubernetesPodOperator"
        given = getattr(task, "partial_kwargs", None) or vars(task)
        assert (given["namespace"], given["image"]) == ("flywheel", "flywheel-student:0.2.0")
        assert given["node_selector"] == {"zone": "a"}
        assert [toleration.key for toleration in given["tolerations"]] == ["gpu"]
        assert given["container_resources"].limits["memory"] == "9Gi"
        assert given["deferrable"]
    assert dag.get_task("sweep").upstream_task_ids == {"base_eval", "champion_eval", "candidate.evaluate"}
    stored = json.dumps(DagSerialization.to_dict(dag))
    assert stored.count('"_operator_name": "KubernetesPodOperator"') == len(jobs)


def test_elsewhere_jobs_are_operators_of_their_runtime(dag: Any) -> None:
    assert dag.get_task("champion_eval").task_type == "ProcessOperator"
    assert "sweep" not in dag.task_ids


def test_a_runtime_of_ones_own_has_its_jobs_done_and_its_tasks_in_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = {"type": "tests.unit.toy_runtime:ToyRuntime", "options": {"program": ["echo"]}}
    write_config(tmp_path, monkeypatch, runtime=toy)
    bag = load()
    assert not bag.import_errors
    dag = bag.dags["flywheel"]
    assert dag.get_task("sweep").task_type == "ToySweepOperator"
    config = finished_run.config_of(str(tmp_path / "root"), f"sqlite:///{tmp_path}/mlflow.db", runtime=toy)
    run = finished_run.finish(finished_run.plan_of(config))
    ToyRuntime.jobs.clear()
    mapped = dag.get_task("base_eval")
    operator = mapped.unmap({"student": "1b"})
    monkeypatch.setattr(operator, "find", lambda *_: False)
    assert operator.execute(context_of(run))["scores"]["f1_weighted"]
    assert ToyRuntime.jobs == ["base_eval 1b"]
    monkeypatch.setitem(config.runtime.options, "program", ["false"])
    finished_run.change_plan(run, run.plan.model_copy(update={"config": config}))
    with pytest.raises(JobError, match="base_eval 1b"):
        operator.execute(context_of(run))


@pytest.mark.parametrize("name", ["tests.unit.no_such:ToyRuntime", "tests.unit.toy_runtime:ToySweepOperator"])
def test_a_runtime_that_is_none_is_an_import_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_config(tmp_path, monkeypatch, runtime={"type": name})
    (error,) = load().import_errors.values()
    assert f"runtime.type '{name}'" in error


def test_an_experiment_cannot_choose_where_jobs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    write_config(tmp_path, monkeypatch)
    (tmp_path / "experiments").mkdir()
    pods = {"type": "kubernetes", "kubernetes": {"volume_claim": "disk"}}
    (tmp_path / "experiments/pods.yaml").write_text(yaml.safe_dump({"runtime": pods}))
    with pytest.raises(ConfigError, match="a run cannot choose it"):
        settings.config_of("pods")


def test_components_that_fork_tasks_have_imported_what_the_dag_file_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = {"type": "kubernetes", "kubernetes": {"volume_claim": "disk"}}
    write_config(tmp_path, monkeypatch, runtime=pods)
    program = (
        "import sys\n"
        "from airflow.listeners.listener import get_listener_manager\n"
        "get_listener_manager().hook.on_starting(component=None)\n"
        "before = set(sys.modules)\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"bag = DagBag({str(DAG_FILE)!r}, safe_mode=False)\n"
        "assert bag.dags and not bag.import_errors\n"
        "late = {name for name in set(sys.modules) - before if name.startswith(('kubernetes', 'pydantic'))}\n"
        "assert not late, late"
    )
    environment = {**os.environ, "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_the_runtime_that_the_docs_show_runs_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), flags=re.DOTALL
    )
    (tmp_path / "slurm_of_the_docs.py").write_text(block)
    (tmp_path / "srun").write_text(
        "#!/bin/sh\necho $@; shift 4; [ $1 = customize ] && echo bad >&2 && exit 1\n:"
    )
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    kind = {"type": "slurm_of_the_docs:SlurmRuntime", "options": {"partition": "gpu"}}
    write_config(tmp_path, monkeypatch, runtime=kind)
    bag = load()
    assert not bag.import_errors
    runtime = open_runtime(read_config())  # type: ignore[arg-type]
    lines: list[str] = []
    runtime.run(Job("evaluate", "s3://a/b.spec.json", "evaluate 1b", gpus=1), lines.append)
    assert lines == ["--partition gpu --gpus=1 flywheel evaluate s3://a/b.spec.json"]
    with pytest.raises(RefusedJobError, match="customize 1b: bad"):
        runtime.run(Job("customize", "s3://a/b.spec.json", "customize 1b"), lines.append)
