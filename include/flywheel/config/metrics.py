"""The names of the metrics; flywheel.workloads.metrics says what they are."""

from __future__ import annotations

from typing import Literal

MetricName = Literal[
    "f1_weighted",
    "f1_macro",
    "accuracy",
    "function_name_accuracy",
    "function_name_and_args_accuracy",
    "tool_calling_correctness",
    "similarity",
    "exact_match",
    "judge_rating",
]
