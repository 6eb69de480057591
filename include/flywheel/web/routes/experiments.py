"""/api/experiments: what is in production for whom, since when, at what cost, and how it does."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from flywheel.promotion.champion import Champion, Stop, read_state
from flywheel.promotion.costs import MonthCost
from flywheel.report.parts import CostPart
from flywheel.serving.nights import Watched, night_at, night_names
from flywheel.serving.payback import costs
from flywheel.web import airflow_runs, settings, summaries
from flywheel.web.access import Reader, readable
from flywheel.web.routes.parts import problems
from flywheel.web.run_files import side_by_side
from flywheel.web.summaries import RunLine
from flywheel.workloads.experiments import Experiment, experiments

router = APIRouter(tags=["experiments"])


class ExperimentLine(BaseModel):
    """An experiment: its file, its champion, what that has cost, and its runs."""

    name: str = Field(description="NAME of experiments/NAME.yaml; empty: config.yaml's.")
    dag_id: str
    workload_id: str
    client_id: str
    error: str = Field("", description="What is wrong with its file; its DAG is an import error then.")
    champion: Champion | None = Field(None, description="null: the teacher is in production.")
    stop: Stop | None = Field(None, description="Who stopped the champion; null: it answers.")
    agreement: Watched | None = Field(
        None, description="With the teacher, of the last night of production; null: none was looked at."
    )
    cost: CostPart | None = Field(None, description="Of all its runs; null: there was none.")
    month: MonthCost | None = Field(None, description="Of those of the last month that had any.")
    next_run: datetime | None = Field(None, description="null: none is due by the clock, or it is paused.")
    is_paused: bool = False
    last_run: RunLine | None = None


class ExperimentLines(BaseModel):
    """All experiments that the user may read, config.yaml's first."""

    experiments: list[ExperimentLine]


@router.get("/experiments", responses=problems())
def list_experiments(user: Reader) -> ExperimentLines:
    """List all experiments: what is in production for whom, since when, at what cost, and how it does."""
    may_read = readable(user)
    there = [one for one in experiments() if may_read(one.name)]
    lines = [line for line, _ in summaries.list_runs()]
    last = {line.experiment: line for line in reversed(lines)}
    dags = airflow_runs.dags([one.dag_id for one in there])
    found = side_by_side(_line, there)
    for line in found:
        dag = dags.get(line.dag_id)
        line.last_run = last.get(line.name)
        line.is_paused = bool(dag and dag.is_paused)
        line.next_run = dag.next_run if dag and not dag.is_paused and not line.error else None
    return ExperimentLines(experiments=found)


def _line(experiment: Experiment) -> ExperimentLine:
    config = experiment.config
    line = ExperimentLine(
        name=experiment.name,
        dag_id=experiment.dag_id,
        workload_id=experiment.workload_id,
        client_id=experiment.client_id,
        error=experiment.error,
    )
    if config is None:
        return line
    root = settings.artifact_root(config.artifacts.root)
    whose = (experiment.workload_id, experiment.client_id)
    state, names = read_state(root, *whose), night_names(root, *whose)
    spent = costs(root, *whose, zone=config.schedule.time_zone)
    line.champion, line.stop = (state.champion, state.stop) if state else (None, None)
    line.agreement = night_at(root, *whose, names[-1]).agreement if names else None
    line.cost, line.month = spent.total, spent.months[-1] if spent.months else None
    return line
