"""Stop a run: mark it, have Airflow end its tasks, and see that nothing starts meanwhile."""

from __future__ import annotations

import logging
import time
from typing import Any

from flywheel.runs.run import CANCELLED_FILE
from flywheel.web import airflow_actions, run_files, summaries
from flywheel.web.airflow_runs import AirflowRun

log = logging.getLogger(__name__)

_LOOKS, _PAUSE_SECONDS = 10, 1.0


def cancel(user: Any, found: AirflowRun) -> None:
    """Mark a run as cancelled and end its tasks; each ends its job, or its pod."""
    folder = run_files.run_of(found)
    mark = run_files.Cancelled(by=user.get_name(), at=airflow_actions.now(), clear_number=found.clear_number)
    folder.root.write_json(f"{folder.path}/{CANCELLED_FILE}", mark.model_dump(mode="json"))
    airflow_actions.stop_run(user, found.run_id)
    summaries.forget(found.run_id)


def make_sure(run_id: str) -> None:
    """Look after a run that was stopped, for some seconds, and end what it has started since."""
    quiet = 0
    for _ in range(_LOOKS):
        time.sleep(_PAUSE_SECONDS)
        try:
            quiet = 0 if airflow_actions.stop_again(run_id) else quiet + 1
        except Exception:
            log.exception("run %s was cancelled; looking after it failed", run_id)
        if quiet == 3:
            break
    summaries.forget(run_id)
