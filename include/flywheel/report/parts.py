"""Parts of the report that others are made of, and the teacher's."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, computed_field


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


class CostPart(ReportPart):
    """What a run itself used, and what that cost, in the currency of `teacher.prices`.

    What was found done costs nothing; a run that is repeated tells of its last time.

    Attributes:
        tokens: of the teacher's prompts and answers.
        teacher: of these, by `teacher.prices`; None where they have no price.
        cpu_hours: wall-clock hours of jobs without a GPU, and CPU hours of the stages before the scoring;
            `gpu_hours`: of jobs with GPUs, times these.
        machines: of these, by `prices`; None where hours of a kind that was used have no price.
    """

    currency: str
    tokens: int = 0
    teacher: float | None = None
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    machines: float | None = None

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way
    @property
    def total(self) -> float | None:
        """The sum of what has a price; None where nothing has."""
        known = [part for part in (self.teacher, self.machines) if part is not None]
        return sum(known) if known else None

    @property
    def words(self) -> str:
        """The cost: `1.32 USD: the teacher 1.20 (2,000 tokens), machines 0.12 (0.40 CPU hours)`."""
        hours = [
            f"{count:,.2f} {kind} hours"
            for kind, count in (("CPU", self.cpu_hours), ("GPU", self.gpu_hours))
            if count
        ]
        parts = [
            f"the teacher {_sum(self.teacher)} ({self.tokens:,} tokens)",
            f"machines {_sum(self.machines)} ({', '.join(hours) or 'none'})",
        ]
        total = "what has no price" if self.total is None else f"{self.total:,.2f} {self.currency}"
        return f"{total}: {', '.join(parts)}"


def _sum(value: float | None) -> str:
    return "without a price" if value is None else f"{value:,.2f}"


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
