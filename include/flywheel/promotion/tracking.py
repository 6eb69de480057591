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
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.mlflow_client import TrackingError, open_client, public, tracking_uri
from flywheel.promotion.mlflow_runs import (
    ADAPTER_TAG,
    ROOT_NODE,
    Tree,
    experiment_name,
    open_tree,
)
from flywheel.promotion.registry import model_name, registered_adapter
from flywheel.report.model import BasePart, CandidatePart, Report, TrackingPart
from flywheel.runs.plan import Plan

if TYPE_CHECKING:
    from flywheel.jobs.result import CustomizeResult

log = logging.getLogger(__name__)

_LOSS_POINTS = 400  # of a loss curve: more are not seen in a chart


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
        tree = open_tree(client, plan)
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
                    _track_candidate(tree, plan, row, report.metric.name, customized.get(row.name))
        for node, run_id in tree.ids.items():
            failed = any(row.name == node and row.state == "failed" for row in report.candidates)
            client.set_terminated(run_id, "FAILED" if failed else "FINISHED")
        top = tree.ids[ROOT_NODE]
        return TrackingPart(
            uri=public(uri),
            experiment=experiment_name(plan),
            run_id=top,
            artifact_uri=client.get_run(top).info.artifact_uri,
            registered=registered_adapter(client, model_name(plan)),
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
    if report.cost:
        metrics["cost"] = report.cost.total
        metrics["cost_teacher"], metrics["cost_machines"] = report.cost.teacher, report.cost.machines
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
    metrics: dict[str, float | None] = {**base.scores}
    if base.icl_score is not None:
        metrics[f"icl_{report.metric.name}"] = base.icl_score
    return metrics


def _track_candidate(
    tree: Tree, plan: Plan, row: CandidatePart, metric: str, made: CustomizeResult | None
) -> None:
    student = plan.config.student(row.student)
    training = plan.config.training_of(student)
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
        f"{metric}_low": row.score_ci95[0] if row.score_ci95 else None,
        f"{metric}_high": row.score_ci95[1] if row.score_ci95 else None,
        "score_low": row.score_low,
        "score_error": row.score_error,
        "test_error_rate": row.test_rate,
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
        "cost_per_million": row.per_million,
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
