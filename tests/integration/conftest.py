"""One Airflow for all tests of this folder: starting it takes as long as most of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.airflow_stack import Stack, make_home
from tests.integration.web_server import WebServer, furnish, make_project


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = make_home(tmp_path_factory.mktemp("project") / "home")
    before = {name: os.environ.get(name) for name in ("FLYWHEEL_HOME", "FLYWHEEL_CONFIG")}
    os.environ.update(FLYWHEEL_HOME=str(folder), FLYWHEEL_CONFIG=str(folder / "config.yaml"))
    running = Stack(folder)
    try:
        yield running
    finally:
        running.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Give the folder of a test's records and artifacts."""
    return tmp_path / "data"


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """Give an API server with runs that have ended, failed, wait and go on."""
    server = WebServer(make_project(tmp_path_factory.mktemp("web") / "home"))
    try:
        furnish(server)
        yield server
    finally:
        server.stop()
