"""Airflow's rows and logs of runs, in a process of its own: `python -m flywheel.forgetting.airflow_rows`.

    stdin   {"remove": [run ids]}
    stdout  {"runs": [{"run_id", "state", "conf"}, ...], "logs": folder of all DAGs' logs}, as they are then;
            "runs" is null where the database has not been made

Airflow takes seconds to import and reads its settings from the environment when it is; so it has a process to
itself.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import orjson
from airflow.configuration import conf
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import inspect, select

from flywheel.runs.names import airflow_run, log_folder, run_id_of
from flywheel.web.airflow_runs import DONE, is_experiments


def main() -> None:
    """Do what is asked for on stdin, and tell what is there."""
    asked: dict[str, Any] = orjson.loads(sys.stdin.buffer.read() or b"{}")
    logs = Path(conf.get_mandatory_value("logging", "base_log_folder"))
    with create_session(scoped=False) as db:
        if not inspect(db.get_bind()).has_table(DagRun.__tablename__):
            sys.stdout.buffer.write(b"\n" + orjson.dumps({"runs": None, "logs": str(logs)}) + b"\n")
            return
        for run_id in asked.get("remove", []):
            dag_id, airflow_id = airflow_run(run_id)
            run = db.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == airflow_id))
            if run is not None and str(run.state) in DONE:
                db.delete(run)
            if (folder := logs / log_folder(run_id)).parent.parent == logs:
                shutil.rmtree(folder, ignore_errors=True)
    with create_session(scoped=False) as db:
        rows = db.execute(
            select(DagRun.dag_id, DagRun.run_id, DagRun.state, DagRun.conf).where(is_experiments())
        ).all()
    runs = [
        {"run_id": run_id_of(row.run_id, row.dag_id), "state": str(row.state), "conf": row.conf or {}}
        for row in rows
    ]
    sys.stdout.buffer.write(b"\n" + orjson.dumps({"runs": runs, "logs": str(logs)}) + b"\n")


if __name__ == "__main__":
    main()
