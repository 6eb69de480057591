"""The task that looks at a night of production, and what it tells: an asset event, and notifiers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import Asset, AssetAlias, get_current_context, task

from flywheel.orchestration.notifications import notify

# DAGs that should hear of drift are scheduled on this alias, or on a workload's `drift_uri`.
DRIFT = AssetAlias("flywheel-drift")


def drift_uri(workload_id: str, client_id: str) -> str:
    """Return the asset URI that gets an event when a champion has drifted: `schedule.asset` may name it."""
    return f"x-flywheel://drift/{quote(workload_id)}/{quote(client_id, safe='')}"


@task(outlets=[DRIFT], max_active_tis_per_dag=1, execution_timeout=timedelta(hours=6))
def watch() -> list[str]:
    """Have the audit labelled and counted, and look for drift, for every experiment whose endpoint logs.

    What stops one of them does not stop the others; the task fails at its end.
    """
    from flywheel.common.errors import FlywheelError
    from flywheel.runtimes.context import cutoff_of
    from flywheel.stages.watch import watch as look
    from flywheel.workloads.experiments import experiments

    context, told, failed = get_current_context(), [], []
    for experiment in experiments():
        config = experiment.config
        if config is None or config.serving.log == "none":  # a wrong file is its own DAG's import error
            continue
        try:
            night = look(config, cutoff_of(context))
        except FlywheelError as error:
            failed.append(f"{experiment.file}: {error}")
            continue
        if night.alarms:
            facts: dict[str, Any] = {
                "champion": night.champion,
                "adapter": night.adapter,
                "alarms": night.alarms,
            }
            uri = drift_uri(night.workload_id, night.client_id)
            context["outlet_events"][DRIFT].add(Asset(uri), extra=facts)
            notify(config.notifications.on_drift, context, **facts)
        told.append(night.line())
    if failed:
        raise FlywheelError("; ".join(failed))
    return told
