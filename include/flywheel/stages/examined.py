"""What a student answered in an evaluation: scored, and kept with all that the figures are made from."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.evaluation.cost import median_interval
from flywheel.evaluation.icl import own_texts
from flywheel.evaluation.injections import injected, outcome
from flywheel.jobs.result import EvaluateResult, Injections, Latency
from flywheel.jobs.spec import RESULT, EvaluateSpec
from flywheel.workloads.metrics import main_metric
from flywheel.workloads.scores import Confusion

if TYPE_CHECKING:
    from flywheel.students.answering import Answers
    from flywheel.students.calibration import Probabilities
    from flywheel.students.comparing import Compared

log = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"
INJECTIONS = "injections.jsonl"


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a student answered.

    Attributes:
        seconds: answering all prompts, all that this takes.
        answered: prompts in the steady part.
        steady_seconds: of those, without a warm-up.
        waits: milliseconds that each of those waited for its answer.
        batch_size: prompts in a batch, or in flight at once.
        warmup_seconds: the batch thrown away; None where there was none.
        alone: milliseconds of a few prompts, each answered alone.
        each: seconds an answer in each of the batches.
    """

    seconds: float
    answered: int
    steady_seconds: float
    waits: Sequence[float]
    batch_size: int | None
    warmup_seconds: float | None = None
    alone: Sequence[float] = ()
    each: Sequence[float] = ()

    @classmethod
    def of(cls, answers: Answers[Any], seconds: float) -> Speed:
        """Return how fast answers were given, all of it in so many seconds."""
        sizes = Counter(answers.batch_of)
        return cls(
            seconds=seconds,
            answered=len(answers.given),
            steady_seconds=sum(answers.batch_seconds),
            waits=[answers.batch_seconds[batch] * 1e3 for batch in answers.batch_of],
            batch_size=answers.batch_size or None,
            warmup_seconds=answers.warmup_seconds,
            alone=[second * 1e3 for second in answers.single_seconds],
            each=[second / max(1, sizes[place]) for place, second in enumerate(answers.batch_seconds)],
        )


@dataclass(frozen=True, slots=True)
class Examined:
    """A student's answers, wherever it gave them.

    Attributes:
        records: of the eval set, with the teacher's labels.
        texts: the answers, in the same order; "" for none.
        speed: how fast it answered.
        device: where.
        parameters: of the student with its adapter.
        instructed: the answers to `flywheel.evaluation.injections.injected`; empty where those were not
            asked.
        examples: in a prompt on average; None where none were asked for.
        unanswered: prompts that were not asked.
        notes: in sentences, why not.
        probabilities: of the answers to the records at the places `fitting`; None where it gave none.
    """

    records: Sequence[dict[str, Any]]
    texts: Sequence[str]
    speed: Speed
    device: str
    parameters: int | None
    instructed: Sequence[str] = ()
    examples: float | None = None
    unanswered: int = 0
    notes: tuple[str, ...] = ()
    probabilities: Probabilities | None = None
    fitting: Sequence[int] = ()


def keep_evaluation(root: ArtifactRoot, key: str, spec: EvaluateSpec, examined: Examined) -> EvaluateResult:
    """Score a student's answers and keep them."""
    from flywheel.students.comparing import compare

    evaluation = spec.evaluation.of_type(spec.workload_type)
    compared = compare(examined.records, examined.texts, evaluation, spec.classes, spec.aliases)
    told = injected(spec, examined.records) if examined.instructed else []
    injections, instructions = outcome(spec, told, examined.instructed, examined.texts)
    result = _result(key, spec, examined, compared, injections if told else None)
    with root.build("evaluations", key) as folder:
        (folder / PREDICTIONS).write_bytes(_lines(_predictions(examined, compared)))
        if instructions:
            (folder / INJECTIONS).write_bytes(_lines(instructions))
        (folder / RESULT).write_bytes(result.model_dump_json(indent=2).encode() + b"\n")
    main = main_metric(result.workload_type)
    log.info(
        "evaluation %s: %s %.3f, %.0f records/s",
        key,
        main.title[0].lower() + main.title[1:],
        result.scores[main.name],
        result.records_per_second,
    )
    return result


def _result(
    key: str, spec: EvaluateSpec, examined: Examined, compared: Compared, injections: Injections | None
) -> EvaluateResult:
    labels, speed = compared.labels, examined.speed
    return EvaluateResult(
        key=key,
        student=spec.student.name,
        size=spec.size,
        adapter=spec.adapter,
        records=len(examined.records),
        workload_type=spec.workload_type,
        scores=compared.scores,
        intervals=compared.intervals,
        per_class=labels.per_class if labels else {},
        unparsable=compared.unparsable,
        unanswered=examined.unanswered,
        notes=examined.notes,
        injections=injections,
        icl_examples=examined.examples,
        seconds=speed.seconds,
        records_per_second=speed.answered / max(speed.steady_seconds, 1e-9),
        latency_ms=_latency(speed.waits) or Latency(p50=0.0, p95=0.0),
        answer_seconds=median_interval(speed.each),
        batch_size=speed.batch_size,
        warmup_seconds=speed.warmup_seconds,
        single_ms=_latency(speed.alone),
        parameters=examined.parameters,
        calibration=examined.probabilities.calibration if examined.probabilities else None,
        predictions=f"evaluations/{key}/{PREDICTIONS}",
        confusion=labels.confusion if labels else Confusion(labels=(), matrix=()),
        found=False,
        device=examined.device,
    )


def _predictions(examined: Examined, compared: Compared) -> Iterator[dict[str, Any]]:
    """Yield of each record what the teacher and the student said."""
    own = own_texts([record["messages"][:-1] for record in examined.records])
    found = examined.probabilities
    likely = dict(zip(examined.fitting, found.lines(), strict=True)) if found else {}
    answers = zip(compared.teacher, compared.student, examined.texts, strict=True)
    for index, (record, (teacher, answer, text)) in enumerate(zip(examined.records, answers, strict=True)):
        yield {
            "id": record["id"],
            "text": own[index],
            "teacher": teacher,
            "student": answer,
            "answer": text,
            **({"probabilities": likely[index]} if index in likely else {}),
            **({"label": record["label"]} if compared.each else {}),
            **{name: values[index] for name, values in compared.each.items()},
        }


def _lines(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


def _latency(waits: Sequence[float]) -> Latency | None:
    """Return the percentiles of waits in milliseconds; None without any."""
    if not len(waits):
        return None
    p50, p95 = np.percentile(waits, [50, 95])
    return Latency(p50=float(p50), p95=float(p95))
