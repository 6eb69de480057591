"""A client is forgotten with the histories that his champions have labelled."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from flywheel.annotation.work import Work, finish_work, plan_work, run_here
from flywheel.config import Config
from flywheel.forgetting.base import Whose
from flywheel.forgetting.forget import find, forget
from tests.unit.labelled_history import START, Students, config_for, with_champions, write_headlines


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv("AIRFLOW_HOME", raising=False)
    monkeypatch.setattr("flywheel.forgetting.machine_places._airflow_environment", lambda: None)
    write_headlines(tmp_path / "headlines.csv", 60)
    found = config_for(tmp_path)
    sections = {
        "store": found.store.model_copy(update={"path": str(tmp_path / "records.sqlite")}),
        "mlflow_config": found.mlflow_config.model_copy(
            update={"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "artifact_location": str(tmp_path)}
        ),
    }
    found = found.model_copy(update=sections)
    with_champions(found)
    for path in (tmp_path / "artifacts/runs").rglob("*"):
        os.utime(path, (1, 1))  # no night is under way
    return found


def label(config: Config) -> Work:
    work = plan_work(config, START, START + timedelta(days=90))
    run_here(work, Students())
    finish_work(work)
    return work


def test_output_work_and_seal_go_with_the_client(config: Config, tmp_path: Path) -> None:
    work = label(config)
    assert find(config, Whose("desk")).items["histories"]
    assert not find(config, Whose("other")).items.get("histories")
    forget(config, find(config, Whose("desk")), by="Ada")
    assert not Path(work.out).exists()
    left = [path for path in (tmp_path / "artifacts/annotations").rglob("*") if path.is_file()]
    assert left == []


def test_an_output_elsewhere_is_named_and_stays(config: Config, tmp_path: Path) -> None:
    elsewhere = config.annotation.model_copy(update={"out": str(tmp_path / "elsewhere")})
    work = label(config.model_copy(update={"annotation": elsewhere}))
    assert any(work.out in remark for remark in find(config, Whose("desk")).remarks)
