"""What the small DAGs beside the flywheel's own have in common."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flywheel.orchestration.notifications import notify_failure


def beside(retry_delay: timedelta = timedelta(seconds=10)) -> dict[str, Any]:
    """Return the arguments of their `@dag`: one run at a time, none for times that are past, two retries."""
    return {
        "catchup": False,
        "max_active_runs": 1,
        "default_args": {"owner": "flywheel", "retries": 2, "retry_delay": retry_delay},
        "on_failure_callback": notify_failure,
        "tags": ["flywheel"],
    }
