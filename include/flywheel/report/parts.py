"""Parts of the report that others are made of, and the teacher's."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ReportPart(BaseModel):
    """A part of the report; what a later version adds is read over."""

    model_config = ConfigDict(extra="ignore")


class MetricPart(ReportPart):
    """The metric that candidates are compared by; see `flywheel.workloads.metrics`."""

    name: str = "f1_weighted"
    title: str = "Weighted F1"
    short: str = "F1"


class InjectionsPart(ReportPart):
    """Texts with an instruction in them, and how many were followed; see `flywheel.evaluation.injections`."""

    followed: int
    of: int


class ScoredPart(ReportPart):
    """What was measured on an eval set.

    Attributes:
        score: by the report's metric; None where nothing was measured.
        score_ci95: its 95 % interval.
        f1_weighted: of classes or functions; None of free texts.
        injections: how often it did as a headline told it; None where that was not measured.
    """

    score: float | None = None
    score_ci95: tuple[float, float] | None = None
    f1_weighted: float | None = None
    f1_weighted_ci95: tuple[float, float] | None = None
    injections: InjectionsPart | None = None

    @model_validator(mode="after")
    def _score_of_older_reports(self) -> Self:
        """Give a part that was written when F1 was the one metric its score."""
        if self.score is None and self.f1_weighted is not None:
            self.score, self.score_ci95 = self.f1_weighted, self.f1_weighted_ci95
        return self


class ConfusionPart(ReportPart):
    """Counts of records: a row for each right class, a column for each answer."""

    labels: list[str]
    columns: list[str]
    matrix: list[list[int]]


class HumanClassPart(ReportPart):
    """How well the teacher finds one class, by the labels that people gave to `support` headlines."""

    label: str
    precision: float
    recall: float
    f1: float
    f1_ci95: tuple[float, float] | None = None
    support: int


class DisagreementPart(ReportPart):
    """A headline that the teacher and a person label differently; `teacher` is empty without a class."""

    text: str
    human: str
    teacher: str
    confidence: float | None = None


class TeacherPart(ReportPart):
    """The teacher, and how it compares with labels that people gave (None: there are none).

    Attributes:
        human_unknown: human labels that are none of the classes, and so not compared.
        human_disagreements: the first of them; all are in the run's file `disagreements_file`.
        prompt_tokens, completion_tokens: of the calls of this run; cached ones were found in the endpoint's
            prefix cache.
        estimated: answers whose tokens the endpoint did not tell, and which are estimated in tokens and cost.
        cost: of this run's calls, by the configured prices, in `currency`; 0 without prices.
        left: headlines without an answer, for the budget was spent.
        per_million: what a million of its answers cost, at what those of this run did.
    """

    model: str
    human_f1_weighted: float | None = None
    human_f1_macro: float | None = None
    human_accuracy: float | None = None
    human_records: int | None = None
    human_unknown: int = 0
    human_f1_weighted_ci95: tuple[float, float] | None = None
    human_per_class: list[HumanClassPart] = Field(default_factory=list)
    human_confusion: ConfusionPart | None = None
    human_disagreements: list[DisagreementPart] = Field(default_factory=list)
    disagreements_file: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    cost: float = 0.0
    currency: str = ""
    left: int = 0
    per_million: float | None = None
