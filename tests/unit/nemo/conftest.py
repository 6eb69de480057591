"""What the tests of runtime nemo have: material, a place for locks, and a function that starts a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_students import save_dataset, save_student

from flywheel.runtimes.local.fork_client import stop_servers
from flywheel_stand_ins.nemo.state import NemoBehaviour
from tests.unit.nemo.nemo_jobs import Flywheel, Start
from tests.unit.nemo.nemo_server import SMALL, running


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a student and a dataset."""
    folder: Path = tmp_path_factory.mktemp("nemo")
    save_student(folder / "student")
    save_dataset(folder / "artifacts", "d1", train=80)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a project whose state/ holds the locks, and the fork server of the stand-in's jobs."""
    folder: Path = tmp_path_factory.mktemp("home")
    (folder / "include").symlink_to(Path(__file__).parents[3] / "include")
    yield folder
    stop_servers(folder / "state" / "jobs")


@pytest.fixture(autouse=True)
def _small_and_on_the_cpu(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")
    monkeypatch.setenv("FLYWHEEL_HOME", str(home))


@pytest.fixture
def start(material: Path, tmp_path: Path) -> Iterator[Start]:
    """Give a function that starts a stand-in and returns a flywheel on it; at the end nothing may be wrong."""
    servers = []

    def start(
        behaviour: NemoBehaviour | None = None, models: tuple[str, ...] = (SMALL,), **sections: Any
    ) -> Flywheel:
        weights = dict.fromkeys(models, str(material / "student"))
        opened = running(tmp_path / "nemo", weights, behaviour)
        servers.append((opened, opened.__enter__()))
        return Flywheel(servers[-1][1], material, tmp_path / "artifacts", **sections)

    yield start
    for opened, server in servers:
        opened.__exit__(None, None, None)
        assert server.wrong == []  # no request and no answer that the client's types do not allow
