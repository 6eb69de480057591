"""The operators of NeMo: the task of a job, what serves the champion, and what a run ends with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from flywheel.config import load_config
from flywheel.config.experiments import DAG_ID
from flywheel.runs.run import Run
from flywheel.runtimes.base import RefusedJobError, check_ending, log_job_line
from flywheel.runtimes.context import run_of
from flywheel.runtimes.job_operator import JobOperator
from flywheel.runtimes.nemo.job import NemoJob
from flywheel.runtimes.nemo.results import keep
from flywheel.runtimes.nemo.runtime import describe, prepare
from flywheel.runtimes.nemo.serving import ServingOrder, serves_champions
from flywheel.runtimes.nemo.sweep import clean_up, sweep
from flywheel.runtimes.nemo.trigger import NemoTrigger, ServingTrigger
from flywheel.workloads.experiments import experiment_for

# The last two parts of it are a workload's and a client's ids; see flywheel.orchestration.tasks.champion_uri.
_CHAMPION = "/champion/"


class NemoJobOperator(JobOperator):
    """Has a job done by NeMo's services; this task holds no slot until it has ended there."""

    def find(self, run: Run, spec: str) -> bool:
        """Leave it to `begin`: what NeMo makes has names of its own."""
        return False

    def begin(self, context: Any, run: Run, spec: str) -> None:
        """Find what the job makes, or upload what it needs and defer."""
        job = describe(self.job_name, spec, run.plan.config, run.run_id)
        prepared = prepare(job, partial(log_job_line, self.log))
        if prepared is None:
            keep(job)
            return
        # No kwargs: the event says which job it was. `airflow dags test` hands on nothing else.
        self.defer(trigger=NemoTrigger(prepared.model_dump(mode="json")), method_name="resume")

    def collect(self, run: Run, event: dict[str, Any]) -> None:
        """Take what the job's services gave, and score it here."""
        check_ending(event)
        keep(NemoJob.model_validate(event["job"]))


class NemoServeOperator(BaseOperator):
    """Has the champion served by a NIM, and the serving alias point to it.

    In a run of the flywheel that is the champion of its workload and client; in a run that champions' asset
    events have started, it is each champion that they tell of. This task holds no slot while a NIM starts.
    """

    ui_color = "#e8f0e4"

    def execute(self, context: Any) -> None:
        """Hand the first order to the triggerer."""
        self._go_on(list(self._orders(context)))

    def resume(self, context: Any, event: dict[str, Any]) -> None:
        """Go on with the next order, once one has ended well."""
        try:
            check_ending(event)
        except RefusedJobError as error:  # it would be refused again: no retry
            raise AirflowFailException(str(error)) from None
        orders = list(self._orders(context))
        done = ServingOrder.model_validate(event["order"])
        self._go_on(orders[orders.index(done) + 1 :] if done in orders else [])

    def _go_on(self, orders: list[ServingOrder]) -> None:
        if orders:
            self.defer(trigger=ServingTrigger(orders[0].model_dump(mode="json")), method_name="resume")

    def _orders(self, context: Any) -> Iterator[ServingOrder]:
        events = context.get("triggering_asset_events") or {}
        uris = {asset.uri for asset in events if _CHAMPION in getattr(asset, "uri", "")}
        if context["dag"].dag_id != f"{DAG_ID}_serving":
            run = run_of(context)
            plan = run.plan
            if serves_champions(plan.config):
                yield ServingOrder.of(plan.config, plan.workload_id, plan.client_id, run.run_id)
        else:
            for uri in sorted(uris):
                workload, client = map(unquote, uri.rpartition(_CHAMPION)[2].split("/"))
                config = load_config(experiment=experiment_for(workload, client))
                if serves_champions(config):
                    yield ServingOrder.of(config, workload, client)


class NemoSweepOperator(BaseOperator):
    """Lets go of all that a run's jobs have held, and of its data sets where they are not to be kept."""

    def execute(self, context: Any) -> None:
        """Sweep, once all of the run's jobs have ended."""
        run = run_of(context)
        config = run.plan.config
        if config.runtime.type == "nemo":
            sweep(run, config, partial(log_job_line, self.log))


class NemoCleanUpOperator(BaseOperator):
    """Takes away what a run has made and nobody needs: adapters by the config, NIMs always."""

    def execute(self, context: Any) -> None:
        """Clean up, once the run has ended otherwise."""
        run = run_of(context)
        config = run.plan.config
        if config.runtime.type == "nemo":
            clean_up(run, config, partial(log_job_line, self.log))
