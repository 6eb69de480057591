"""Airflow's rows and logs of a client's runs: who is under way is said by Airflow, and what has ended goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flywheel.forgetting.base import Whose
from flywheel.forgetting.forget import ForgettingError, find, forget
from flywheel.forgetting.machine_places import airflow_runs
from flywheel.runs.run import Run
from tests.unit.finished_run import config_of, plan_of

SEED = """
import sys
from datetime import UTC, datetime
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

with create_session() as session:
    session.add(DagBundleModel(name="dags-folder"))
    session.flush()
    session.add(DagModel(
        dag_id="flywheel_desk", bundle_name="dags-folder", relative_fileloc="experiment_desk.py",
        fileloc="experiment_desk.py",
    ))
    for name, state, conf in (
        ("planned", "success", {}),
        ("of_conf", "failed", {"client_id": "gone"}),
        ("other", "success", {"client_id": "stays"}),
        ("tonight", "running", {"client_id": "stays"}),
        ("desk@night", "success", {"client_id": "gone"}),
    ):
        experiment, _, airflow_id = name.rpartition("@")
        session.add(DagRun(
            dag_id=f"flywheel_{experiment}" if experiment else "flywheel", run_id=airflow_id,
            run_type=DagRunType.MANUAL, run_after=datetime.now(UTC),
            logical_date=None, start_date=datetime.now(UTC), state=DagRunState(state), conf=conf,
            triggered_by=DagRunTriggeredByType.TEST,
        ))
"""


@pytest.fixture
def airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the home of an Airflow that has run five times; nothing of it runs."""
    home = tmp_path / "airflow"
    for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AIRFLOW_HOME", str(home))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    subprocess.run([sys.executable, "-c", SEED], check=True)
    for run in (
        "flywheel/run_id=planned",
        "flywheel/run_id=of_conf",
        "flywheel/run_id=other",
        "flywheel_desk/run_id=night",
    ):
        folder = home / f"logs/dag_id={run}/task_id=label"
        folder.mkdir(parents=True)
        (folder / "attempt=1.log").write_text("labelled")
    return home


def test_rows_and_logs_of_a_clients_runs_go_and_a_running_one_is_named(airflow: Path, tmp_path: Path) -> None:
    config = config_of(
        str(tmp_path / "artifacts"),
        f"sqlite:///{tmp_path}/mlflow.db",
        store={"path": str(tmp_path / "records.sqlite")},
    )
    Run.create(plan_of(config, "planned", client_id="gone"))  # just now: but Airflow says that it has ended
    with pytest.raises(ForgettingError, match="under way: tonight;"):
        find(config, Whose("stays"))
    findings = find(config, Whose("gone"))
    assert {item.id for item in findings.items["airflow"]} == {"planned", "of_conf", "desk@night"}
    assert all(item.bytes for item in findings.items["airflow"])
    forget(config, findings, by="Ada")
    found = airflow_runs()
    assert found is not None and {run_id for run_id, _, _ in found.runs} == {"other", "tonight"}
    assert [path.parent.name for path in Path(found.logs).glob("*/*/task_id=label")] == ["run_id=other"]
    assert find(config, Whose("gone")).is_empty
