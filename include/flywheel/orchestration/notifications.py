"""Who is told what: Airflow's own notifiers, by class path and arguments in the config."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from airflow.sdk import Asset
from airflow.sdk.bases.notifier import BaseNotifier
from pydantic import ImportString, TypeAdapter, ValidationError

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ConfigError
from flywheel.common.redaction import install
from flywheel.config import Config
from flywheel.config.experiments import experiment_of
from flywheel.config.schema import Notifier
from flywheel.orchestration.notifier_arguments import resolved
from flywheel.runs.failures import cause_of, first_to_tell
from flywheel.runs.names import run_id_of
from flywheel.runs.run import Run
from flywheel.runtimes.context import run_of

log = logging.getLogger(__name__)


def check_notifiers(config: Config) -> None:
    """Check that all notifiers of a configuration are Airflow's: nothing else is ever called.

    Raises:
        ConfigError: one is none, or cannot be imported; the message names its key.
    """
    for event, notifiers in config.notifications:
        for index, entry in enumerate(notifiers if isinstance(notifiers, tuple) else ()):
            try:
                notifier_class(entry.notifier)
            except ConfigError as error:
                raise ConfigError(f"notifications.{event}.{index}.notifier: {error}") from None


def notifier_class(path: str) -> type[BaseNotifier]:
    """Return a notifier's class by its path.

    Raises:
        ConfigError: there is nothing of that path, or it is no subclass of Airflow's BaseNotifier.
    """
    try:
        found = TypeAdapter(ImportString).validate_python(path)
    except (ValidationError, ImportError) as error:
        raise ConfigError(f"{path!r} cannot be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, BaseNotifier)):
        raise ConfigError(f"expected a class derived from Airflow's BaseNotifier; {path!r} is none")
    return found


def notify_failure(context: Any) -> None:
    """Tell those who want to know that a run has failed, once, unless a person stopped it.

    Called by the task whose failure has lost the run, as soon as it has failed; and by Airflow when the run
    has ended, for one whose tasks could say nothing.
    """
    failure, told = None, None
    try:
        run = failed_run(context)
        clear_number = getattr(context.get("dag_run"), "clear_number", 0) or 0
        failure = cause_of(run)
        is_known = failure is not None and not first_to_tell(run, f"failure-{clear_number}")
        if is_known or run.was_cancelled(clear_number):
            return
        told = run.plan.config.notifications if run.is_planned else None
    except Exception:
        log.exception("whether a person stopped the run, or why it failed, could not be read; it is told")
    facts = failure.facts if failure else {}
    notifiers = (told or _config_of_now(_dag_id(context)).notifications).on_failure
    notify(notifiers, context, told=failure.told if failure else "", **facts)


def failed_run(context: Any) -> Run:
    """Return the run of something that failed: where `plan` said, or before that, where its config says."""
    try:
        return run_of(context)
    except Exception:
        dag_id = _dag_id(context)
        root = _config_of_now(dag_id).artifacts.root
        return Run(ArtifactRoot(root), run_id_of(str(context["run_id"]), dag_id), dag_id)


def _dag_id(context: Any) -> str:
    of = context.get("dag") or context.get("ti")
    return str(getattr(of, "dag_id", ""))


def _config_of_now(dag_id: str) -> Config:
    from flywheel.config import load_config

    try:
        return load_config(experiment=experiment_of(dag_id))
    except ConfigError as error:  # of the experiment, it may be; the operator is told all the same
        log.warning("%s", error)
        return load_config()


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
    install()  # Airflow calls this outside of tasks, too, and logs itself what a notifier says
    for entry in notifiers:
        try:
            made = notifier_class(entry.notifier)
            made(**resolved(entry.arguments))({**context, "flywheel": facts})
        except Exception:
            log.exception("notifier %s failed; the run goes on", entry.notifier)
