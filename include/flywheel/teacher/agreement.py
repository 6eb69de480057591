"""How far the teacher agrees with people: its labels against the human ones, where a source has them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import BaseModel, ConfigDict

from flywheel.config.schema import Gate
from flywheel.errors import TeacherError
from flywheel.workload import Workload

# Stands for "no usable answer"; no class is called so, since names have letters.
_NO_ANSWER = "-"


class Agreement(BaseModel):
    """The teacher's labels measured against human labels.

    Attributes:
        records: headlines compared. An answer without a usable class counts as wrong.
        unknown: headlines whose human label is none of the classes or aliases; not compared.
        accuracy, f1_weighted, f1_macro: between 0 and 1; macro is over the classes that occur.
        per_class: precision, recall, f1 and support of each class that occurs.
    """

    model_config = ConfigDict(frozen=True)

    records: int
    unknown: int
    accuracy: float
    f1_weighted: float
    f1_macro: float
    per_class: dict[str, dict[str, float]]


class AgreementCounter:
    """Counts pairs of labels, so that a million headlines take no more memory than ten."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._pairs: Counter[tuple[str, str]] = Counter()
        self.unknown: Counter[str] = Counter()

    def add(self, human_label: str, teacher_label: str | None) -> None:
        """Count one headline; None is an answer that names no class."""
        human = self._workload.label_of(human_label)
        if human is None:
            self.unknown[human_label[:80]] += 1
        else:
            self._pairs[human, teacher_label or _NO_ANSWER] += 1

    def result(self) -> Agreement | None:
        """Return the figures; None if no headline had a human label that is a class."""
        if not self._pairs:
            return None
        # Imported here: it takes a second, which a DAG file that imports this package must not wait for.
        from sklearn.metrics import precision_recall_fscore_support

        pairs = sorted(self._pairs)
        human, teacher = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        weights = [self._pairs[pair] for pair in pairs]
        there = {*human, *teacher}
        classes = [name for name in self._workload.classes if name in there]
        arguments: dict[str, Any] = {"labels": classes, "sample_weight": weights, "zero_division": 0}
        columns = precision_recall_fscore_support(human, teacher, **arguments)
        per_class = {
            name: {
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
                "support": float(support),
            }
            for name, precision, recall, f1, support in zip(classes, *columns, strict=True)
        }
        total = sum(weights)
        return Agreement(
            records=total,
            unknown=self.unknown.total(),
            accuracy=sum(n for (a, b), n in self._pairs.items() if a == b) / total,
            f1_weighted=sum(row["f1"] * row["support"] for row in per_class.values()) / total,
            f1_macro=sum(row["f1"] for row in per_class.values()) / len(per_class),
            per_class=per_class,
        )


def check_gate(agreement: Agreement | None, gate: Gate) -> None:
    """Stop a run whose teacher people do not agree with.

    Raises:
        TeacherError: with the figures and the worst classes.
    """
    if agreement is None or agreement.records < gate.min_records:
        return
    if agreement.f1_weighted >= gate.min_f1_weighted:
        return
    worst = sorted(agreement.per_class.items(), key=lambda item: item[1]["f1"])[:3]
    classes = ", ".join(f"{name} {row['f1']:.2f}" for name, row in worst)
    raise TeacherError(
        f"the teacher reached a weighted F1 of {agreement.f1_weighted:.3f} against {agreement.records} human "
        f"labels, teacher.gate.min_f1_weighted asks for {gate.min_f1_weighted:g} (accuracy "
        f"{agreement.accuracy:.3f}; the lowest classes: {classes}). Improve the prompt in the workload file, "
        f"take another teacher, or lower the gate"
    )
