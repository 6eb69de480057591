"""The runs in MLflow that a run of the flywheel has: found by their tags, made where they are missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.artifacts.root import key_of
from flywheel.config import resolve_path
from flywheel.config.schema import MlflowConfig
from flywheel.promotion.mlflow_client import open_client, tracking_uri
from flywheel.runs.plan import Plan

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "flywheel.run_id"
KEY_TAG = "flywheel.run_key"  # the same without quotes or spaces, to search for
NODE_TAG = "flywheel.node"
ADAPTER_TAG = "flywheel.adapter"
ROOT_NODE = "run"

_BATCH = 1000  # metrics; MLflow's own limit for one call


def experiment_name(plan: Plan) -> str:
    """Return the name of MLflow's experiment: `flywheel-news_classifier`, then `-NAME` of an experiment."""
    name = f"{plan.config.mlflow_config.experiment_name_prefix}-{plan.workload_id}"
    return f"{name}-{plan.experiment}" if plan.experiment else name


@dataclass(frozen=True)
class Tree:
    """The MLflow runs of one flywheel run, by node: "run", "1b", "1b @ 5000"."""

    client: MlflowClient
    experiment_id: str
    ids: dict[str, str]
    plan: Plan
    time_ms: int

    def node(self, node: str, parent: str | None, name: str, tags: Mapping[str, str]) -> str:
        """Return the id of a node's MLflow run, made if it is not there."""
        from mlflow.entities import RunTag

        all_tags = {
            RUN_TAG: self.plan.run_id,
            KEY_TAG: run_key(self.plan),
            NODE_TAG: node,
            "mlflow.source.name": "flywheel",
            **tags,
        }
        if parent:
            all_tags["mlflow.parentRunId"] = self.ids[parent]
        if node in self.ids:
            changed = [RunTag(key, value) for key, value in all_tags.items()]
            self.client.log_batch(self.ids[node], tags=changed)
        else:
            made = self.client.create_run(
                self.experiment_id, start_time=self.time_ms, tags=all_tags, run_name=name
            )
            self.ids[node] = made.info.run_id
        return self.ids[node]

    def log(
        self,
        node: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        steps: list[tuple[str, float, int]],
    ) -> None:
        """Log params, metrics and metrics by step of a node, and end it."""
        from mlflow.entities import Metric, Param

        points = [(key, value, 0) for key, value in metrics.items() if value is not None] + steps
        # The time of a metric is that of the plan: logged again, it is the same point and not another.
        rows = [Metric(key, float(v), self.time_ms, step) for key, v, step in points if math.isfinite(v)]
        texts = [Param(key, str(value)) for key, value in params.items()]
        self.client.log_batch(self.ids[node], metrics=rows[:_BATCH], params=texts)
        for start in range(_BATCH, len(rows), _BATCH):
            self.client.log_batch(self.ids[node], metrics=rows[start : start + _BATCH])


def open_tree(client: MlflowClient, plan: Plan) -> Tree:
    """Return the MLflow runs that a flywheel run has so far, in the experiment that it is of."""
    from datetime import datetime

    name, config = experiment_name(plan), plan.config.mlflow_config
    found = client.get_experiment_by_name(name)
    if found is None:
        experiment_id = client.create_experiment(name, artifact_location=_artifact_location(config))
    else:
        experiment_id = found.experiment_id
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(experiment_id)
    of_this_run = f"tags.`{KEY_TAG}` = '{run_key(plan)}'"
    runs = client.search_runs([experiment_id], of_this_run, max_results=1000)
    ids = {run.data.tags[NODE_TAG]: run.info.run_id for run in runs if NODE_TAG in run.data.tags}
    time_ms = int(datetime.fromisoformat(plan.created_at).timestamp() * 1000)
    return Tree(client, experiment_id, ids, plan, time_ms)


def run_key(plan: Plan) -> str:
    """Return what a run is searched for by: of a workload, a client and a run id, without quotes."""
    return key_of(plan.workload_id, plan.client_id, plan.run_id)


def _artifact_location(config: MlflowConfig) -> str | None:
    """Return where a new experiment keeps files: the config's place, else beside the SQLite file, else the
    server's own.
    """
    location = config.artifact_location
    if location is None:
        if tracking_uri(config).startswith("http"):
            return None
        location = "state/mlruns"
    return location if "://" in location else Path(resolve_path(location)).resolve().as_uri()


def forget_run(plan: Plan) -> None:
    """Delete what MLflow has of a run, as MLflow deletes: it can be restored for a while.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    with open_client(tracking_uri(plan.config.mlflow_config)) as client:
        if client.get_experiment_by_name(experiment_name(plan)) is None:
            return
        for run_id in open_tree(client, plan).ids.values():
            client.delete_run(run_id)
