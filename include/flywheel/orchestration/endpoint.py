"""The task `serve` where an endpoint of flywheel's own is configured, whatever the runtime."""

from __future__ import annotations

import logging
from datetime import timedelta

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from flywheel.config import Config
from flywheel.runtimes.context import run_of

log = logging.getLogger(__name__)


def has_endpoint(config: Config | None) -> bool:
    """Return whether champions are answered with at an endpoint that a run can ask."""
    return bool(config and config.serving.url)


@task(task_id="serve", max_active_tis_per_dag=1, execution_timeout=timedelta(hours=1))
def await_endpoint() -> str:
    """Wait until the endpoint says that it answers with the champion in force; returns its adapter."""
    from flywheel.common.errors import ServingError
    from flywheel.promotion.champion import read_champion
    from flywheel.serving.switching import wait_until_served

    run = run_of(get_current_context())
    plan = run.plan
    settings = plan.config.serving
    champion = read_champion(run.root, plan.workload_id, plan.client_id)
    if champion is None or settings.url is None:
        log.info("no champion yet: nothing to serve")
        return ""
    try:
        wait_until_served(
            settings.url,
            workload=plan.workload_id,
            client=plan.client_id,
            adapter=champion.adapter,
            seconds=settings.switch_seconds,
            say=log.info,
        )
    except ServingError as error:  # a retry would wait as long again
        raise AirflowFailException(str(error)) from None
    return champion.adapter
