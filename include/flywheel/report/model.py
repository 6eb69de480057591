"""The report of a run, as `report.json` holds it; the table, the curve and the HTML are drawn from it alone.

Scores compare a student's answers with the teacher's on the held-out eval set by the report's metric, so
the teacher has 1.0 by definition. F1 values are by class; of tool calls, by function. Times are in seconds,
latencies in milliseconds, `cutoff` in unix seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field

from flywheel.config.evaluation import WorkloadType
from flywheel.evaluation.cascade import Cascade
from flywheel.jobs.result import Calibration
from flywheel.report.checks import ComparisonPart, ConstantPart, OtherSplitPart, PersonsPart
from flywheel.report.parts import ConfusionPart, CostPart, MetricPart, ReportPart, ScoredPart, TeacherPart
from flywheel.report.speed import SpeedPart

REPORT_FILE = "report.json"

# scored: has a result. failed: a job of it failed. unavailable: fewer training records than its size.
# missing: its jobs did not end (stopped by hand, or still to do).
State = Literal["scored", "failed", "unavailable", "missing"]


class BasePart(ScoredPart):
    """A student as it is before any training.

    Attributes:
        scores: by metric, all that were measured.
        icl_score: with examples in the prompt (icl-eval), by the report's metric; None where that was not
            asked for. `icl_examples`: how many a prompt has on average.
    """

    student: str
    state: State = "scored"
    reason: str = ""
    parameters: int | None = None
    unparsable: int | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    icl_score: float | None = None
    icl_score_ci95: tuple[float, float] | None = None
    icl_examples: float | None = None
    icl_reason: str = ""


class CandidatePart(ScoredPart, SpeedPart):
    """A student fine-tuned on `size` records: what it reached and what it cost.

    Attributes:
        scores: by metric, all that were measured.
        score_error: standard error of the score; `score_low`: what it is at least, but for a chance of
            `test_rate`.
        test_rate: its own share of promotion.error_rate; None where it was not tested.
        test_place: its place in the order of the tests, from 1 on; None where there is no order.
        passes: it is shown to be good enough.
        gain: how much better it is than the constant answer on the same records, `gain_error` its standard
            error; None where that was not measured.
        ece: expected calibration error of its probabilities; None where it gives none.
        unparsable: eval answers that name no class, or hold a broken call; they count as wrong.
        train_seconds: of the training itself, also where an earlier run had done it.
        records_per_second: in training.
        adapter: key of the LoRA adapter in the artifact root, `adapters/<key>`.
        found: the training was found done, and nothing was trained in this run.
    """

    student: str
    parameters: int | None = None
    size: int
    state: State = "scored"
    reason: str = ""
    score_error: float | None = None
    score_low: float | None = None
    test_rate: float | None = None
    test_place: int | None = None
    passes: bool | None = None
    gain: float | None = None
    gain_error: float | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    ece: float | None = None
    unparsable: int | None = None
    eval_records: int | None = None
    train_seconds: float | None = None
    records_per_second: float | None = None
    adapter: str | None = None
    evaluation: str | None = None
    found: bool = False

    @property
    def name(self) -> str:
        """The name in texts: `1b @ 5000`."""
        return f"{self.student} @ {self.size}"


class BaselinePart(ReportPart):
    """TF-IDF and logistic regression on `size` records.

    Attributes:
        score: by the report's metric.
        scores: by metric, all that were measured.
    """

    size: int
    score: float
    score_ci95: tuple[float, float] | None = None
    scores: dict[str, float]


class ClassPart(ReportPart):
    """How well one class is found by the best candidate; `support` counts its eval records."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class BestPart(ScoredPart):
    """The candidate with the highest score, class by class, and how far its probabilities can be trusted.

    Attributes:
        cascade: from which probability on it would answer by itself; None: no cascade is asked for.
        teacher_each: what an answer of the teacher costs, by this run's calls; None where that is not known.
    """

    student: str
    size: int
    per_class: list[ClassPart] = Field(default_factory=list)
    confusion: ConfusionPart | None = None
    calibration: Calibration | None = None
    cascade: Cascade | None = None
    teacher_each: float | None = None


class ConflictPart(ReportPart):
    """Two records of one text with different labels: `kept` stays, `other` is left out (record ids)."""

    kept: str
    kept_label: str
    kept_by: str
    other: str
    other_label: str
    other_by: str


class DataPart(ReportPart):
    """The records behind the run, as far as the stages told (None: not known).

    Attributes:
        foretold: answers that would be asked, as the plan said beforehand; `foretold_cost` in teacher.prices.
        labelled: headlines with the teacher's label.
        marked: headlines that hold special tokens, an answer's marks or the prompt's last line, by which.
        stored: records that were new in the store.
        records: in the store before the cutoff, or `limit` of them; `used` of them without duplicates.
        split: temporal or random. `known`: by part, when its first and last record were known, unix seconds.
        events: that the records used report, each counted once.
        left_out: in the gap of a temporal split, or of an event that reaches into a later part.
        conflicts: duplicates with another label than the record that stays; the first are in
            `conflict_examples`.
        labelled_by: of the records used, by who labelled them.
        other_prompts: left out, as they were labelled under another version of the prompt, or one that
            is not known; `removed_classes`, as their class no longer exists.
        taken_over: records of other versions of the prompt whose labels hold by the workload file.
        per_class: counts by class and split.
        quarantined: set aside, by stage; `reasons` counts them by what is wrong, but for bad rows of label.
        sources: from when to when the texts of each are, a sentence each.
    """

    dataset: str | None = None
    foretold: int | None = None
    foretold_cost: float | None = None
    labelled: int | None = None
    marked: dict[str, int] = Field(default_factory=dict)
    stored: int | None = None
    records: int | None = None
    used: int | None = None
    train: int | None = None
    validation: int | None = None
    calibration: int | None = None
    eval: int | None = None
    split: Literal["temporal", "random"] | None = None
    known: dict[str, tuple[int, int]] = Field(default_factory=dict)
    events: int | None = None
    left_out: int | None = None
    conflicts: int | None = None
    conflict_examples: list[ConflictPart] = Field(default_factory=list)
    labelled_by: dict[str, int] = Field(default_factory=dict)
    exact_duplicates: int | None = None
    near_duplicates: int | None = None
    other_prompts: int | None = None
    removed_classes: int | None = None
    taken_over: int | None = None
    stratified: bool | None = None
    notes: list[str] = Field(default_factory=list)
    per_class: dict[str, dict[str, int]] = Field(default_factory=dict)
    quarantined: dict[str, int] = Field(default_factory=dict)
    reasons: dict[str, int] = Field(default_factory=dict)
    sources: list[str] = Field(default_factory=list)


class ChampionPart(ScoredPart):
    """A candidate that serves, or is to serve, in production."""

    student: str
    size: int
    reason: str = ""
    parameters: int | None = None
    adapter: str | None = None
    run_id: str | None = None
    promoted_at: str | None = None
    registry: str | None = None


class Remeasured(ScoredPart):
    """A champion from an earlier run, on this run's eval set."""

    adapter: str


class DecisionPart(ReportPart):
    """What became of this run's choice.

    Attributes:
        state: pending: not decided yet. promoted: it is the new champion. in place: it was the champion
            already. rejected: a person said no. none: no candidate was good enough. held: a person's
            roll-back or rejection holds. would be promoted: of a night in the past, at its cutoff. outdated:
            of reports of before, an older run's.
        in_past: the night lies in the past: it says what would be in production, and changed nothing.
        threshold: what the lower bound of a candidate's score had to reach; None where nothing was scored.
        choice: the cheapest candidate whose bound did.
        tested: candidates that the error rate is kept over.
        error_rate: chance that a candidate passes which is not good enough, over all that were tested.
        test: what was tested, and how sure it is, in plain words.
        doubts: why nothing is promoted without a person; empty where nothing speaks against it.
        sequence: number of the last decision on the champion when this run was scored, 0: there was none yet;
            None of reports from before decisions had numbers.
        comparison: the choice beside the champion in force, on the same records.
        persons: the choice checked against persons' labels; None where there are none.
        reason: why it was chosen, or why none was.
        outcome: what that means for production; empty until it is decided.
        worse: what is in production now scores lower than what was there before, or, unchanged, lower on
            this run's eval set than its recorded 95 % interval.
    """

    state: Literal[
        "pending", "promoted", "in place", "rejected", "none", "held", "would be promoted", "outdated"
    ] = "pending"
    in_past: bool = False
    threshold: float | None = None
    choice: ChampionPart | None = None
    tested: int = 0
    error_rate: float | None = None
    test: list[str] = Field(default_factory=list)
    doubts: list[str] = Field(default_factory=list)
    sequence: int | None = None
    comparison: ComparisonPart | None = None
    persons: PersonsPart | None = None
    reason: str = ""
    outcome: str = ""
    comment: str = ""
    worse: bool = False


class JudgePart(ReportPart):
    """The LLM that rated answers.

    Attributes:
        asked: ratings asked for in this run; `found` were there before, `given` follow without asking.
        unusable: pairs of answers without a rating, which are in no mean.
        consistent: share of the pairs whose two orders were rated equally, to within one step of the scale.
        first_shown: mean rating with the teacher's answer first less that with the student's first.
    """

    model: str
    asked: int = 0
    found: int = 0
    given: int = 0
    unusable: int = 0
    consistent: float | None = None
    first_shown: float | None = None


class TrackingPart(ReportPart):
    """Where MLflow has this run.

    Attributes:
        artifact_uri: where the run's files are.
        registered: key of the adapter that the alias `champion` named when the run was scored.
    """

    uri: str
    experiment: str
    run_id: str
    artifact_uri: str = ""
    registered: str | None = None


class Report(ReportPart):
    """All that a run found out.

    Attributes:
        workload_type: classification, tool_calling or generic.
        metric: what scores are.
        judge: the judge that rated the answers, and what became of its ratings; None without one.
        other_split: None where it was not measured.
        champion: this run's choice once it is in production; None where it is not, for whatever reason.
        production: what is in production after this run, from whatever run; of a night in the past, what
            would be at its cutoff.
        remeasured: the champion that was there before, on this run's eval set.
        verdict: plain sentences, the most important first.
        warnings: what did not work and did not matter enough to stop the run.
        cost: what the run itself used, and what that cost; None of reports from before that was kept.
        stages: seconds by stage; where jobs of one stage overlap, the time counts once.
    """

    run_id: str
    workload_id: str
    client_id: str
    cutoff: int
    created_at: str
    workload_type: WorkloadType = "classification"
    metric: MetricPart
    judge: JudgePart | None = None
    teacher: TeacherPart
    base: list[BasePart] = Field(default_factory=list)
    candidates: list[CandidatePart] = Field(default_factory=list)
    baseline: list[BaselinePart] = Field(default_factory=list)
    constant: ConstantPart | None = None
    other_split: OtherSplitPart | None = None
    best: BestPart | None = None
    champion: ChampionPart | None = None
    production: ChampionPart | None = None
    remeasured: Remeasured | None = None
    decision: DecisionPart = DecisionPart()
    verdict: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    data: DataPart = DataPart()
    counters: dict[str, int] = Field(default_factory=dict)
    cost: CostPart | None = None
    stages: dict[str, float] = Field(default_factory=dict)
    tracking: TrackingPart | None = None

    @property
    def scored(self) -> list[CandidatePart]:
        """The candidates that have a result."""
        return [row for row in self.candidates if row.state == "scored"]

    @property
    def has_icl(self) -> bool:
        """Whether the untrained students were measured with examples in their prompts, too."""
        return any(row.icl_score is not None or row.icl_reason for row in self.base)

    @property
    def sizes(self) -> list[int]:
        """The sizes of the table, rising."""
        return sorted({row.size for row in self.candidates} | {row.size for row in self.baseline})

    @property
    def students(self) -> list[str]:
        """The students of the table, in the order of the config."""
        names = [row.student for row in self.base] + [row.student for row in self.candidates]
        return list(dict.fromkeys(names))

    def candidate(self, student: str, size: int) -> CandidatePart | None:
        """Return that candidate; None where the plan does not have it."""
        return next((row for row in self.candidates if (row.student, row.size) == (student, size)), None)

    def json_bytes(self) -> bytes:
        """Return `report.json`."""
        data: dict[str, Any] = self.model_dump(mode="json")
        return orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def read(cls, folder: Path) -> Report:
        """Read the report of a run's folder."""
        return cls.model_validate(orjson.loads((folder / REPORT_FILE).read_bytes()))
