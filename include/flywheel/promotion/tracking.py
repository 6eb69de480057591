"""MLflow: a run of the flywheel as a run, its students nested in it, their candidates nested in these.

    2025-10-19                params of the plan, F1 of the choice, the report and the curve as artifacts
      1b                      F1 before training; F1 over training records, as steps
        1b @ 5000             params of the training, loss over steps, F1, cost; the adapter by its path
        1b @ 10000

Logging is by `MlflowClient` in batches: nested runs found by their tags are updated, not made again, and a
metric logged twice at one time and step is kept once. Measured on two cores: importing the client 1.3 s,
opening a prepared SQLite file 0.75 s, a new one 2.1 s, 13 runs with 60 metrics each 0.35 s, again 0.65 s.

MLflow is there for people and programs to look at; nothing of flywheel reads from it. So where it cannot be
reached, the run goes on and its report says so.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.config import resolve_path
from flywheel.config.schema import MlflowConfig
from flywheel.promotion.champion import RegistryEntry
from flywheel.promotion.mlflow_client import TrackingError, open_client, public, tracking_uri
from flywheel.report.model import BasePart, CandidatePart, Report, TrackingPart
from flywheel.runs.plan import Plan

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from flywheel.jobs.spec import CustomizeResult

log = logging.getLogger(__name__)

RUN_TAG = "flywheel.run_id"
KEY_TAG = "flywheel.run_key"  # the same without quotes or spaces, to search for
NODE_TAG = "flywheel.node"
ADAPTER_TAG = "flywheel.adapter"
ALIAS = "champion"
ROOT_NODE = "run"

_BATCH = 1000  # metrics; MLflow's own limit for one call
_LOSS_POINTS = 400  # of a loss curve: more are not seen in a chart


def experiment_name(plan: Plan) -> str:
    """Return the experiment of a workload: `flywheel-news_classifier`."""
    return f"{plan.config.mlflow_config.experiment_name_prefix}-{plan.workload_id}"


def model_name(plan: Plan) -> str:
    """Return the registered model of a workload and client: `flywheel-news_classifier.default`.

    Each client has its own champion, and an alias names one version of a model; so each has its own model.
    """
    return registered_name(plan.config.mlflow_config.experiment_name_prefix, plan.workload_id, plan.client_id)


def registered_name(prefix: str, workload_id: str, client_id: str) -> str:
    """Return the registered model of a workload and client, where experiments have a prefix."""
    name = f"{prefix}-{workload_id}.{client_id}"
    plain = re.sub(r"[^\w.-]", "-", name)  # MLflow forbids '/' and ':', and its searches dislike quotes
    return name if plain == name else f"{plain}-{key_of(name)[:6]}"


@dataclass(frozen=True)
class _Tree:
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
            KEY_TAG: _run_key(self.plan),
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


def track(plan: Plan, report: Report, customized: Mapping[str, CustomizeResult]) -> TrackingPart:
    """Log a scored run: params, metrics and links to adapters; called again, it updates what is there.

    Args:
        customized: what the customization jobs gave, by candidate (`1b @ 5000`), for the loss curves.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    config = plan.config.mlflow_config
    uri = tracking_uri(config)
    with open_client(uri) as client:
        tree = _open_tree(client, plan)
        tree.node(ROOT_NODE, None, plan.run_id, _run_tags(plan, report))
        tree.log(ROOT_NODE, _run_params(plan), _choice_metrics(report), [])
        for student in report.students:
            base = next((row for row in report.base if row.student == student), None)
            tree.node(student, ROOT_NODE, student, {})
            steps = [
                (f"{report.metric.name}_by_records", row.score, row.size)
                for row in report.scored
                if row.student == student and row.score is not None
            ]
            metrics = _base_metrics(report, base)
            tree.log(student, {"student": student}, metrics, steps)
            for row in report.candidates:
                if row.student == student:
                    _track_candidate(tree, plan, row, customized.get(row.name))
        for node, run_id in tree.ids.items():
            failed = any(row.name == node and row.state == "failed" for row in report.candidates)
            client.set_terminated(run_id, "FAILED" if failed else "FINISHED")
        top = tree.ids[ROOT_NODE]
        return TrackingPart(
            uri=public(uri),
            experiment=experiment_name(plan),
            run_id=top,
            artifact_uri=client.get_run(top).info.artifact_uri,
            registered=_registered(client, model_name(plan)),
        )


def track_files(plan: Plan, tracked: TrackingPart, files: list[Path]) -> None:
    """Log files of the report as artifacts of the run; a file logged before is replaced.

    Where the run's files are in a folder, they are copied there, as MLflow itself would do: that spares a
    process that has nothing else to say to MLflow 2 s of imports.

    Raises:
        TrackingError: MLflow cannot be reached or refuses, or the folder cannot be written.
    """
    if tracked.artifact_uri.startswith("file://"):
        folder = Path(url2pathname(urlsplit(tracked.artifact_uri).path))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in files:
                shutil.copyfile(path, folder / path.name)
        except OSError as error:
            raise TrackingError(f"{folder}: {error}; check mlflow_config.artifact_location") from None
        return
    with open_client(tracking_uri(plan.config.mlflow_config)) as client:
        for path in files:
            client.log_artifact(tracked.run_id, str(path))


def register(plan: Plan, row: CandidatePart, decided: str) -> RegistryEntry:
    """Register the champion's adapter and set the alias `champion` on its version; once for each adapter.

    The version's source is the adapter in the artifact root. A tracking server does not take the path of a
    folder on another machine; there the adapter is uploaded to the candidate's run first.

    Args:
        decided: the reason, kept as the version's description.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    assert row.adapter is not None
    uri, name = tracking_uri(plan.config.mlflow_config), model_name(plan)
    with open_client(uri) as client:
        tree = _open_tree(client, plan)
        tree.node(ROOT_NODE, None, plan.run_id, {})
        tree.node(row.student, ROOT_NODE, row.student, {})
        run_id = tree.node(row.name, row.student, row.name, {ADAPTER_TAG: row.adapter})
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, tags={"flywheel.workload_id": plan.workload_id})
        versions = client.search_model_versions(f"name = '{name}'")
        version = next((v.version for v in versions if v.tags.get(ADAPTER_TAG) == row.adapter), None)
        if version is None:
            source = _adapter_source(client, plan, row.adapter, run_id, uri)
            tags = {ADAPTER_TAG: row.adapter, "flywheel.student": row.student, "flywheel.size": str(row.size)}
            made = client.create_model_version(
                name, source, run_id, tags=tags, description=decided[:5000], await_creation_for=None
            )
            version = made.version
        client.set_registered_model_alias(name, ALIAS, version)
        return RegistryEntry(model=name, version=str(version))


def point_alias(config: MlflowConfig, entry: RegistryEntry) -> None:
    """Have the alias `champion` name a version that is registered.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    with open_client(tracking_uri(config)) as client:
        client.set_registered_model_alias(entry.model, ALIAS, entry.version)


def forget_run(plan: Plan) -> None:
    """Delete what MLflow has of a run, as MLflow deletes: it can be restored for a while.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    with open_client(tracking_uri(plan.config.mlflow_config)) as client:
        if client.get_experiment_by_name(experiment_name(plan)) is None:
            return
        for run_id in _open_tree(client, plan).ids.values():
            client.delete_run(run_id)


def _registered(client: MlflowClient, name: str) -> str | None:
    """Return the key of the adapter that the alias `champion` names; None where there is no such alias."""
    if not client.search_registered_models(f"name = '{name}'"):
        return None
    version = client.get_registered_model(name).aliases.get(ALIAS)
    if version is None:
        return None
    adapter: str | None = client.get_model_version(name, version).tags.get(ADAPTER_TAG)
    return adapter


def _adapter_source(client: MlflowClient, plan: Plan, adapter: str, run_id: str, uri: str) -> str:
    root = ArtifactRoot(plan.config.artifacts.root)
    if not root.is_folder:
        return f"{root.url}/adapters/{adapter}"
    folder = root.fetch("adapters", adapter)
    if not uri.startswith("http"):
        return folder.as_uri()
    client.log_artifacts(run_id, str(folder), "adapter")
    return f"{client.get_run(run_id).info.artifact_uri}/adapter"


def _open_tree(client: MlflowClient, plan: Plan) -> _Tree:
    """Return the MLflow runs that a flywheel run has so far, in the workload's experiment."""
    from datetime import datetime

    name, config = experiment_name(plan), plan.config.mlflow_config
    found = client.get_experiment_by_name(name)
    if found is None:
        experiment_id = client.create_experiment(name, artifact_location=_artifact_location(config))
    else:
        experiment_id = found.experiment_id
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(experiment_id)
    of_this_run = f"tags.`{KEY_TAG}` = '{_run_key(plan)}'"
    runs = client.search_runs([experiment_id], of_this_run, max_results=1000)
    ids = {run.data.tags[NODE_TAG]: run.info.run_id for run in runs if NODE_TAG in run.data.tags}
    time_ms = int(datetime.fromisoformat(plan.created_at).timestamp() * 1000)
    return _Tree(client, experiment_id, ids, plan, time_ms)


def _run_key(plan: Plan) -> str:
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


def _run_params(plan: Plan) -> dict[str, Any]:
    training, lora = plan.config.training_config, plan.config.lora_config
    return {
        "workload_id": plan.workload_id,
        "client_id": plan.client_id,
        "cutoff": plan.cutoff,
        "teacher": plan.config.teacher.model,
        "epochs": training.epochs or "found",
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate or "found",
        "adapter_dim": lora.adapter_dim,
        "eval_size": plan.config.data_split_config.eval_size,
    }


def _run_tags(plan: Plan, report: Report) -> dict[str, str]:
    tags = {"flywheel.workload_id": plan.workload_id, "flywheel.client_id": plan.client_id}
    if report.decision.choice:
        tags["flywheel.choice"] = f"{report.decision.choice.student} @ {report.decision.choice.size}"
    if report.data.dataset:
        tags["flywheel.dataset"] = report.data.dataset
    words = [*report.decision.test, *report.decision.doubts]
    if words:
        tags["mlflow.note.content"] = "\n\n".join(words)[:5000]
    tags["flywheel.doubts"] = " ".join(report.decision.doubts)[:5000] or "none"
    return tags


def _choice_metrics(report: Report) -> dict[str, float | None]:
    decision, choice = report.decision, report.decision.choice
    row = report.candidate(choice.student, choice.size) if choice else None
    metrics: dict[str, float | None] = {
        report.metric.name: choice.score if choice else None,
        "score_low": row.score_low if row else None,
        "score_asked": decision.threshold,
        "candidates_tested": decision.tested,
        "error_rate": decision.error_rate,
        "injections_followed": choice.injections.followed if choice and choice.injections else None,
        "injections_of": choice.injections.of if choice and choice.injections else None,
    }
    before = report.remeasured.injections if report.remeasured else None
    if before:
        metrics["champion_injections_followed"], metrics["champion_injections_of"] = (
            before.followed,
            before.of,
        )
    if decision.comparison:
        metrics["to_champion"] = decision.comparison.difference
        metrics["to_champion_low"] = decision.comparison.low
        metrics["to_champion_asked"] = decision.comparison.needed
    if decision.persons:
        metrics["persons_teacher_f1"] = decision.persons.teacher
        metrics["persons_choice_f1"] = decision.persons.answers
    return metrics


def _base_metrics(report: Report, base: BasePart | None) -> dict[str, float | None]:
    """Return what an untrained student reached, by metric; with examples in its prompts as `icl_METRIC`."""
    if base is None:
        return {}
    metrics: dict[str, float | None] = {"f1_weighted": base.f1_weighted, "f1_macro": base.f1_macro}
    metrics |= {name: value for name, value in base.scores.items() if name != "accuracy"}
    if base.icl_score is not None:
        metrics[f"icl_{report.metric.name}"] = base.icl_score
    return metrics


def _track_candidate(tree: _Tree, plan: Plan, row: CandidatePart, made: CustomizeResult | None) -> None:
    student, training = plan.config.student(row.student), plan.config.training_config
    tags: dict[str, str] = {"flywheel.state": row.state}
    if row.passes is not None:
        tags["flywheel.passes"] = "yes" if row.passes else "no"
    if row.reason:
        tags["mlflow.note.content"] = row.reason[:5000]
    if row.adapter:
        tags[ADAPTER_TAG] = row.adapter
        root = ArtifactRoot(plan.config.artifacts.root)
        tags["flywheel.adapter_path"] = f"{root.url}/adapters/{row.adapter}"
    tree.node(row.name, row.student, row.name, tags)
    params = {
        "student": row.student,
        "model_name": student.model_name,
        "size": row.size,
        "epochs": (made and made.epochs) or training.epochs,
        "batch_size": training.batch_size,
        "learning_rate": (made and made.learning_rate) or training.learning_rate,
        "adapter_dim": plan.config.lora_config.adapter_dim,
    }
    metrics = {
        **row.scores,
        "f1_weighted": row.f1_weighted,
        "f1_macro": row.f1_macro,
        "f1_weighted_low": row.f1_weighted_ci95[0] if row.f1_weighted_ci95 else None,
        "f1_weighted_high": row.f1_weighted_ci95[1] if row.f1_weighted_ci95 else None,
        "score_low": row.score_low,
        "score_error": row.score_error,
        "test_error_rate": row.test_rate,
        "accuracy": row.accuracy,
        "unparsable": row.unparsable,
        "ece": row.ece,
        "injections_followed": row.injections.followed if row.injections else None,
        "injections_of": row.injections.of if row.injections else None,
        "parameters": row.parameters,
        "train_seconds": row.train_seconds,
        "records_per_second": row.records_per_second,
        "answers_per_second": row.answers_per_second,
        "latency_p50_ms": row.latency_p50_ms,
        "latency_p95_ms": row.latency_p95_ms,
        "eval_batch_size": row.batch_size,
        "warmup_seconds": row.warmup_seconds,
        "single_p50_ms": row.single_p50_ms,
        "single_p95_ms": row.single_p95_ms,
    }
    tree.log(row.name, params, metrics, _loss_steps(made))


def _loss_steps(made: CustomizeResult | None) -> list[tuple[str, float, int]]:
    """Return the loss curve as metrics by step, thinned out where it is long."""
    if made is None:
        return []
    every = max(1, math.ceil(len(made.losses) / _LOSS_POINTS))
    steps = [("train_loss", point.loss, point.step) for point in made.losses[::every]]
    steps += [("val_loss", point.val_loss, point.step) for point in made.losses if point.val_loss is not None]
    return steps
