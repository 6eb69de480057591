"""The task of a job: what it finds, whom it hands the job to, and what becomes of its failures."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk import DAG
from airflow.sdk._shared.module_loading import import_string
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from jinja2 import Environment
from typer.testing import CliRunner

from flywheel.cli import main as cli
from flywheel.common.errors import JobError
from flywheel.config import Student
from flywheel.jobs.result import CustomizeResult
from flywheel.orchestration import read_runtime
from flywheel.runs.run import Run
from flywheel.runtimes import Job, RefusedJobError, Runtime, job_operator, open_runtime
from flywheel.runtimes.base import Stage
from tests.unit import finished_run
from tests.unit.finished_run import change_plan, config_of, finish, plan_of
from tests.unit.task_context import NOON, context_of
from tests.unit.toy_runtime import ToyRuntime


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    sections = getattr(request, "param", {})
    config = config_of(str(tmp_path / "artifacts"), f"sqlite:///{tmp_path / 'mlflow.db'}", **sections)
    return finish(plan_of(config))


class FakeRuntime(Runtime):
    """Runs no job: fails as it is told to, or leaves the result that is there."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.jobs: list[Job] = []
        self.killed = False

    def run(self, job: Job, log: Any) -> None:
        self.jobs.append(job)
        log("WARNING the student is small")
        if self.error:
            raise self.error

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setattr(job_operator, "open_runtime", lambda config: fake)
    monkeypatch.setattr(job_operator, "is_done", lambda kind, spec: False)
    return fake


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> None:
    """The split gave enough records for each size but 25."""
    sizes = {
        str(size): {
            "available": size < 25,
            "reason": "" if size < 25 else f"size {size}: there are only 12 training records",
            "per_class": {},
        }
        for size in (5, 10, 25)
    }
    curated = finished_run.curated

    def with_sizes(dataset: str, train: int) -> Any:
        return type(curated(dataset, train)).model_validate(
            {**curated(dataset, train).model_dump(mode="json"), "sizes": sizes}
        )

    monkeypatch.setattr(finished_run, "curated", with_sizes)


def failure_of(run: Run, folder: str) -> Any:
    path = f"{run.path}/jobs/{folder}/failure.json"
    return run.root.read_json(path) if run.root.exists(path) else None


def task(run: Run, stage: Stage = "customize", size: int | None = 5, student: str = "1b") -> Any:
    return open_runtime(run.plan.config).task(stage, student=student, size=size)


def test_a_job_runs_with_the_spec_in_the_runs_folder(available: None, run: Run, runtime: FakeRuntime) -> None:
    given = task(run).execute(context_of(run))
    (job,) = runtime.jobs
    assert job.kind == "customize"
    assert job.spec == f"{run.root.url}/{run.path}/jobs/1b@5/customize.spec.json"
    assert job.name == "customize 1b @ 5"
    assert given["adapter"] == run.load("jobs/1b@5/customize", CustomizeResult).adapter
    assert failure_of(run, "1b@5") is None


def test_base_eval_is_an_evaluation_without_size(available: None, run: Run, runtime: FakeRuntime) -> None:
    task(run, "base_eval", None).execute(context_of(run))
    (job,) = runtime.jobs
    assert (job.kind, job.name) == ("evaluate", "base_eval 1b")


def test_what_was_done_before_starts_no_job(
    available: None, run: Run, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_operator, "is_done", lambda kind, spec: True)
    read: list[str] = []
    monkeypatch.setattr(job_operator, "run_job", lambda kind, spec: read.append(kind))
    task(run).execute(context_of(run))
    assert (runtime.jobs, read) == ([], ["customize"])


def test_a_failed_job_says_why_for_the_table(available: None, run: Run, runtime: FakeRuntime) -> None:
    runtime.error = JobError("customize 1b @ 5: killed by signal 9")
    with pytest.raises(JobError):
        task(run).execute(context_of(run))
    assert failure_of(run, "1b@5") == {
        "stage": "customize",
        "reason": "customize 1b @ 5: killed by signal 9",
    }


def test_a_refused_job_is_not_tried_again(available: None, run: Run, runtime: FakeRuntime) -> None:
    runtime.error = RefusedJobError("customize 1b @ 5: no weights")
    with pytest.raises(AirflowFailException, match="no weights"):
        task(run).execute(context_of(run))


def test_a_try_that_succeeds_forgets_the_failure_before_it(
    available: None, run: Run, runtime: FakeRuntime
) -> None:
    runtime.error = JobError("once")
    with pytest.raises(JobError):
        task(run).execute(context_of(run))
    runtime.error = None
    task(run).execute(context_of(run))
    assert failure_of(run, "1b@5") is None


def test_a_size_without_enough_records_is_skipped_with_the_reason(
    available: None, run: Run, runtime: FakeRuntime
) -> None:
    with pytest.raises(AirflowSkipException, match="only 12 training records"):
        task(run, size=25).execute(context_of(run))
    assert failure_of(run, "1b@25")["reason"] == "size 25: there are only 12 training records"
    assert not runtime.jobs


def test_without_a_champion_there_is_nothing_to_measure_anew(
    available: None, run: Run, runtime: FakeRuntime
) -> None:
    with pytest.raises(AirflowSkipException, match="no champion yet"):
        task(run, "champion_eval", None, "champion").execute(context_of(run))


def test_without_icl_config_a_student_is_not_measured_with_examples(
    available: None, run: Run, runtime: FakeRuntime
) -> None:
    with pytest.raises(AirflowSkipException, match="no icl_config"):
        task(run, "icl_eval", None).execute(context_of(run))
    assert failure_of(run, "1b") is None  # the student's own measurement did not fail
    assert not runtime.jobs


def test_a_task_that_is_killed_ends_its_job(available: None, run: Run, runtime: FakeRuntime) -> None:
    operator = task(run)
    operator.on_kill()  # before there is a job
    operator.execute(context_of(run))
    operator.on_kill()
    assert runtime.killed


def test_a_run_that_is_planned_for_another_runtime_fails_without_another_try(
    available: None, run: Run, runtime: FakeRuntime
) -> None:
    operator = task(run)
    plan = run.plan
    toy = plan.config.runtime.model_copy(update={"type": "toy:Toy"})
    change_plan(run, plan.model_copy(update={"config": plan.config.model_copy(update={"runtime": toy})}))
    with pytest.raises(
        AirflowFailException, match="planned for runtime 'toy:Toy', the DAG file was read with 'local'"
    ):
        operator.execute(context_of(run))
    assert "set runtime.type back" in failure_of(run, "1b@5")["reason"]
    assert not runtime.jobs


def test_while_the_config_cannot_be_read_a_run_goes_on_by_its_plan(
    available: None, run: Run, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = read_runtime(None).task("customize", student="1b", size=5)
    monkeypatch.setattr("flywheel.runtimes.planned.open_runtime", open_runtime)
    assert operator.execute(context_of(run))["adapter"]
    (job,) = runtime.jobs
    operator.on_kill()
    assert (job.name, runtime.killed) == ("customize 1b @ 5", True)


PODS = {"runtime": {"type": "kubernetes", "kubernetes": {"volume_claim": "disk"}}}


def pod_context(run: Run) -> dict[str, Any]:
    """Return the context of the first try of a mapped task."""
    context = {**context_of(run), "run_id": run.run_id, "dag": None}
    names = {"dag_id": "flywheel", "task_id": "candidate.customize", "run_id": run.run_id}
    vars(context["ti"]).update(names, map_index=3, try_number=2, start_date=NOON)
    return context


@pytest.mark.parametrize("run", [PODS], indirect=True)
def test_a_job_for_a_pod_goes_to_a_trigger_that_looks_for_its_result(
    available: None, run: Run, runtime: FakeRuntime
) -> None:
    context = pod_context(run)
    made = run.root.read_json(f"{run.path}/jobs/1b@5/customize.json")
    operator = task(run)
    operator.execution_timeout = timedelta(hours=1)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    path, arguments = deferred.value.trigger.serialize()
    trigger = import_string(path)(**json.loads(json.dumps(arguments)))
    assert trigger.limits.deadline == NOON.timestamp() + 3600
    labels = trigger.manifest["metadata"]["labels"]
    assert (labels["task_id"], labels["map_index"], labels["try_number"]) == ("candidate.customize", "3", "2")
    assert not runtime.jobs
    assert trigger._read() is None  # that of an earlier try is gone
    run.root.write_json(f"{run.path}/jobs/1b@5/customize.json", made)
    assert trigger._read()["adapter"] == made["result"]["adapter"]
    # A worker takes it where the trigger did not, and where `airflow dags test` knows no task that is ended.
    good = {"good": True, "sentence": "", "refused": False}
    for event in (good, "success"):
        assert task(run).resume(context, event)["adapter"] == made["result"]["adapter"]


@pytest.mark.parametrize("run", [PODS], indirect=True)
def test_a_pod_that_failed_says_why_for_the_table(available: None, run: Run, runtime: FakeRuntime) -> None:
    run.root.discard(f"{run.path}/jobs/1b@5/customize.json")
    event = {"good": False, "sentence": "p: evicted", "refused": False}
    with pytest.raises(JobError, match="evicted"):
        task(run).resume(context_of(run), event)
    assert failure_of(run, "1b@5") == {"stage": "customize", "reason": "p: evicted"}


@pytest.mark.parametrize("run", [PODS], indirect=True)
def test_airflow_shows_the_pod_of_a_task_as_the_cluster_gets_it(run: Run) -> None:
    with DAG("d", schedule=None):
        operator = task(run)
    context = pod_context(run)
    operator.render_template_fields(context, Environment())
    shown = yaml.safe_load(operator.pod_spec)
    (container,) = shown["spec"]["containers"]
    assert container["args"] == ["customize", operator.arguments[1]]
    assert container["args"][1].endswith(f"{run.path}/jobs/1b@5/customize.spec.json")
    assert shown["metadata"]["labels"]["flywheel/student"] == "1b"
    assert shown["metadata"]["name"] == operator.name
    assert operator.trigger(context, run.plan.config.runtime.kubernetes).manifest["spec"]["containers"]


@pytest.mark.parametrize("run", [PODS], indirect=True)
def test_what_the_dag_file_says_of_a_pod_goes_before_the_config(run: Run) -> None:
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    with DAG("d", schedule=None):
        operator = open_runtime(run.plan.config).task(
            "customize",
            student="1b",
            size=5,
            image="mine:{{ params.tag }}",
            node_selector={"zone": "a"},
            affinity=affinity,
        )
    context = {**pod_context(run), "params": {"tag": "7"}}
    operator.render_template_fields(context, Environment())
    spec = operator.trigger(context, run.plan.config.runtime.kubernetes).manifest["spec"]
    assert (spec["containers"][0]["image"], spec["nodeSelector"]) == ("mine:7", {"zone": "a"})
    assert spec["affinity"]["nodeAffinity"]
    assert spec["serviceAccountName"] == "flywheel-student"  # the rest is the config's


TOY = {"runtime": {"type": "tests.unit.toy_runtime:ToyRuntime", "options": {"program": ["echo"]}}}


@pytest.mark.parametrize("run", [TOY], indirect=True)
def test_the_command_line_has_jobs_done_where_the_plan_says(run: Run) -> None:
    ToyRuntime.jobs.clear()
    done = CliRunner().invoke(cli.app, ["jobs", run.run_id, "--artifacts", run.root.url])
    assert done.exit_code == 0, done.output
    assert ToyRuntime.jobs[:1] == ["evaluate 1b"]
    assert "customize 1b@5" in ToyRuntime.jobs
    assert f"customize {run.root.url}/{run.path}/jobs/1b@5/customize.spec.json" in done.output


def test_a_job_says_whether_its_weights_come_from_the_hub(tmp_path: Path) -> None:
    theirs = Student(model_name="acme/tiny", weights="acme/tiny", gpus=2)
    assert Job.of("evaluate", "s", "n", theirs) == Job("evaluate", "s", "n", gpus=2, from_hub=True)
    here = theirs.model_copy(update={"weights": str(tmp_path)})
    assert not Job.of("evaluate", "s", "n", here).from_hub
