"""Called by Airflow when a task of the flywheel has failed or ended well: why is kept in the run's folder."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from flywheel.common.errors import (
    BudgetError,
    ConfigError,
    DiskFullError,
    JobError,
    NotEnoughRecordsError,
    OtherPlanError,
    SourceError,
    StudentError,
    TeacherError,
    WorkloadError,
)
from flywheel.common.redaction import clean
from flywheel.orchestration.notifications import failed_run, notify_failure
from flywheel.runs.failures import SILENT, SILENT_MEND, RunFailure, forget, is_lost, keep
from flywheel.runs.run import Run
from flywheel.runtimes import RefusedJobError
from flywheel.runtimes.context import run_of

log = logging.getLogger(__name__)

# The first that fits.
_MENDS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((DiskFullError,), "Free space there, such as by `./flywheel prune`."),
    ((BudgetError,), "Raise teacher.budget, or let the run ask less; what was answered is kept."),
    ((TeacherError,), "See that the teacher answers and takes our key: `./flywheel doctor` asks it."),
    ((ConfigError, WorkloadError), "Mend the file or param that is named: `./flywheel doctor` reads them."),
    (
        (SourceError, NotEnoughRecordsError),
        "See to the source, its columns and the cutoff.",
    ),
    ((StudentError, RefusedJobError), "See to what the job was given, such as `weights` of its student."),
    ((JobError,), "See its log: a process that was killed has mostly run out of memory."),
)


def keep_failure(context: Any) -> None:
    """Keep why a task has failed for good; where the run is lost by that, tell it now and not at its end."""
    run = _keep(context, tries_again=False)
    if run is None or getattr(context.get("task"), "is_teardown", False):
        return
    try:
        if is_lost(run):
            notify_failure(context)
    except Exception:
        log.exception("whether the run is lost could not be read; its failure is told when it ends")


def keep_failed_try(context: Any) -> None:
    """Keep why a try of a task has failed that Airflow tries again."""
    _keep(context, tries_again=True)


def forget_failure(context: Any) -> None:
    """Forget why earlier tries of a task had failed."""
    try:
        forget(run_of(context), context["ti"].task_id, context["ti"].map_index)
    except Exception:
        log.exception("what is kept of this task's earlier tries stays")


# Arguments of every task of the DAG.
KEEPS_FAILURES = {
    "on_failure_callback": keep_failure,
    "on_retry_callback": keep_failed_try,
    "on_success_callback": forget_failure,
}


def mend_of(error: BaseException | None, task_id: str, *, tries_again: bool) -> str:
    """Return what to do about an error of a task."""
    if error is None and not tries_again:
        return SILENT_MEND
    why = _meant(error)
    own = getattr(why, "mend", "")
    first = (
        f"{own[0].upper()}{own[1:]}."
        if own
        else next((mend for kinds, mend in _MENDS if isinstance(why, kinds)), "See the log of the task.")
    )
    last = (
        "It is tried again by itself."
        if tries_again
        else f"Then clear the task {task_id} with what follows it: what is done is found again."
    )
    return f"{first} {last}"


def _meant(error: BaseException | None) -> BaseException | None:
    """Return the error that a task was failed at once for."""
    if isinstance(error, AirflowFailException):
        return error.__cause__ or error.__context__ or error
    return error


def _keep(context: Any, *, tries_again: bool) -> Run | None:
    """Keep why a task has failed; return its run, where that could be done."""
    try:
        why = _meant(context.get("exception"))
        if isinstance(why, OtherPlanError):  # the folder is another run's
            return None
        run = failed_run(context)
        keep(run, _failure(context, why, tries_again=tries_again))
    except Exception:
        log.exception("why this task failed could not be kept; its log has it")
        return None
    return run


def _failure(context: Any, why: BaseException | None, *, tries_again: bool) -> RunFailure:
    ti, task = context["ti"], context.get("task")
    return RunFailure(
        stage=ti.task_id.rsplit(".", 1)[-1],
        job=str(getattr(task, "job_name", "") or ""),
        sentence=_sentence(why),
        mend=mend_of(context.get("exception"), ti.task_id, tries_again=tries_again),
        tries_again=tries_again,
        try_number=max(1, ti.try_number),
        at=datetime.now(UTC).isoformat(),
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        link=str(getattr(ti, "log_url", "") or ""),
    )


def _sentence(why: BaseException | None) -> str:
    """Return what an error says, without the end that says what to do."""
    if why is None:
        return SILENT
    return clean(str(why) or type(why).__name__).removesuffix(f"; {getattr(why, 'mend', '')}")
