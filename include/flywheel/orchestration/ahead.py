"""What tasks import, imported ahead by the components that fork their processes: once, and not for each task.

On kubernetes that is Airflow's KubernetesPodOperator with the clients of the cluster: most of a second of CPU
time, for tasks without a pod as well, as each of them reads the DAG file.
"""

from __future__ import annotations

import logging

from flywheel.common.errors import FlywheelError
from flywheel.orchestration.settings import read_config, read_runtime

log = logging.getLogger(__name__)


def import_ahead() -> None:
    """Import what the tasks of the DAG need, by the config as it is."""
    try:
        log.debug("imported ahead: %s", read_runtime(read_config()).operator)
    except FlywheelError as error:  # the DAG processor says so where people look
        log.warning("nothing is imported ahead: %s", error)
