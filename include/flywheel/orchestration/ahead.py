"""What tasks need is done ahead by the components that fork their processes: once, and not for each task.

The schema of what a run may set is more than half of the time in which a task reads the DAG file. On
kubernetes there is Airflow's KubernetesPodOperator with the clients of the cluster, too: most of a second of
CPU time, for tasks without a pod as well, as each of them reads the DAG file.
"""

from __future__ import annotations

import logging

from flywheel.common.errors import FlywheelError
from flywheel.orchestration.settings import dag_params, read_config, read_runtime

log = logging.getLogger(__name__)


def import_ahead() -> None:
    """Import what the tasks of the DAG need, and make what they keep, by the config as it is."""
    try:
        config = read_config()
        log.debug("imported ahead: %s", read_runtime(config).operator)
        dag_params(config)
    except FlywheelError as error:  # the DAG processor says so where people look
        log.warning("nothing is imported ahead: %s", error)
