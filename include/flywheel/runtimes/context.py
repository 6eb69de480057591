"""Between an Airflow task's context and a run of the flywheel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import (
    BudgetError,
    ConfigError,
    NotEnoughRecordsError,
    OtherPlanError,
    UnusableTeacherError,
    WorkloadError,
)
from flywheel.common.redaction import install
from flywheel.config.logs import use_level
from flywheel.runs.names import run_id_of
from flywheel.runs.run import Run
from flywheel.runtimes.seal import is_sealed, sealed

# Under this XCom key `plan` leaves where the run's folder is and the SHA-256 of its plan.json:
# {"root", "run_id", "dag_id", "plan", "log_level", "seal"}.
RUN_KEY = "run"


# What a second try finds as the first did: a person has to mend it, and then clears the task.
_FINAL = (
    BudgetError,
    ConfigError,
    NotEnoughRecordsError,
    OtherPlanError,
    UnusableTeacherError,
    WorkloadError,
)


@contextmanager
def without_vain_tries() -> Iterator[None]:
    """Fail a task at once, with the sentence of its error, where another try would find the same.

    Raises:
        AirflowFailException: in place of an error that only a person can mend.
    """
    try:
        yield
    except _FINAL as error:
        raise AirflowFailException(f"{error} (not tried again: mend it, then clear this task)") from error


def cutoff_of(context: Mapping[str, Any]) -> datetime:
    """Return the time before which a run sees records: when its interval ends, else its logical date.

    A run that has neither, such as a job of the API or one of an asset event, sees what was there when it was
    asked for: what arrived in that second as well, as times of arrival are whole seconds.
    """
    dag_run = context["dag_run"]
    scheduled: datetime | None = dag_run.data_interval_end or dag_run.logical_date
    if scheduled is not None:
        return scheduled
    asked: datetime = dag_run.run_after or datetime.now(UTC)
    return asked.replace(microsecond=0) + timedelta(seconds=1)


def is_backfill(context: Mapping[str, Any]) -> bool:
    """Return whether a run is one of a backfill."""
    return bool(getattr(context["dag_run"], "run_type", None) == "backfill")


def share_run(context: Mapping[str, Any], run: Run, root: str) -> None:
    """Tell the later tasks where the run's folder is; from here on this one logs as much as they."""
    told = {"root": root, "run_id": run.run_id, "dag_id": run.dag_id, "plan": run.plan_digest}
    level = run.plan.config.logging_config.level
    use_level(level)
    context["ti"].xcom_push(key=RUN_KEY, value=sealed(RUN_KEY, {**told, "log_level": level}))


def run_of(context: Mapping[str, Any]) -> Run:
    """Return the run that `plan` made; from here on this task logs as its config says, and no secret.

    Raises:
        AirflowFailException: `plan` has not told of it, or somebody else has.
    """
    install()
    where = context["ti"].xcom_pull(task_ids="plan", key=RUN_KEY)
    if not is_sealed(RUN_KEY, where) or where["run_id"] != _run_id(context, where):
        raise AirflowFailException(
            "where this run's folder is was not told by its task plan, or by that of an older flywheel; "
            "clear plan with what follows it, which does only what is missing"
        )
    use_level(where.get("log_level", "INFO"))
    return Run(ArtifactRoot(where["root"]), where["run_id"], where["dag_id"], where["plan"])


def _run_id(context: Mapping[str, Any], where: Mapping[str, Any]) -> str:
    """Return the id of the run that a task is of."""
    return run_id_of(context["run_id"], where["dag_id"]) if "run_id" in context else str(where["run_id"])


def facts(result: Any) -> dict[str, Any]:
    """Return the small fields of a stage's result, and its scores: what XCom may carry."""
    fields = result if isinstance(result, dict) else result.model_dump(mode="json")
    return {
        key: value
        for key, value in fields.items()
        if isinstance(value, bool | int | float)
        or (isinstance(value, str) and len(value) <= 500)
        or key == "scores"
    }
