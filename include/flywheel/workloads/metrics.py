"""The metrics by which students are compared with their teacher, by name, for tables, reports and promotion.

All are shares in [0, 1], the teacher has 1.0 by definition, and the higher the better. Names are those of the
NVIDIA Data Flywheel Blueprint where it has the metric.
"""

from __future__ import annotations

from dataclasses import dataclass

from flywheel.config.evaluation import WorkloadType
from flywheel.config.metrics import MetricName


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as people read of it.

    Attributes:
        name: in results, MLflow and the API.
        title: above a table: `Weighted F1`.
        short: in a column or a sentence: `F1`.
    """

    name: MetricName
    title: str
    short: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("f1_weighted", "Weighted F1", "F1"),
        Metric("f1_macro", "Macro F1", "macro F1"),
        Metric("accuracy", "Accuracy", "accuracy"),
        Metric("function_name_accuracy", "Calls of the right functions", "functions right"),
        Metric("function_name_and_args_accuracy", "Calls with the right arguments", "calls right"),
        Metric("tool_calling_correctness", "Calls right by the judge", "calls right"),
        Metric("similarity", "Similarity", "similarity"),
        Metric("exact_match", "Equal answers", "equal"),
        Metric("judge_rating", "Judge's rating", "rating"),
    )
}


def metrics_of(workload_type: WorkloadType, *, judged: bool = False) -> tuple[MetricName, ...]:
    """Return the names of the metrics that a type of workload has."""
    if workload_type == "tool_calling":
        names: tuple[MetricName, ...] = (
            "function_name_and_args_accuracy",
            "function_name_accuracy",
            "f1_weighted",
            "f1_macro",
        )
        return ("tool_calling_correctness", *names) if judged else names
    if workload_type == "generic":
        return ("judge_rating", "similarity", "exact_match") if judged else ("similarity", "exact_match")
    return ("f1_weighted", "f1_macro", "accuracy")


def main_metric(workload_type: WorkloadType, *, judged: bool = False) -> Metric:
    """Return the metric that a type of workload is judged by.

    Args:
        judged: a judge has rated the answers.
    """
    if workload_type == "tool_calling":
        return METRICS["tool_calling_correctness" if judged else "function_name_and_args_accuracy"]
    if workload_type == "generic":
        return METRICS["judge_rating" if judged else "similarity"]
    return METRICS["f1_weighted"]
