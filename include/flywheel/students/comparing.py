"""A student's answers beside the teacher's, scored as the workload's type asks for.

| type | what is compared | scores |
|---|---|---|
| classification | the class that each answer names | F1, accuracy |
| tool_calling | the calls that each answer makes | functions right; arguments right, too; F1 over functions |
| generic | the texts | TF-IDF similarity, share of equal ones |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flywheel.config.evaluation import EvaluationConfig
from flywheel.students.similarity import Similarity
from flywheel.workloads.labels import parse_label, without_thinking
from flywheel.workloads.scoring import LabelScores, interval95, score_labels
from flywheel.workloads.tool_calls import (
    NO_CALL,
    ToolCall,
    calls_text,
    functions,
    parse_calls,
    read_calls,
    same_calls,
    same_functions,
)

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """What comparing gave.

    Attributes:
        teacher, student: of each record, what is shown beside each other: classes, calls or texts.
        scores: by metric (see `flywheel.workloads.metrics`).
        intervals: 95 % percentile bootstrap, of those metrics that have one.
        labels: F1 and confusion by class or function; None of free texts.
        unparsable: answers that name no class, or hold a call that is not whole.
        each: by metric, the score of each record, where it has one.
    """

    teacher: list[str]
    student: list[str]
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    labels: LabelScores | None
    unparsable: int
    each: dict[str, list[float]] = field(default_factory=dict)


def compare(
    records: Records,
    texts: Sequence[str],
    evaluation: EvaluationConfig,
    classes: Sequence[str],
    aliases: Mapping[str, str],
) -> Compared:
    """Score answers.

    Args:
        records: of the eval set, each with label and messages, the last of them the teacher's.
        texts: the student's answers in the same order; "" for none.
        evaluation: with the workload's type.

    Raises:
        ValueError: no records, or not as many answers.
    """
    if not records or len(records) != len(texts):
        raise ValueError(f"expected an answer for each record, got {len(texts)} for {len(records)}")
    if evaluation.workload_type in ("tool_calling", "generic"):
        texts = [without_thinking(text) for text in texts]  # of a class, its reader knows
    if evaluation.workload_type == "tool_calling":
        return _compare_calls(records, texts, evaluation.bootstrap_samples)
    if evaluation.workload_type == "generic":
        return _compare_texts(records, texts, evaluation.bootstrap_samples)
    teacher = [record["label"] for record in records]
    student = [parse_label(text, classes, aliases) or "" for text in texts]
    labels = score_labels(teacher, student, classes, bootstrap_samples=evaluation.bootstrap_samples)
    return Compared(teacher, student, labels.scores, labels.intervals, labels, labels.unparsable)


def teacher_calls(record: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """Return the calls of the teacher's answer in a dataset's record."""
    calls = record["messages"][-1].get("tool_calls")
    return read_calls(calls, "messages.tool_calls", parse_arguments=False) if calls else ()


def shown(calls: Sequence[ToolCall], text: str) -> str:
    """Return an answer as people read it: its calls, or without any its text."""
    return calls_text(calls) if calls else text


def bootstrap_mean(values: NDArray[np.float64], samples: int, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a mean by the percentile bootstrap over the records.

    Args:
        values: of each record, [n].
    """
    # To draw records with replacement is to draw how often each is drawn; in parts, to bound memory.
    rng = np.random.default_rng(seed)
    share = np.full(len(values), 1 / len(values))
    means = [
        rng.multinomial(len(values), share, size=min(100, samples - start)) @ values / len(values)
        for start in range(0, samples, 100)
    ]
    return interval95(np.concatenate(means))


def _compare_calls(records: Records, texts: Sequence[str], samples: int) -> Compared:
    teacher = [teacher_calls(record) for record in records]
    student = [parse_calls(text) for text in texts]
    pairs = list(zip(teacher, student, strict=True))
    answered = np.array([bool(text.strip()) for text in texts])
    # No answer at all is no decision to call nothing.
    names = np.array([same_functions(*pair) for pair in pairs]) & answered
    whole = np.array([same_calls(*pair) for pair in pairs]) & answered
    called = [functions(calls) if text.strip() else "" for calls, text in zip(student, texts, strict=True)]
    labels = score_labels([functions(calls) for calls in teacher], called, (), bootstrap_samples=samples)
    each = {
        "function_name_accuracy": names.astype(np.float64),
        "function_name_and_args_accuracy": whole.astype(np.float64),
    }
    broken = sum(not calls and "{" in text for calls, text in zip(student, texts, strict=True))
    return Compared(
        teacher=[shown(calls, NO_CALL) for calls in teacher],
        student=[
            shown(calls, NO_CALL if text.strip() else "") for calls, text in zip(student, texts, strict=True)
        ],
        scores={
            **{name: float(values.mean()) for name, values in each.items()},
            **{name: labels.scores[name] for name in ("f1_weighted", "f1_macro")},
        },
        intervals={
            **{name: bootstrap_mean(values, samples) for name, values in each.items()},
            **labels.intervals,
        },
        labels=labels,
        unparsable=broken + labels.unparsable,
        each={name: values.tolist() for name, values in each.items()},
    )


def _compare_texts(records: Records, texts: Sequence[str], samples: int) -> Compared:
    teacher = [str(record["messages"][-1]["content"]) for record in records]
    similarity = Similarity(teacher)
    each = {
        "similarity": np.array([similarity.of(*pair) for pair in zip(teacher, texts, strict=True)]),
        "exact_match": np.array(
            [float(one.split() == other.split()) for one, other in zip(teacher, texts, strict=True)]
        ),
    }
    return Compared(
        teacher=teacher,
        student=list(texts),
        scores={name: float(values.mean()) for name, values in each.items()},
        intervals={name: bootstrap_mean(values, samples) for name, values in each.items()},
        labels=None,
        unparsable=sum(not text.strip() for text in texts),
        each={name: values.tolist() for name, values in each.items()},
    )
