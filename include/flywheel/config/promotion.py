"""The section `promotion`: when a candidate replaces the champion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flywheel.config.metrics import MetricName
from flywheel.config.section import Section


class PromotionConfig(Section):
    """When a candidate replaces the champion."""

    within: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Largest distance in the metric; the lower bound of a score must be within it.",
    )
    metric: MetricName | None = Field(
        None,
        description="What candidates are compared by; null: the workload type's own: f1_weighted; "
        "function_name_and_args_accuracy, with a judge tool_calling_correctness; judge_rating, without a "
        "judge similarity.",
    )
    of: Literal["teacher", "best"] = Field(
        "teacher", description="Distance from the teacher (1.0) or from the best candidate."
    )
    error_rate: float = Field(
        0.016,
        gt=0,
        le=0.2,
        description="Chance that a night promotes a student that is not good enough, over all candidates "
        "(docs/promotion.md).",
    )
    margin: float = Field(
        0.02,
        ge=0,
        le=1,
        description="A cheaper candidate may be at most so much worse than the best champion of the last 90 "
        "days.",
    )
    min_eval: int = Field(400, ge=1, description="With fewer eval records nothing is promoted automatically.")
    approval: Literal["automatic", "human"] = Field(
        "automatic", description="human: a person approves in the Airflow UI."
    )
    four_eyes: bool = Field(
        False,
        description="true: who starts a run cannot approve it: their yes to its cost, to its promotion, or "
        "their promotion of its candidates does not count.",
    )
    approval_timeout_hours: float = Field(72.0, gt=0, description="Without an answer the champion stays.")
    hold_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="After a person's roll-back or rejection nothing is promoted by itself, until this share "
        "of a night's records was not there then.",
    )
