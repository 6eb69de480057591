"""Parts of the report that a verdict is checked by: another split, the champion in force, persons' labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flywheel.report import figures
from flywheel.report.parts import ReportPart


class SplitScore(ReportPart):
    """TF-IDF and logistic regression on one split of the records, by the part's metric."""

    score: float
    score_ci95: tuple[float, float]
    eval_records: int


class OtherSplitPart(ReportPart):
    """What the other way to split the same records would have shown, by TF-IDF and logistic regression.

    Attributes:
        split: the other one.
        metric: what both were measured by.
        size: training records of both.
        here: on the run's split; `there`: on the other.
    """

    split: Literal["temporal", "random"]
    metric: str
    size: int
    here: SplitScore
    there: SplitScore

    @property
    def differs(self) -> bool:
        """Whether the two are further apart than their 95 % intervals reach."""
        one, other = self.here.score_ci95, self.there.score_ci95
        return one[0] > other[1] or other[0] > one[1]


class ConstantPart(ReportPart):
    """The most frequent answer of training, given to every eval record: what each candidate must beat.

    Attributes:
        answer: a class, calls or a text, as people read it.
        metric: of `score`: the report's, or the workload type's own where a judge alone has the report's.
        scores: by metric, all that were measured.
        evaluation: key of its answers in the artifact root, `evaluations/<key>`.
    """

    answer: str
    metric: str
    score: float | None
    scores: dict[str, float] = Field(default_factory=dict)
    evaluation: str


class ComparisonPart(ReportPart):
    """The choice beside the champion in force, by a paired test on the same records.

    Attributes:
        champion: its adapter.
        metric: what both were measured by: the report's, or one that each record has.
        records: eval records that the champion has not learned from; `seen` more were left out.
        difference: score of the choice less the champion's; `low`: what it is at least, but for a chance of
            the decision's error_rate.
        needed: what `low` must reach: 0, or of a cheaper choice minus what is left of promotion.margin.
        passes: it does.
    """

    champion: str
    metric: str
    records: int
    seen: int
    difference: float
    low: float
    needed: float
    passes: bool


class PersonsPart(ReportPart):
    """The verdict checked against persons' labels, on the eval records that have one.

    Attributes:
        student, size: the choice; where there is none, the best candidate.
        records: eval records whose text a person labelled, known before the cutoff.
        teacher: weighted F1 of the teacher's labels by theirs; `answers`: of the candidate's answers. None
            with too few records to say anything.
        difference: `answers` less `teacher`; `high`: what it is at most, but for a chance of the decision's
            error_rate.
        allowed: what the verdict lets the candidate lose against the teacher.
        contradicts: it loses more than that, by more than chance.
    """

    student: str
    size: int
    records: int
    teacher: float | None = None
    teacher_ci95: tuple[float, float] | None = None
    answers: float | None = None
    answers_ci95: tuple[float, float] | None = None
    difference: float | None = None
    high: float | None = None
    allowed: float
    contradicts: bool = False

    def sentence(self) -> str:
        """Say it in words."""
        if self.records == 0:
            return (
                "No eval record has a label of a person with a time: persons' labels check the teacher alone."
            )
        if self.teacher is None or self.answers is None or self.difference is None or self.high is None:
            return (
                f"Persons labelled {figures.count(self.records)} of the eval records, too few to check the "
                "verdict by."
            )
        found = (
            f"by the labels that persons gave to {figures.count(self.records)} of the eval records, the "
            f"teacher's have a weighted F1 of {_with(self.teacher, self.teacher_ci95)} and the answers of "
            f"{self.student} @ {self.size} {_with(self.answers, self.answers_ci95)}"
        )
        side = "below" if self.difference < 0 else "above"
        apart = f"{figures.f1(abs(self.difference))} {side} the teacher"
        allowed = f"the {figures.f1(self.allowed)} that the verdict lets it lose"
        if self.contradicts:
            return (
                f"Persons contradict the verdict: {found}. That is {apart}, but for chance at least "
                f"{figures.f1(-self.high)} below, more than {allowed}."
            )
        found = f"{found[:1].upper()}{found[1:]}"
        if self.difference < -self.allowed:
            return f"{found}. That is {apart}, more than {allowed}, but it may be chance."
        return f"{found}. That is {apart}, within {allowed}."


def _with(score: float, interval: tuple[float, float] | None) -> str:
    return f"{figures.f1(score)} ({figures.interval(interval)})"
