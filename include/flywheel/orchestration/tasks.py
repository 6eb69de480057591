"""The tasks of the DAG, one for each stage: each calls its stage and hands on ids, counts and paths.

Stages are imported where they run: every task's process parses the DAG file, and most need one stage.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import AssetAlias, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from flywheel.common.redaction import install
from flywheel.config.experiments import experiment_of
from flywheel.orchestration.notifications import announce, warn
from flywheel.orchestration.review import answer_of
from flywheel.runtimes.context import (
    cutoff_of,
    facts,
    is_backfill,
    run_of,
    share_run,
    without_vain_tries,
)

log = logging.getLogger(__name__)

# DAGs that should follow the champion are scheduled on this alias, or on a workload's `champion_uri`.
CHAMPION = AssetAlias("flywheel-champion")


def champion_uri(workload_id: str, client_id: str) -> str:
    """Return the asset URI that gets an event when the champion of a workload and client changes."""
    return f"x-flywheel://champion/{quote(workload_id)}/{quote(client_id, safe='')}"


# Most of it is reading the sources, to tell what will be asked.
@task(execution_timeout=timedelta(hours=2))
def plan() -> list[str]:
    """Freeze config, params and cutoff into the run's folder; every later task reads that copy.

    The log says how many answers will be asked of the teacher, and what they cost. A run that has planned
    keeps its plan, also when this task is cleared; another's is refused. Returns the students to be measured
    as they are.
    """
    from flywheel.orchestration.settings import config_of, unchanged_as_none
    from flywheel.runs.names import airflow_run, run_id_of
    from flywheel.runs.plan import make_plan
    from flywheel.runtimes import open_runtime
    from flywheel.stages import pipeline as wheel

    install()  # the other tasks do so where they find the run
    context = get_current_context()
    dag_id, airflow_id = context["ti"].dag_id, str(context["run_id"])
    experiment, run_id = experiment_of(dag_id), run_id_of(airflow_id, dag_id)
    if airflow_run(run_id)[1] != airflow_id:
        raise AirflowFailException(
            f"{airflow_id}: with NAME@ begin the ids of experiments' runs; start this one under another id"
        )
    with without_vain_tries():
        config = config_of(experiment)
        params = unchanged_as_none(context["params"], config)
        made = make_plan(
            config,
            run_id=run_id,
            dag_id=dag_id,
            cutoff=cutoff_of(context),
            workload_id=params["workload_id"],
            client_id=params["client_id"],
            students=params["students"],
            sizes=params["sizes"],
            overrides=params["overrides"],
            approval=params["approval"],
            experiment=experiment,
            is_backfill=is_backfill(context),
        )
        made = open_runtime(made.config).planned(made)
        run = wheel.begin(made, is_first=context["ti"].try_number == 1)
    share_run(context, run, made.config.artifacts.root)
    planned = run.plan
    log.info("cutoff %s, candidates %s", cutoff_of(context), ", ".join(c.name for c in planned.candidates))
    wheel.forecast(run)
    return list(planned.untrained)


# One at a time over all runs: a headline that two nights share is then labelled by the first, found by the
# second, and paid for once.
@task(max_active_tis_per_dag=1, execution_timeout=timedelta(hours=24))
def label() -> dict[str, Any]:
    """Have the teacher label the headlines before the cutoff that it has not labelled yet."""
    from flywheel.stages import pipeline as wheel

    context = get_current_context()
    run = run_of(context)
    with without_vain_tries():  # after a spent budget it would begin a new one, too
        result = wheel.label(run)
    warn(context, run, result.warnings)
    return facts(result)


@task(execution_timeout=timedelta(hours=6))
def ingest() -> dict[str, Any]:
    """Write labelled headlines, and log records of applications, into the store."""
    from flywheel.stages import pipeline as wheel

    context = get_current_context()
    run = run_of(context)
    with without_vain_tries():
        result = wheel.ingest(run)
    warn(context, run, result.warnings)
    return facts(result)


@task(execution_timeout=timedelta(hours=6))
def curate() -> list[dict[str, Any]]:
    """Split the records before the cutoff: nested training sets, validation, one eval set for all.

    Returns the candidates.
    """
    from flywheel.stages import pipeline as wheel

    run = run_of(get_current_context())
    with without_vain_tries():
        wheel.curate(run)
    return [{"student": candidate.student, "size": candidate.size} for candidate in run.candidates]


# A candidate that failed is a line of the table, so this waits until all are done, well or not.
@task(trigger_rule="all_done", execution_timeout=timedelta(hours=2))
def score() -> dict[str, Any]:
    """Put all candidates into the table, the learning curve, the report and MLflow."""
    from flywheel.report.outcomes import gather
    from flywheel.stages import pipeline as wheel

    run = run_of(get_current_context())
    if not run.root.exists(f"{run.path}/stages/curate.json"):
        raise AirflowFailException("nothing to score: curate has not ended well; see the log of what failed")
    result = wheel.score(run)
    if not result.scored:
        reasons = [
            f"{job.student} @ {job.size}: {job.failure.reason}"
            for job in gather(run).candidates
            if job.failure
        ]
        raise AirflowFailException("no candidate could be scored. " + "; ".join(reasons))
    return facts(result)


@task(outlets=[CHAMPION], max_active_tis_per_dag=1, execution_timeout=timedelta(hours=1))
def promote() -> dict[str, Any]:
    """Put the chosen candidate into production, or keep the champion that is there and say why."""
    from flywheel.stages import pipeline as wheel

    context = get_current_context()
    run = run_of(context)
    answer = answer_of(context, run)
    result = wheel.promote(run, approved=answer["approved"], comment=answer["comment"], by=answer["by"])
    announce(context, run, result)
    return facts(result)
