"""The DAG of a labelled history: a plan, one task for each shard, the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from flywheel.annotation.shard import annotate_shard
from flywheel.annotation.spec import ShardSpec
from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import JobError
from flywheel.config import Config
from flywheel.orchestration import annotating
from flywheel.runtimes import Job, RefusedJobError, shard_operator
from flywheel.runtimes.kubernetes.job import PodJob
from flywheel.runtimes.kubernetes.job_trigger import JobTrigger
from flywheel.runtimes.kubernetes.shard_operator import PodShardOperator
from flywheel.runtimes.shard_operator import ShardOperator
from tests.unit.labelled_history import Students, config_for, with_champions, write_headlines

DAG_FILE = Path(__file__).parents[2] / "dags" / "flywheel_annotate.py"


class Here:
    """A runtime that labels a shard in this process."""

    jobs: list[str]

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Do a job as `flywheel annotate-shard SPEC` does."""
        root = ArtifactRoot(self.config.artifacts.root)
        spec = ShardSpec.model_validate(root.read_json(job.spec.removeprefix(f"{root.url}/")))
        result = annotate_shard(spec, Students())
        path = job.spec.removeprefix(f"{root.url}/").replace(".spec.json", ".json")
        root.write_json(path, {"result": result.model_dump(mode="json")})
        log(f"INFO {job.command[0]}")


class Refusing(Here):
    """A runtime whose jobs say that what they were given is wrong."""

    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Refuse."""
        raise RefusedJobError(f"{job.name}: no")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_headlines(tmp_path / "headlines.csv", 200)
    with_champions(config_for(tmp_path))
    data = {
        "client_id": "desk",
        "nims": [{"model_name": "tfidf", "name": "linear", "family": "linear", "gpus": 0}],
        "source": [{"path": str(tmp_path / "headlines.csv")}],
        "artifacts": {"root": str(tmp_path / "artifacts")},
        "annotation": {"cron": "0 5 * * *"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(tmp_path / "config.yaml"))
    return tmp_path


def context(monkeypatch: pytest.MonkeyPatch, **params: str) -> dict[str, Any]:
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(
        dag_id="flywheel_annotate",
        xcom_push=lambda key, value: pushed.__setitem__(key, value),
        xcom_pull=lambda task_ids, key: pushed[key],
    )
    given = {"ti": ti, "params": {"from": "", "to": "", **params}}
    monkeypatch.setattr(annotating, "get_current_context", lambda: given)
    return given


def test_the_dag_is_there_where_the_config_has_the_section(folder: Path) -> None:
    bag = DagBag(str(DAG_FILE), safe_mode=False)
    assert not bag.import_errors
    dag = bag.dags["flywheel_annotate"]
    assert {task.task_id: set(task.downstream_task_ids) for task in dag.tasks} == {
        "plan_shards": {"annotate"},
        "annotate": {"write_manifest"},
        "write_manifest": set(),
    }
    assert dag.schedule.summary == "0 5 * * *"
    assert set(dag.params) == {"from", "to"}  # where texts and labels lie is the operator's alone
    path = folder / "config.yaml"
    path.write_text("nims: [{model_name: a/b}]\n")
    assert DagBag(str(DAG_FILE), safe_mode=False).dags == {}


def test_its_tasks_label_a_span_and_a_second_run_finds_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_operator, "open_runtime", Here)
    given = context(monkeypatch, **{"from": "2019-01-01", "to": "2019-04-01"})
    specs = annotating.plan_shards.function()
    assert [spec.rpartition("/")[2] for spec in specs] == [
        f"2019-0{month}-01.spec.json" for month in (1, 2, 3)
    ]
    for spec in specs:
        ShardOperator(task_id="annotate", spec=spec).execute(given)
    assert annotating.write_manifest.function()["rows"] == 200
    assert annotating.plan_shards.function() == []


def test_a_shard_that_is_refused_is_not_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_operator, "open_runtime", Refusing)
    given = context(monkeypatch, **{"from": "2019-01-01", "to": "2019-02-01"})
    (spec,) = annotating.plan_shards.function()
    with pytest.raises(AirflowFailException, match="annotate 2019-01-01: no"):
        ShardOperator(task_id="annotate", spec=spec).execute(given)


def test_a_shard_is_a_pods_job_as_others_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context(monkeypatch, **{"from": "2019-01-01", "to": "2019-02-01"})
    (spec,) = annotating.plan_shards.function()
    job = PodJob.of(Job("annotate-shard", spec, "annotate 2019-01-01"))
    assert (job.kind, job.stage, job.student.name) == ("annotate-shard", "annotate", "linear")
    assert job.name.startswith("fw-annotate-linear-")
    assert job.result == spec.removeprefix(f"{job.root}/").replace(".spec.json", ".json")


def on_kubernetes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Plan a month for pods; return the spec of its shard."""
    path = folder / "config.yaml"
    pods = {"namespace": "desk", "volume_claim": "disk", "limits": {"cpu": "2", "memory": "9Gi"}}
    runtime = {"type": "kubernetes", "kubernetes": pods}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "runtime": runtime}))
    context(monkeypatch, **{"from": "2019-01-01", "to": "2019-02-01"})
    (spec,) = annotating.plan_shards.function()
    return str(spec)


def pod_context() -> dict[str, Any]:
    names = {"dag_id": "flywheel_annotate", "task_id": "annotate", "run_id": "r", "map_index": 0}
    ti = SimpleNamespace(**names, try_number=1, start_date=None)
    return {"ti": ti, "run_id": "r", "dag": None}


def test_on_kubernetes_a_shard_is_a_kubernetes_pod_operator_that_holds_no_worker_slot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = on_kubernetes(folder, monkeypatch)
    bag = DagBag(str(DAG_FILE), safe_mode=False)
    assert not bag.import_errors
    mapped = bag.dags["flywheel_annotate"].get_task("annotate")
    assert issubclass(mapped.operator_class, KubernetesPodOperator)
    assert mapped.operator_name == "KubernetesPodOperator"
    assert mapped.partial_kwargs["namespace"] == "desk"
    task = mapped.unmap({"spec": spec})
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(pod_context())
    assert deferred.value.method_name == "resume"
    trigger = deferred.value.trigger
    assert isinstance(trigger, JobTrigger)
    root = str(folder / "artifacts")
    path = spec.removeprefix(f"{root}/").replace(".spec.json", ".json")
    assert trigger.result == {"root": root, "path": path}
    (container,) = trigger.manifest["spec"]["containers"]
    assert container["args"] == ["annotate-shard", spec]
    assert container["resources"]["limits"]["memory"] == "9Gi"
    assert trigger.manifest["metadata"]["labels"]["app.kubernetes.io/component"] == "annotate"


def test_a_pods_task_takes_the_result_and_says_how_a_pod_ended_that_left_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = on_kubernetes(folder, monkeypatch)
    task = PodShardOperator(task_id="annotate", spec=spec)
    ended = {"good": False, "sentence": "needed more memory", "refused": False}
    with pytest.raises(JobError, match="needed more memory"):
        task.resume({}, ended)
    with pytest.raises(AirflowFailException, match="no such adapter"):
        task.resume({}, {"good": False, "sentence": "no such adapter", "refused": True})
    Here(task.work().config).run(task.job, lambda _: None)
    given = task.resume({}, ended)  # what it made counts, whatever became of its pod
    assert given["name"] == "2019-01-01"
    assert given["asked"] > 0
    assert task.execute(pod_context()) == given  # found: no pod is made for it


def test_a_spec_names_relative_places_as_the_config_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(folder))
    shutil.copytree(DAG_FILE.parents[1] / "include/workloads", folder / "include/workloads")
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace(str(folder / "artifacts"), "artifacts"))
    context(monkeypatch, **{"from": "2019-01-01", "to": "2019-02-01"})
    (spec,) = annotating.plan_shards.function()
    asked = json.loads(Path(spec).read_text())
    # A pod's project lies elsewhere, and has the same artifact root in it.
    assert asked["artifact_root"] == "artifacts"
    assert asked["out"] == "artifacts/annotations/news_classifier/desk/point_in_time"
