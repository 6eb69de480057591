"""Unit tests see an Airflow of their own, in a folder that goes away, whatever the user has configured."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flywheel.artifacts.root import ArtifactRoot
    from flywheel.config import Config
    from flywheel.promotion.timeline import Timeline

# Airflow reads these when it is imported, which collecting the tests may do.
_home = tempfile.mkdtemp(prefix="flywheel-airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ.update(AIRFLOW_HOME=_home, AIRFLOW__CORE__LOAD_EXAMPLES="False")


@pytest.fixture(autouse=True)
def no_doubts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what keeps a run from promoting by itself, but where that is what is tested."""
    if not request.module.__name__.endswith("test_promotion_doubts"):
        monkeypatch.setattr("flywheel.stages.score.add_doubts", lambda *_: None)


@pytest.fixture
def root(tmp_path: Path) -> "ArtifactRoot":
    """Give an artifact root in a folder of the test's own."""
    from flywheel.artifacts.root import ArtifactRoot

    return ArtifactRoot(str(tmp_path / "artifacts"))


@pytest.fixture
def config(root: "ArtifactRoot") -> "Config":
    """Give the config of the runs that `finished_run` makes in it."""
    from tests.unit.finished_run import config_of

    return config_of(root.url, "sqlite:////nowhere/mlflow.db")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Decide without MLflow, Airflow's events and the baseline; give the adapters that were registered."""
    from tests.unit.champions import without_services

    monkeypatch.setattr("flywheel.stages.score.baseline", lambda *_: [])
    return without_services(monkeypatch)


@pytest.fixture
def line(root: "ArtifactRoot") -> "Timeline":
    """Give the timeline of those runs."""
    from flywheel.promotion.timeline import Timeline

    return Timeline(root, "news_classifier", "default")
