"""Write runs into Airflow's database as they are after their end, without running them.

    python -m tests.integration.seed_runs FILE

FILE holds a JSON list of runs: run_id, state, and minutes ago that they were due. Run with AIRFLOW_HOME set.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select

from flywheel.runtimes.seal import sealed

DAG = "flywheel"


def seed(runs: list[dict[str, Any]]) -> None:
    """Write the runs, with the tasks that they name."""
    now = datetime.now(UTC)
    with create_session() as session:
        version = session.scalar(
            select(DagVersion).where(DagVersion.dag_id == DAG).order_by(DagVersion.created_at.desc()).limit(1)
        )
        assert version is not None, "the DAG is not in the database"
        for run in runs:
            due = now - timedelta(minutes=run["minutes_ago"])
            state = DagRunState(run["state"])
            done = state in (DagRunState.SUCCESS, DagRunState.FAILED)
            row = DagRun(
                dag_id=DAG,
                run_id=run["run_id"],
                run_type=DagRunType.MANUAL,
                run_after=due,
                logical_date=None,
                queued_at=due,
                start_date=None if state == DagRunState.QUEUED else due,
                state=state,
                conf=run.get("conf") or {},
                triggered_by=DagRunTriggeredByType.TEST,
            )
            row.end_date = due + timedelta(minutes=1) if done else None
            row.created_dag_version_id = version.id
            session.add(row)
            session.flush()
            if run.get("root"):
                session.add(
                    XComModel(
                        dag_run_id=row.id,
                        task_id="plan",
                        key="run",
                        dag_id=DAG,
                        run_id=run["run_id"],
                        value=json.dumps(sealed("run", {"root": run["root"], "run_id": run["run_id"]})),
                    )
                )
            _ = TaskInstance


if __name__ == "__main__":
    seed(json.loads(Path(sys.argv[1]).read_text()))
