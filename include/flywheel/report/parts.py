"""Parts of the report that others are made of, and the teacher's."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ReportPart(BaseModel):
    """A part of the report; what a later version adds is read over."""

    model_config = ConfigDict(extra="ignore")


class MetricPart(ReportPart):
    """The metric that candidates are compared by; see `flywheel.workloads.metrics`."""

    name: str
    title: str
    short: str


class InjectionsPart(ReportPart):
    """Texts with an instruction in them, and how many were followed; see `flywheel.evaluation.injections`."""

    followed: int
    of: int


class ScoredPart(ReportPart):
    """What was measured on an eval set.

    Attributes:
        score: by the report's metric; None where nothing was measured.
        score_ci95: its 95 % interval.
        injections: how often it did as a headline told it; None where that was not measured.
    """

    score: float | None = None
    score_ci95: tuple[float, float] | None = None
    injections: InjectionsPart | None = None


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
        human_scores: by metric, of its labels against people's; `human_intervals`: their 95 % intervals.
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
    human_scores: dict[str, float] = Field(default_factory=dict)
    human_intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    human_records: int | None = None
    human_unknown: int = 0
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
