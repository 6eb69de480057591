"""Unit tests see an Airflow of their own, in a folder that goes away, whatever the user has configured."""

import atexit
import os
import shutil
import tempfile

import pytest

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
