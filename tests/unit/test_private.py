"""State is its owner's alone: folders 0700, files 0600, also those that an older version left open."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flywheel.config import Config
from flywheel.config.private import private_file, private_folder
from flywheel.laptop import home
from flywheel.promotion.mlflow_client import open_client
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.runtimes.local.slots import take_slot
from flywheel.stores.sqlite import SqliteStore

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a project's state folder that is not there yet, under a umask that hides nothing."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    before = os.umask(0)
    yield tmp_path / "state"
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    """Return what in a folder anybody may read or enter."""
    return [str(path) for path in (folder, *folder.rglob("*")) if mode(path) & 0o077]


def test_the_store_is_private_with_the_files_beside_it(state: Path) -> None:
    store = SqliteStore(state / "records.sqlite")
    assert {path.name for path in state.iterdir()} >= {"records.sqlite", "records.sqlite-wal"}
    assert open_to_others(state) == []
    store.close()


def test_what_an_older_version_left_open_becomes_private(state: Path) -> None:
    state.mkdir(mode=0o755)
    SqliteStore(state / "records.sqlite").close()
    (state / "records.sqlite").chmod(0o644)
    state.chmod(0o755)
    SqliteStore(state / "records.sqlite").close()
    assert (mode(state), mode(state / "records.sqlite")) == (0o700, 0o600)


def test_what_a_group_shares_stays_so_and_no_other_folder_is_touched(tmp_path: Path, state: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    SqliteStore(shared / "records.sqlite").close()
    (shared / "records.sqlite").chmod(0o660)
    SqliteStore(shared / "records.sqlite").close()
    assert (mode(shared), mode(shared / "records.sqlite")) == (0o755, 0o660)
    (shared / "link").symlink_to(shared)
    private_file(shared / "link")
    private_file(shared)
    assert mode(shared) == 0o755


def test_mlflow_s_file_airflow_s_home_and_the_places_of_jobs_are_private(state: Path) -> None:
    with open_client(f"sqlite:///{state / 'mlflow.db'}") as client:
        client.search_experiments()
    home.write_settings(home.Ports())
    with take_slot(state / "jobs", 1, lambda: None):
        assert mode(state / "jobs") == mode(state / "airflow") == mode(state) == 0o700
    assert mode(state / "mlflow.db") == mode(state / "airflow" / "airflow.cfg") == 0o600


def test_a_run_s_plan_is_private(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "nims": [{"model_name": "a/x-1b"}],
            "workload": str(PROJECT / "include/workloads/news_classifier.yaml"),
            "artifacts": {"root": str(tmp_path / "artifacts")},
        }
    )
    run = Run.create(make_plan(config, run_id="night", cutoff=datetime(2026, 1, 1, tzinfo=UTC)))
    assert mode(tmp_path / "artifacts" / run.path / "plan.json") == 0o600


def test_a_folder_is_made_private_with_those_above_it(tmp_path: Path) -> None:
    private_folder(tmp_path / "a" / "b" / "c")
    assert open_to_others(tmp_path / "a") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        private_folder(tmp_path / "file")


@pytest.mark.parametrize(("command", "expected"), [(["hold", "show"], "0o77"), (["-v", "customize"], "0o22")])
def test_what_a_command_writes_is_private_but_a_pod_s_job_writes_as_its_volume_wants(
    command: list[str], expected: str
) -> None:
    program = (
        "import os, sys\n"
        "os.umask(0o22)\n"
        "from flywheel.cli import main as cli\n"
        "cli.app = lambda **_: print(oct(os.umask(0)))\n"
        f"sys.argv = ['flywheel', *{command!r}]\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
