"""A line for each run, and one for each candidate: what lists are made of.

Airflow's database says which runs there are and in which state, in one query. What a run found out is in its
folder; for a run that has ended it is read once and kept, under the version that the database gives the run.
So a list of 1,000 runs costs the query and no file.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from flywheel.common.errors import FlywheelError
from flywheel.runs.failures import RunFailure, cause_of
from flywheel.web import airflow_runs, run_files
from flywheel.web.airflow_runs import AirflowRun
from flywheel.web.stuck import stuck_of

log = logging.getLogger(__name__)

RunState = Literal["queued", "running", "review", "success", "failed", "cancelled"]

# How long what is read of a running run is taken for the present state.
_FRESH_SECONDS = 1.0


class Pick(BaseModel):
    """A candidate that stands out."""

    student: str
    size: int
    score: float | None = Field(None, description="By the metric of the run.")


class CandidateLine(BaseModel):
    """A candidate of a run, in lists."""

    student: str
    size: int
    state: str = Field(
        description="scored, failed, unavailable or missing; planned before the run is scored."
    )
    score: float | None = Field(None, description="By the metric of the run.")
    score_ci95: tuple[float, float] | None = None
    score_low: float | None = Field(
        None, description="What the score is at least, but for a chance of test_rate."
    )
    test_rate: float | None = Field(
        None, description="Error rate of its own test; promotion.error_rate is that over all of the run."
    )
    passes: bool | None = Field(
        None, description="It is shown to be good enough; null where it was not tested."
    )
    scores: dict[str, float] = Field(default_factory=dict, description="By metric, all that were measured.")
    parameters: int | None = None
    train_seconds: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    batch_size: int | None = Field(None, description="Prompts in a batch whose latency that is.")
    warmup_seconds: float | None = Field(None, description="A batch thrown away, in no other figure.")
    single_p50_ms: float | None = Field(None, description="Latency of a request alone.")
    single_p95_ms: float | None = None
    answers_per_second: float | None = None
    adapter: str | None = None
    evaluation: str | None = None
    found: bool = False


class RunLine(BaseModel):
    """A run, in lists."""

    run_id: str
    experiment: str = Field("", description="NAME of experiments/NAME.yaml; empty: config.yaml's.")
    state: RunState
    run_type: str = Field(description="manual, scheduled, backfill or asset_triggered.")
    workload_id: str
    client_id: str
    cutoff: int | None = Field(None, description="Unix seconds; the run saw records before that.")
    started_at: datetime
    ended_at: datetime | None = None
    champion: Pick | None = Field(None, description="What the run put into production.")
    best: Pick | None = Field(None, description="The candidate with the highest score.")
    decision: str | None = Field(
        None, description="pending, promoted, in place, rejected, none, held or would be promoted."
    )
    failure: RunFailure | None = Field(
        None, description="Why the run failed, or what it is stuck at; null where it goes well."
    )
    scored: int = Field(0, description="Candidates with a result.")
    candidates: int = Field(0, description="Candidates of the plan.")


class CandidateOfRun(CandidateLine):
    """A candidate, and its run."""

    run_id: str
    experiment: str = Field("", description="NAME of experiments/NAME.yaml; empty: config.yaml's.")
    run_state: RunState
    workload_id: str
    client_id: str
    cutoff: int | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Summary:
    """What lists need of a run's folder.

    Attributes:
        error: why the run has no table, as far as its folder says; empty where it has one.
        failure: why the run failed; None where it did not.
    """

    workload_id: str
    client_id: str
    cutoff: int | None
    champion: Pick | None
    best: Pick | None
    decision: str | None
    candidates: tuple[CandidateLine, ...]
    dataset: str | None
    records: int
    cancelled: run_files.Cancelled | None
    error: str
    failure: RunFailure | None = None


_lock = threading.Lock()
_kept: dict[str, tuple[str, float, Summary]] = {}

Row = TypeVar("Row")
_all_kept: list[KeptRows[Any]] = []


class KeptRows(Generic[Row]):
    """What lists make of runs that have ended: made anew only where a run or its summary is another.

    Making 1,000 rows takes longer than all else that a list does.
    """

    def __init__(self) -> None:
        self._rows: dict[str, tuple[object, Summary, Row]] = {}
        _all_kept.append(self)

    def of(self, run: AirflowRun | RunLine, summary: Summary, make: Callable[[], Row]) -> Row:
        """Return the row of a run that has ended."""
        kept = self._rows.get(run.run_id)
        if kept is not None and kept[0] is run and kept[1] is summary:
            return kept[2]
        row = make()
        self._rows[run.run_id] = (run, summary, row)
        return row

    def forget_all_but(self, run_ids: set[str]) -> None:
        """Drop the rows of runs that are gone."""
        for run_id in set(self._rows) - run_ids:
            self._rows.pop(run_id, None)


_lines: KeptRows[RunLine] = KeptRows()
_candidates: KeptRows[list[CandidateOfRun]] = KeptRows()


def list_runs() -> list[tuple[RunLine, Summary]]:
    """Return all runs, the latest first."""
    runs = airflow_runs.all_runs()
    in_review = airflow_runs.runs_in_review() if any(not run.is_done for run in runs) else set()
    summaries = summaries_of(runs)
    _forget_all_but({run.run_id for run in runs})
    return [
        (_line(run, summary, run.run_id in in_review), summary)
        for run, summary in zip(runs, summaries, strict=True)
    ]


def _line(run: AirflowRun, summary: Summary, in_review: bool) -> RunLine:
    if not run.is_done:
        line = line_of(run, summary, in_review)
        if summary.cancelled is None:
            line.failure = stuck_of(run, run_files.run_of(run), airflow_runs.tasks_of(run.run_id))
        return line
    return _lines.of(run, summary, lambda: line_of(run, summary, False))


def list_candidates() -> list[CandidateOfRun]:
    """Return the candidates of all runs, those of the latest run first."""
    found: list[CandidateOfRun] = []
    for line, summary in list_runs():
        if line.ended_at is None:
            found += _candidates_of(line, summary)
        else:
            found += _candidates.of(line, summary, partial(_candidates_of, line, summary))
    return found


def _candidates_of(line: RunLine, summary: Summary) -> list[CandidateOfRun]:
    return [
        CandidateOfRun.model_construct(
            **candidate.__dict__,
            run_id=line.run_id,
            experiment=line.experiment,
            run_state=line.state,
            workload_id=line.workload_id,
            client_id=line.client_id,
            cutoff=line.cutoff,
            started_at=line.started_at,
        )
        for candidate in summary.candidates
    ]


def line_of(run: AirflowRun, summary: Summary, in_review: bool) -> RunLine:
    """Return the line of a run."""
    return RunLine.model_construct(
        run_id=run.run_id,
        experiment=run.experiment,
        state=state_of(run, summary.cancelled is not None, in_review),
        run_type=run.run_type,
        workload_id=summary.workload_id,
        client_id=summary.client_id,
        cutoff=summary.cutoff,
        started_at=run.begun_at,
        ended_at=run.ended_at if run.is_done else None,
        champion=summary.champion,
        best=summary.best,
        decision=summary.decision,
        failure=summary.failure if run.state == "failed" and summary.cancelled is None else None,
        scored=sum(line.state == "scored" for line in summary.candidates),
        candidates=len(summary.candidates),
    )


def state_of(run: AirflowRun, cancelled: bool, in_review: bool) -> RunState:
    """Return the state of a run as the API calls it."""
    if cancelled:
        return "cancelled"
    if run.state == "running" and in_review:
        return "review"
    states: dict[str, RunState] = {"queued": "queued", "running": "running", "success": "success"}
    return states.get(run.state, "failed")


def summaries_of(runs: list[AirflowRun]) -> list[Summary]:
    """Return what the folders of runs say, read side by side where it is not known yet."""
    now = time.monotonic()
    with _lock:
        unknown = [run for run in runs if not _is_known(run, now)]
    if len(unknown) > 1:
        run_files.side_by_side(_learn, unknown)
    elif unknown:
        _learn(unknown[0])
    with _lock:
        return [_kept[run.run_id][2] for run in runs]


def forget(run_id: str) -> None:
    """Read a run's folder anew at the next request: something else than the run has written there."""
    with _lock:
        _kept.pop(run_id, None)


def _is_known(run: AirflowRun, now: float) -> bool:
    kept = _kept.get(run.run_id)
    return kept is not None and kept[0] == run.version and (run.is_done or now - kept[1] < _FRESH_SECONDS)


def _learn(run: AirflowRun) -> None:
    try:
        summary = _summarize(run)
        if run.state == "failed" and summary.cancelled is None:
            summary = replace(summary, failure=cause_of(run_files.run_of(run)))
    except (FlywheelError, OSError) as error:
        log.warning("run %s: %s", run.run_id, error)
        summary = _unread(run, "what the run has left cannot be read")
    with _lock:
        _kept[run.run_id] = (run.version, time.monotonic(), summary)


def _forget_all_but(run_ids: set[str]) -> None:
    with _lock:
        for run_id in _kept.keys() - run_ids:
            del _kept[run_id]
    for kept in _all_kept:
        kept.forget_all_but(run_ids)


def _summarize(run: AirflowRun) -> Summary:
    folder = run_files.run_of(run)
    cancelled = run_files.read_cancelled(folder, run.clear_number)
    report = run_files.read_json(folder, "report.json")
    if not isinstance(report, dict):
        return _unscored(run, folder, cancelled)
    rows = report.get("candidates") or []
    decision = report.get("decision") or {}
    data = report.get("data") or {}
    return Summary(
        workload_id=report["workload_id"],
        client_id=report["client_id"],
        cutoff=report["cutoff"],
        champion=_pick(report.get("champion")),
        best=_pick(report.get("best")),
        decision=decision.get("state"),
        candidates=tuple(CandidateLine.model_validate(row) for row in rows),
        dataset=data.get("dataset"),
        records=data.get("used") or data.get("records") or 0,
        cancelled=cancelled,
        error="",
    )


def _unscored(run: AirflowRun, folder: Any, cancelled: run_files.Cancelled | None) -> Summary:
    plan = run_files.read_json(folder, "plan.json")
    if not isinstance(plan, dict):
        unread = _unread(run, "the run has not been planned")
        return replace(unread, cancelled=cancelled)
    curated = run_files.read_json(folder, "stages/curate.json") or {}
    result = curated.get("result") or {}
    return Summary(
        workload_id=plan["workload_id"],
        client_id=plan["client_id"],
        cutoff=plan["cutoff"],
        champion=None,
        best=None,
        decision=None,
        candidates=tuple(
            CandidateLine(student=one["student"], size=one["size"], state="planned")
            for one in result.get("candidates") or plan["candidates"]
        ),
        dataset=result.get("dataset"),
        records=result.get("used") or 0,
        cancelled=cancelled,
        error="the run has not been scored",
    )


def _unread(run: AirflowRun, error: str) -> Summary:
    """Return what the params alone say."""
    return Summary(
        workload_id=_text(run.conf.get("workload_id")),
        client_id=_text(run.conf.get("client_id")),
        cutoff=None,
        champion=None,
        best=None,
        decision=None,
        candidates=(),
        dataset=None,
        records=0,
        cancelled=None,
        error=error,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _pick(part: Any) -> Pick | None:
    return Pick.model_validate(part) if isinstance(part, dict) else None


def utc(seconds: float | None) -> datetime | None:
    """Return unix seconds as a time."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
