"""Who is told what: Airflow's own notifiers, by class path and arguments in the config."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from airflow.sdk import Asset
from pydantic import ImportString, TypeAdapter

from flywheel.artifacts import ArtifactRoot
from flywheel.config.schema import Notifier
from flywheel.orchestration.notifier_arguments import resolved
from flywheel.runs import Run

log = logging.getLogger(__name__)


def notify_failure(context: Any) -> None:
    """Tell those who want to know that a run has failed, unless a person stopped it; called by Airflow."""
    from flywheel.config import load_config

    config = load_config()
    try:
        run = Run(ArtifactRoot(config.artifacts.root), str(context["run_id"]))
        if run.was_cancelled(getattr(context.get("dag_run"), "clear_number", 0)):
            return
    except Exception:
        log.exception("whether a person stopped the run could not be read; its failure is told")
    notify(config.notifications.on_failure, context)


def announce(context: Any, run: Run, result: Any) -> None:
    """Emit the champion's asset event and tell who wants to know, as a promotion turned out."""
    from flywheel.orchestration.tasks import CHAMPION, champion_uri

    plan = run.plan
    notifications = plan.config.notifications
    if result.promoted:
        champion = result.champion
        facts = {
            "student": champion.student,
            "size": champion.size,
            "adapter": champion.adapter,
            "metric": champion.metric,
            "score": champion.score,
            "f1_weighted": champion.f1_weighted,
        }
        context["outlet_events"][CHAMPION].add(
            Asset(champion_uri(plan.workload_id, plan.client_id)), extra=facts
        )
        notify(notifications.on_promotion, context, champion=facts, reason=result.reason)
    if result.worse:
        notify(notifications.on_worse_champion, context, reason=result.reason)


def warn(context: Any, run: Run, warnings: Sequence[str]) -> None:
    """Tell who wants to know that the inputs of a run are not as they should be, though it goes on."""
    if warnings:
        notify(run.plan.config.notifications.on_warning, context, warnings=list(warnings))


def notify(notifiers: Iterable[Notifier], context: Any, **facts: Any) -> None:
    """Call notifiers with the task's context, the facts in it as `flywheel`; a failing one is only logged."""
    for entry in notifiers:
        try:
            made = TypeAdapter(ImportString).validate_python(entry.notifier)
            made(**resolved(entry.arguments))({**context, "flywheel": facts})
        except Exception:
            log.exception("notifier %s failed; the run goes on", entry.notifier)
