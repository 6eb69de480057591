"""FLYWHEEL_HOME: what is a user's is there, what came with flywheel is found in its own folder and never written to."""

from pathlib import Path

import pytest
import yaml

from flywheel.cli.init import make_home, what_next
from flywheel.common.errors import ConfigError
from flywheel.config import load_config, resolve_path
from flywheel.config.loading import checkout, default_config_path, find_path, project_home
from flywheel.jobs.weights import local_folder
from flywheel.laptop import home as laptop
from flywheel.workloads.workload import Workload

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_home(tmp_path / "Büro für x")
    monkeypatch.setenv("FLYWHEEL_HOME", str(folder))
    monkeypatch.delenv("FLYWHEEL_CONFIG", raising=False)
    return folder


def test_a_new_home_runs_the_shipped_experiment_with_files_of_its_own(own: Path) -> None:
    assert default_config_path() == own / "config.yaml"
    config, shipped = load_config(), load_config(PROJECT / "include/config.yaml")
    assert config.model_copy(update={"workload": shipped.workload}) == shipped
    assert find_path(config.workload) == str(own / "workloads/news_classifier.yaml")
    assert Workload.load(config.workload).sha256 == Workload.load(shipped.workload).sha256
    assert all(local_folder(student.weights) for student in config.students)
    assert resolve_path("state/x") == str(own / "state/x")


def test_a_file_of_the_home_goes_before_the_shipped_one(own: Path) -> None:
    name = "include/workloads/news_classifier.yaml"
    assert find_path(name) == str(PROJECT / name)
    (own / "include/workloads").mkdir(parents=True)
    (own / name).write_text((PROJECT / name).read_text().replace("id: news_classifier", "id: desk"))
    assert Workload.load(name).id == "desk"
    missing = "workloads/none.yaml"
    assert find_path(missing) == str(own / missing)  # an error names the user's folder


def test_dags_and_plugins_are_those_that_came_with_flywheel(own: Path) -> None:
    laptop.airflow_home().mkdir(parents=True)
    core = laptop._sections(laptop.Ports())["core"]
    assert (core["dags_folder"], core["plugins_folder"]) == (PROJECT / "dags", PROJECT / "plugins")
    assert laptop.airflow_home() == own / "state/airflow"


def test_without_a_home_it_is_the_project_with_its_shipped_experiment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FLYWHEEL_HOME", "FLYWHEEL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    assert project_home() == checkout() == PROJECT
    assert default_config_path() == PROJECT / "include/config.yaml"


def test_a_home_without_a_config_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    monkeypatch.delenv("FLYWHEEL_CONFIG", raising=False)
    with pytest.raises(
        ConfigError,
        match=r"/config\.yaml: no such file; set FLYWHEEL_CONFIG, or FLYWHEEL_HOME to a folder that `flywheel init DIR`",
    ):
        load_config()


def test_init_writes_nothing_over(own: Path) -> None:
    (own / "config.yaml").write_text("client_id: mine\n")
    before = sorted(own.parent.rglob("*"))
    with pytest.raises(ConfigError, match="is there already, and nothing of it is written over"):
        make_home(own)
    assert (own / "config.yaml").read_text() == "client_id: mine\n"
    assert sorted(own.parent.rglob("*")) == before
    (own.parent / "file").write_text("")
    with pytest.raises(ConfigError, match="file: is there already"):
        make_home(own.parent / "file")


def test_init_takes_an_empty_folder_and_says_what_to_do_next(tmp_path: Path) -> None:
    folder = tmp_path / "a desk"
    folder.mkdir()
    assert make_home(folder) == folder
    assert (
        yaml.safe_load((folder / "config.yaml").read_text())["workload"] == "workloads/news_classifier.yaml"
    )
    assert f"FLYWHEEL_HOME='{folder}' {PROJECT}/flywheel up" in what_next(folder)


def test_init_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flywheel.cli.init.shutil.copyfile", full)
    with pytest.raises(ConfigError, match="desk: cannot be made: No space left on device"):
        make_home(tmp_path / "desk")
    assert list(tmp_path.iterdir()) == []
