"""config.yaml and each experiments/NAME.yaml is a DAG of its own; a wrong file takes away its own alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag
from typer.testing import CliRunner

from flywheel.cli import main as cli
from flywheel.cli.doctor import findings
from flywheel.common.errors import ConfigError
from flywheel.config import load_config
from flywheel.config.experiments import dag_id_of, experiment_of
from flywheel.laptop.home import BUNDLE
from flywheel.orchestration.bundle import ExperimentsBundle
from flywheel.promotion.mlflow_runs import experiment_name
from flywheel.runs.run import open_run
from flywheel.workloads import experiments as reading
from flywheel.workloads.experiments import experiment_for, experiments
from tests.unit.finished_run import plan_of

PROJECT = Path(__file__).resolve().parents[2]
NIMS = [{"model_name": "meta/llama-3.2-1b-instruct"}]
NIGHTLY = {"cron": "0 2 * * *"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    (folder / "experiments").mkdir(parents=True)
    shutil.copyfile(PROJECT / "examples/sentiment.yaml", folder / "sentiment.yaml")
    monkeypatch.setenv("FLYWHEEL_HOME", str(folder))
    monkeypatch.delenv("FLYWHEEL_CONFIG", raising=False)
    write(folder / "config.yaml", nims=NIMS, client_id="desk", schedule=NIGHTLY)
    return folder


def write(file: Path, **sections: Any) -> None:
    file.write_text(yaml.safe_dump(sections, sort_keys=False))


def write_experiment(home: Path, name: str, **sections: Any) -> None:
    write(home / "experiments" / f"{name}.yaml", **sections)


@pytest.fixture
def bundle(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentsBundle:
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path / "bundles"))
    return ExperimentsBundle(name="dags-folder", path=str(PROJECT / "dags"))


def read(bundle: ExperimentsBundle) -> BundleDagBag:
    bundle.initialize()
    return BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)


# -- files ---------------------------------------------------------------------------------------------


def test_a_file_lies_over_what_it_extends_key_by_key(home: Path) -> None:
    write(home / "common.yaml", teacher={"model": "big", "temperature": 0.5}, nims=NIMS, client_id="all")
    write_experiment(
        home, "mild", extends="../common.yaml", teacher={"temperature": 0.1}, nim=[{"model_name": "a/x-3b"}]
    )
    config = load_config(experiment="mild")
    assert (config.teacher.model, config.teacher.temperature) == ("big", 0.1)
    assert [student.name for student in config.students] == ["3b"]
    assert config.schedule.cron is None  # config.yaml is not below it


def test_a_file_that_does_not_say_lies_over_config_yaml(home: Path) -> None:
    write_experiment(home, "wide", sizes=[3])
    assert load_config(experiment="wide").schedule.cron == NIGHTLY["cron"]
    write_experiment(home, "alone", extends=None, sizes=[3])
    with pytest.raises(ConfigError, match=r"alone\.yaml, line 1: nims: missing"):
        load_config(experiment="alone")


def test_config_yaml_extends_another_file_too(home: Path) -> None:
    write(home / "common.yaml", extends="deeper/common.yaml", nims=NIMS)
    (home / "deeper").mkdir()
    write(home / "deeper/common.yaml", sizes=[7])
    write(home / "config.yaml", extends="common.yaml")
    assert load_config().sizes == (7,)


def test_a_client_is_an_experiments_own(home: Path) -> None:
    write_experiment(home, "wide", sizes=[3])
    write_experiment(home, "other", client_id="people", sizes=[3])
    clients = [load_config(experiment=name).client_id for name in ("", "wide", "other")]
    assert clients == ["desk", "wide", "people"]


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ("../none.yaml", r"wide\.yaml, line 1: extends: no such file: .*/none\.yaml"),
        ("wide.yaml", r"wide\.yaml, line 1: extends: .* is extended by this file itself"),
        ([1], r"wide\.yaml, line 1: extends: expected the path of a file, or null; got \[1\]"),
        ("../bad.yaml", r"bad\.yaml, line 2: training_config\.epoch: no such key"),
    ],
)
def test_an_error_names_the_file_and_line_that_it_is_in(home: Path, extends: Any, said: str) -> None:
    (home / "bad.yaml").write_text(
        "training_config:\n  epoch: 2\nnims: [{model_name: meta/llama-3.2-1b-instruct}]\n"
    )
    write_experiment(home, "wide", extends=extends, sizes=[3])
    with pytest.raises(ConfigError, match=said):
        load_config(experiment="wide")


@pytest.mark.parametrize("name", ["none", "../config", "/etc/passwd", "a/b", "wide.yaml", "x" * 300, "\n"])
def test_an_experiment_is_a_name_that_is_there(home: Path, name: str) -> None:
    write_experiment(home, "wide", sizes=[3])
    with pytest.raises(ConfigError, match=r"no experiment .*; there are wide"):
        load_config(experiment=name)


# -- whose champion it is ------------------------------------------------------------------------------


def test_of_two_files_with_one_workload_and_client_the_later_is_wrong_and_names_both(home: Path) -> None:
    write_experiment(home, "same", client_id="desk")
    write_experiment(home, "sentiment", client_id="desk", workload="sentiment.yaml")
    write_experiment(home, "desk", workload="sentiment.yaml")
    found = {one.name: one for one in experiments()}
    assert not found[""].error and not found["desk"].error
    assert found["same"].error.startswith(
        f"{home}/experiments/same.yaml: client_id: {home}/config.yaml is of"
    )
    assert f"{home}/experiments/desk.yaml is of client 'desk'" in found["sentiment"].error


def test_a_job_is_of_the_experiment_of_its_workload_and_client(home: Path) -> None:
    write_experiment(home, "sentiment", client_id="desk", workload="sentiment.yaml")
    write_experiment(home, "wrong", size=[1])
    assert experiment_for("sentiment", "desk") == "sentiment"
    assert experiment_for("news_classifier", "desk") == experiment_for("sentiment", "other") == ""


def test_a_file_is_read_again_when_it_or_one_below_it_has_changed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_experiment(home, "wide", sizes=[3])
    assert experiments()[1].config.schedule.cron == NIGHTLY["cron"]  # type: ignore[union-attr]
    with monkeypatch.context() as patched:
        patched.setattr(reading, "_read_now", lambda name: pytest.fail(f"{name} is read again"))
        assert len(experiments()) == 2
    write(home / "config.yaml", nims=NIMS, client_id="desk", schedule={"cron": "30 12 * * *"})
    assert experiments()[1].config.schedule.cron == "30 12 * * *"  # type: ignore[union-attr]
    (home / "experiments/wide.yaml").unlink()
    assert [one.name for one in experiments()] == [""]


# -- DAGs ----------------------------------------------------------------------------------------------


def test_each_experiment_is_a_dag_with_its_own_schedule_owner_tags_and_form(
    home: Path, bundle: ExperimentsBundle
) -> None:
    write_experiment(
        home,
        "sentiment",
        extends="../config.yaml",
        workload="sentiment.yaml",
        sizes=[3],
        schedule={"cron": "0 3 * * 1"},
        dag={"owner": "research", "tags": ["moods"]},
    )
    bag = read(bundle)
    assert not bag.import_errors
    first, second = bag.dags["flywheel"], bag.dags["flywheel_sentiment"]
    assert set(bag.dags) == {"flywheel", "flywheel_sentiment"}
    assert (first.params["client_id"], second.params["client_id"]) == ("desk", "sentiment")
    assert second.params["sizes"] == [3] and first.params["sizes"] != [3]
    assert {task.owner for task in second.tasks} == {"research"} and "moods" in second.tags
    assert "moods" not in first.tags
    assert [dag.timetable.summary for dag in (first, second)] == ["0 2 * * *", "0 3 * * 1"]
    assert second.task_dict.keys() == first.task_dict.keys()


def test_where_jobs_run_is_each_files_own(home: Path, bundle: ExperimentsBundle) -> None:
    pods = {"type": "kubernetes", "kubernetes": {"volume_claim": "disk"}}
    write_experiment(home, "pods", runtime=pods)
    bag = read(bundle)
    kinds = [
        bag.dags[name].get_task("candidate.customize").task_type for name in ("flywheel", "flywheel_pods")
    ]
    assert kinds == ["ProcessOperator", "PodOperator"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("wrong", "training_config:\n  epoch: 2\n", "wrong.yaml, line 2: training_config.epoch: no such key"),
        ("torn", "sizes: [1\n", "torn.yaml, line 2: not valid YAML"),
        ("two words", "sizes: [1]\n", "two words.yaml: expected a name of at most 64 letters"),
        ("prune", "sizes: [1]\n", "prune.yaml: flywheel_prune is another DAG of flywheel's"),
        ("twin", "client_id: desk\n", "twin.yaml: client_id: "),
        (
            "deaf",
            "notifications: {on_failure: [{notifier: os.system}]}\n",
            "deaf.yaml: notifications.on_failure.0.notifier",
        ),
        ("lost", "workload: no/such.yaml\nclient_id: x\n", "no/such.yaml"),
    ],
)
def test_a_wrong_file_is_the_import_error_of_its_own_dag_alone(
    home: Path, bundle: ExperimentsBundle, name: str, text: str, said: str
) -> None:
    write_experiment(home, "right", sizes=[3])
    (home / "experiments" / f"{name}.yaml").write_text(text)
    bag = read(bundle)
    assert set(bag.dags) >= {"flywheel", "flywheel_right"}
    if name != "lost":  # a workload is read when a run begins
        assert f"flywheel_{name}" not in bag.dags
        ((file, error),) = bag.import_errors.items()
        assert (Path(file).name, said in error) == (f"experiment_{name}.py", True), error
    if name != "deaf":  # of Airflow's classes the files are not asked
        assert said in "\n".join(one.detail for one in findings() if one.what == "experiment")


def test_the_links_follow_the_files(home: Path, bundle: ExperimentsBundle) -> None:
    write_experiment(home, "first", sizes=[3])
    bundle.initialize()
    assert (bundle.path / "experiment_first.py").resolve() == PROJECT / "dags/flywheel.py"
    own = {file.name for file in (PROJECT / "dags").glob("*.py")}
    assert {file.name for file in bundle.path.glob("*.py")} == {*own, "experiment_first.py"}
    (home / "experiments/first.yaml").rename(home / "experiments/second.yaml")
    bundle.refresh()
    assert {file.name for file in bundle.path.glob("*.py")} == {*own, "experiment_second.py"}
    (home / "experiments/.second.yaml.swp.yaml").write_text("half")
    bundle.refresh()
    assert {file.name for file in bundle.path.glob("*.py")} == {*own, "experiment_second.py"}


def test_airflow_finds_the_bundle_by_the_settings_of_make_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = {**BUNDLE, "kwargs": {"path": str(PROJECT / "dags")}}
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path / "bundles"))
    (found,) = DagBundlesManager().get_all_dag_bundles()
    assert isinstance(found, ExperimentsBundle)
    assert (found.path / "flywheel.py").is_symlink()  # made where nobody has yet


def test_a_history_is_labelled_for_each_experiment_that_has_the_section(
    home: Path, bundle: ExperimentsBundle
) -> None:
    write_experiment(home, "wide", annotation={"cron": "0 5 * * *"})
    write_experiment(home, "wrong", annotation={"cron": "never"})
    bag = read(bundle)
    names = {name for name in bag.dags if name.startswith("flywheel_annotate")}
    assert names == {"flywheel_annotate_wide"}
    assert experiment_of("flywheel_annotate_wide") == experiment_of(dag_id_of("wide")) == "wide"
    assert [experiment_of(f"flywheel{name}") for name in ("", "_prune", "_annotate")] == [""] * 3


# -- what else tells experiments apart -----------------------------------------------------------------


def test_the_shell_plans_an_experiment(home: Path) -> None:
    write_experiment(home, "wide", sizes=[3], artifacts={"root": str(home / "artifacts")})
    done = CliRunner().invoke(cli.app, ["plan", "t", "--experiment", "wide"])
    assert done.exit_code == 0, done.output
    plan = open_run(str(home / "artifacts"), "t").plan
    assert (plan.experiment, plan.client_id, plan.config.sizes) == ("wide", "wide", (3,))


def test_mlflow_has_an_experiment_for_each(home: Path) -> None:
    plan = plan_of(load_config())
    names = [experiment_name(plan.model_copy(update={"experiment": name})) for name in ("", "wide")]
    assert names == ["flywheel-news_classifier", "flywheel-news_classifier-wide"]
