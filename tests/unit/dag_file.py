"""The DAG file, read as Airflow reads it, with a config of the test's own."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag

ROOT = Path(__file__).parents[2]
DAG_FILE = ROOT / "dags" / "flywheel.py"
CONFIG = {
    "nims": [{"model_name": "meta/llama-3.2-1b-instruct"}, {"model_name": "meta/llama-3.1-8b-instruct"}]
}


def write_config(folder: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **sections}))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(path))
    return path


def load() -> DagBag:
    return DagBag(str(DAG_FILE), safe_mode=False)


@pytest.fixture
def dag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    write_config(tmp_path, monkeypatch)
    bag = load()
    assert not bag.import_errors
    return bag.dags["flywheel"]
