"""One answer for everything: the least that a student must beat.

It is the most frequent answer of the training records: of a classification the most frequent class, of tool
calls the most frequent calls of the most frequent functions, of free texts the most frequent text (of equally
frequent ones the earliest). It is examined on the eval set as a student is, and each candidate is compared
with it record by record. It costs no model, so a candidate that is not shown to be better has no use, however
near it is to the teacher on records of which nearly all have one answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.errors import ArtifactError
from flywheel.config.evaluation import WorkloadType
from flywheel.evaluation.answers import difference, read_answers
from flywheel.evaluation.choice import EPSILON
from flywheel.evaluation.statistics import bound_of_difference
from flywheel.jobs.result import EvaluateResult
from flywheel.report.baseline import MADE_OF, lines_of
from flywheel.report.checks import ConstantPart
from flywheel.report.model import CandidatePart
from flywheel.runs.plan import Plan
from flywheel.students.comparing import compare, teacher_calls
from flywheel.workloads.metrics import Metric, main_metric
from flywheel.workloads.tool_calls import calls_text, normal_text

CODE_VERSION = 1


@dataclass(frozen=True)
class Constant:
    """The constant answer of a data set: what the report shows, and its answers in the artifact root."""

    root: ArtifactRoot
    part: ConstantPart

    def beside(self, row: CandidatePart, found: EvaluateResult) -> None:
        """Write into a candidate how much better it is than the constant answer, on the same records."""
        score = found.scores.get(self.part.metric)
        if score is None or self.part.score is None:
            return
        # Without both answers side by side the constant's score is taken as it is.
        row.gain, row.gain_error = score - self.part.score, row.score_error
        try:
            new = read_answers(self.root, found.key, self.part.metric)
            old = read_answers(self.root, self.part.evaluation, self.part.metric)
        except ArtifactError:
            return
        if new.ids == old.ids:
            row.gain, row.gain_error = difference(new, old, range(len(new.ids)))


def beats_constant(row: CandidatePart, rate: float) -> bool:
    """Return whether a candidate is shown to be better than the constant answer, but for a chance of `rate`.

    Where there is no constant answer, nothing is asked.
    """
    if row.gain is None:
        return True
    return bound_of_difference(row.gain, row.gain_error or 0.0, rate) > EPSILON


def constant_of(
    root: ArtifactRoot, plan: Plan, dataset: str, workload_type: WorkloadType, metric: Metric
) -> Constant:
    """Return the constant answer of a data set, examined on its eval set; what was examined is found again.

    Args:
        metric: of the report; where only a judge has it, the workload type's own is taken.

    Raises:
        ArtifactError: there is no such data set, or it is damaged.
    """
    evaluation = plan.config.evaluation_config.of_type(workload_type)
    classes, aliases = plan.workload.classes, plan.workload.aliases
    names = [workload_type, list(classes), aliases, evaluation.bootstrap_samples]
    key = key_of("constant", CODE_VERSION, dataset, *names)
    if root.lookup("evaluations", key) is None:
        folder = root.fetch("datasets", dataset)
        answer, text = _most_frequent(lines_of(folder / "train.jsonl"), workload_type)
        records = list(lines_of(folder / "eval.jsonl"))
        compared = compare(records, [text] * len(records), evaluation, classes, aliases)
        lines = [
            {
                "id": record["id"],
                "teacher": compared.teacher[at],
                "student": compared.student[at],
                **({"label": record["label"]} if compared.each else {}),
                **{name: values[at] for name, values in compared.each.items()},
            }
            for at, record in enumerate(records)
        ]
        with root.build("evaluations", key) as aside:
            (aside / "predictions.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
            (aside / MADE_OF).write_bytes(orjson.dumps({"dataset": dataset}))
            (aside / "constant.json").write_bytes(orjson.dumps({"answer": answer, "scores": compared.scores}))
    found = orjson.loads((root.fetch("evaluations", key) / "constant.json").read_bytes())
    scores: dict[str, float] = found["scores"]
    name = metric.name if metric.name in scores else main_metric(workload_type).name
    part = ConstantPart(
        answer=found["answer"], metric=name, score=scores.get(name), scores=scores, evaluation=key
    )
    return Constant(root, part)


def _most_frequent(rows: Iterable[Mapping[str, Any]], workload_type: WorkloadType) -> tuple[str, str]:
    """Return the most frequent answer as people read it, and as a student would write it.

    Raises:
        ArtifactError: there are no records.
    """
    labels: Counter[str] = Counter()
    answers: dict[str, Counter[str]] = {}
    written: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        label, calls = row["label"], teacher_calls(row)
        content = str(row["messages"][-1].get("content") or "")
        is_text = not calls and workload_type == "generic"
        answer = " ".join(content.split()) if is_text else normal_text(calls) if calls else label
        labels[label] += 1
        answers.setdefault(label, Counter())[answer] += 1
        written.setdefault((label, answer), (answer, calls_text(calls) if calls else content))
    if not labels:
        raise ArtifactError("there are no training records")
    label = labels.most_common(1)[0][0]
    return written[label, answers[label].most_common(1)[0][0]]
