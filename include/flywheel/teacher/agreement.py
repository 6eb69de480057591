"""How far the teacher agrees with people: its labels against the human ones, where a source has them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from flywheel.common.errors import UnusableTeacherError
from flywheel.config.teacher import Gate
from flywheel.workloads.workload import Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Stands for "no usable answer"; no class is called so, since names have letters.
_NO_ANSWER = ""
BOOTSTRAP_SAMPLES = 1000

Interval = tuple[float, float]


class HumanDisagreement(BaseModel):
    """A headline that the teacher and a person label differently; `teacher` is empty without a class."""

    model_config = ConfigDict(frozen=True)

    text: str
    human: str
    teacher: str
    confidence: float | None = None


class HumanConfusion(BaseModel):
    """Counts of headlines: a row for each class that people gave, a column for each of the teacher's.

    The last column counts answers that name no class.
    """

    model_config = ConfigDict(frozen=True)

    labels: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]


class Agreement(BaseModel):
    """The teacher's labels measured against human labels.

    Attributes:
        records: headlines compared. An answer without a usable class counts as wrong.
        unknown: headlines whose human label is none of the classes or aliases; not compared.
        scores: f1_weighted, f1_macro (over the classes that occur) and accuracy, each between 0 and 1.
        intervals: 95 % by the bootstrap, of both F1.
        per_class: precision, recall, f1, f1_low, f1_high and support of each class that occurs.
        disagreements: the first of them; all are in the run's file of disagreements.
    """

    model_config = ConfigDict(frozen=True)

    records: int
    unknown: int
    scores: dict[str, float]
    intervals: dict[str, Interval]
    per_class: dict[str, dict[str, float]]
    confusion: HumanConfusion | None = None
    disagreements: tuple[HumanDisagreement, ...] = ()


class AgreementCounter:
    """Counts pairs of labels, so that a million headlines take no more memory than ten.

    Args:
        bootstrap_samples: resamples behind the intervals.
        seed: of the resamples.
        examples: so many disagreements are kept in the result.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        bootstrap_samples: int = BOOTSTRAP_SAMPLES,
        seed: int = 0,
        examples: int = 100,
    ) -> None:
        self._workload = workload
        self._samples = bootstrap_samples
        self._seed = seed
        self._examples = examples
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._disagreements: list[HumanDisagreement] = []
        self.records = 0
        self.unknown: Counter[str] = Counter()

    def add(
        self, human_label: str, teacher_label: str | None, text: str = "", confidence: float | None = None
    ) -> HumanDisagreement | None:
        """Count one headline; None is an answer that names no class. Returns it if they disagree."""
        human = self._workload.label_of(human_label)
        if human is None:
            self.unknown[human_label[:80]] += 1
            return None
        teacher = teacher_label or _NO_ANSWER
        self._pairs[human, teacher] += 1
        self.records += 1
        if human == teacher:
            return None
        found = HumanDisagreement(text=text, human=human, teacher=teacher, confidence=confidence)
        if len(self._disagreements) < self._examples:
            self._disagreements.append(found)
        return found

    def result(self) -> Agreement | None:
        """Return the figures; None if no headline had a human label that is a class."""
        if not self._pairs:
            return None
        # Imported here: it takes a second, which a DAG file that imports this package must not wait for.
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

        from flywheel.workloads.scoring import bootstrap_f1, interval95

        pairs = sorted(self._pairs)
        human, teacher = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        weights = [self._pairs[pair] for pair in pairs]
        there = {*human, *teacher}
        classes = [name for name in self._workload.classes if name in there]
        precision, recall, f1, support = precision_recall_fscore_support(
            human, teacher, labels=classes, sample_weight=weights, zero_division=0
        )
        matrix: NDArray[np.int64] = confusion_matrix(
            human, teacher, labels=[*classes, _NO_ANSWER], sample_weight=weights
        )[:-1].astype(int)
        f1_drawn, support_drawn = bootstrap_f1(matrix, self._samples, self._seed)
        by_class = [interval95(f1_drawn[:, index]) for index in range(len(classes))]
        # A class that a resample lacks says nothing about its F1 there.
        occurs = (support_drawn > 0) | (support == 0)
        total = self.records
        return Agreement(
            records=total,
            unknown=self.unknown.total(),
            scores={
                "f1_weighted": float((f1 * support).sum() / total),
                "f1_macro": float(f1.mean()),
                "accuracy": float(matrix.trace() / total),
            },
            intervals={
                "f1_weighted": interval95((f1_drawn * support_drawn).sum(1) / total),
                "f1_macro": interval95((f1_drawn * occurs).sum(1) / occurs.sum(1)),
            },
            per_class={
                name: {
                    "precision": float(precision[index]),
                    "recall": float(recall[index]),
                    "f1": float(f1[index]),
                    "f1_low": by_class[index][0],
                    "f1_high": by_class[index][1],
                    "support": float(support[index]),
                }
                for index, name in enumerate(classes)
            },
            confusion=HumanConfusion(
                labels=tuple(classes), matrix=tuple(tuple(map(int, row)) for row in matrix)
            ),
            disagreements=tuple(self._disagreements),
        )


def check_gate(agreement: Agreement | None, gate: Gate, *, is_all: bool = True) -> None:
    """Stop a run whose teacher people do not agree with.

    Args:
        is_all: False: more human labels are to come, and the gate stops the run only where the whole 95 %
            interval lies below it.

    Raises:
        UnusableTeacherError: with the figures and the worst classes.
    """
    if agreement is None or agreement.records < gate.min_records:
        return
    for name, least in (("weighted", gate.min_f1_weighted), ("macro", gate.min_f1_macro)):
        value, (low, high) = agreement.scores[f"f1_{name}"], agreement.intervals[f"f1_{name}"]
        judged = high if not is_all else low if gate.judge == "interval" else value
        if judged >= least:
            continue
        worst = sorted(agreement.per_class.items(), key=lambda item: item[1]["f1"])[:3]
        classes = ", ".join(f"{name} {row['f1']:.2f}" for name, row in worst)
        raise UnusableTeacherError(
            f"the teacher reached a {name} F1 of {value:.3f} (95 % interval {low:.3f} to {high:.3f}) against "
            f"{agreement.records} human labels, teacher.gate.min_f1_{name} asks for {least:g} (accuracy "
            f"{agreement.scores['accuracy']:.3f}; the lowest classes: {classes}). Improve the prompt in the "
            f"workload file, take another teacher, or lower the gate"
        )
