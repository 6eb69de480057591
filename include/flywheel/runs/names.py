"""The id of a run over all experiments, and the name of its folder: no two runs have one, people can read it.

Airflow tells runs apart by DAG and id: two experiments with one schedule have runs of one id each night. So
a run of experiments/NAME.yaml is `NAME@` and Airflow's id everywhere but where Airflow is spoken to; one
of config.yaml has Airflow's id. (Airflow takes no `@` in an id that somebody chooses, unless it is told to.)

A run id that is a plain name is its own folder's name. In any other, what file systems, URLs and shells
dislike becomes '-', and `~` follows with 20 hex digits of a hash, which no plain name has:

    manual__2026-11-24T02:08:27+00:00      manual__2026-11-24T02-08-27-00-00~4d1a53bd98a19ec3c03f

A run of a DAG that is no experiment's has the DAG in its hash. Two projects that share an artifact root can
still have a run of one DAG and id: their plans tell them apart (`flywheel.runs.run`).
"""

from __future__ import annotations

import hashlib
import re

from flywheel.config.experiments import DAG_ID, NAME, dag_id_of, experiment_of

_PLAIN = re.compile(r"[A-Za-z0-9_@=-][A-Za-z0-9._@=-]{0,149}")
_HASH_DIGITS = 20  # 80 bits: another run id of the same name is not found by trying
_MOST_READABLE = 120


def run_id_of(airflow_id: str, dag_id: str) -> str:
    """Return the id of a run of Airflow's."""
    experiment = experiment_of(dag_id)
    return f"{experiment}@{airflow_id}" if experiment else airflow_id


def airflow_run(run_id: str) -> tuple[str, str]:
    """Return the DAG of a run, and its id there."""
    experiment, at, airflow_id = run_id.partition("@")
    return (dag_id_of(experiment), airflow_id) if at and re.fullmatch(NAME, experiment) else (DAG_ID, run_id)


def log_folder(run_id: str) -> str:
    """Return the folder of a run's logs, relative to Airflow's `base_log_folder`."""
    dag_id, airflow_id = airflow_run(run_id)
    return f"dag_id={dag_id}/run_id={airflow_id}"


def folder_name(run_id: str, dag_id: str = "") -> str:
    """Return the name of a run's folder.

    Args:
        dag_id: of the run; empty for one that was planned by hand, which is named as one of `flywheel`'s is.
    """
    other = dag_id if dag_id not in (DAG_ID, airflow_run(run_id)[0]) else ""
    if not other and _PLAIN.fullmatch(run_id):
        return run_id
    hashed = hashlib.sha256("\0".join([other, run_id]).encode("utf-8", "surrogatepass")).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9._@=-]", "-", "-".join(filter(None, [other, run_id])))[:_MOST_READABLE]
    return f"{re.sub('^[.]', '-', slug)}~{hashed[:_HASH_DIGITS]}"


def former_folder_name(run_id: str) -> str:
    """Return the name that flywheel 0.1.0 gave a run's folder; different runs could have one."""
    name = re.sub(r"[^A-Za-z0-9._@=-]", "-", run_id)
    return name if name.strip(".") else name.replace(".", "-")
