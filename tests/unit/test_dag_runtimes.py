"""The DAG's jobs are tasks of the runtime that the config names: their operators, sweep and serve."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import AssetAll
from airflow.serialization.serialized_objects import DagSerialization

from flywheel.common.errors import JobError
from flywheel.orchestration import CHAMPION_ASSET, read_config
from flywheel.runtimes import Job, RefusedJobError, open_runtime
from tests.unit import dag_file, finished_run
from tests.unit.dag_file import DAG_FILE, ROOT, load, write_config
from tests.unit.task_context import context_of
from tests.unit.toy_runtime import ToyRuntime

dag = dag_file.dag  # a fixture


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
