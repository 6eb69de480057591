"""Stage 5, evaluate: have a student answer the held-out prompts, compare its answers with the teacher's."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.common.parts import Parts
from flywheel.evaluation.cost import median_interval
from flywheel.evaluation.icl import MOST_RECORDS, own_texts, with_examples
from flywheel.evaluation.injections import injected, outcome
from flywheel.jobs.families import family_of
from flywheel.jobs.progress import Progress, ProgressCallback
from flywheel.jobs.result import CustomizeResult, EvaluateResult, Latency
from flywheel.jobs.spec import RESULT, EvaluateSpec
from flywheel.stages.customize import read_records
from flywheel.workloads.metrics import main_metric
from flywheel.workloads.scores import Confusion
from flywheel.workloads.short_prompts import LOOKED_AT, ShortPrompt

if TYPE_CHECKING:
    from flywheel.students.answering import Answers
    from flywheel.students.calibration import Probabilities
    from flywheel.students.label_trie import LabelTrie

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


def evaluate(spec: EvaluateSpec, progress: ProgressCallback | None = None) -> EvaluateResult:
    """Evaluate a student with its adapter, or as it is, or find the evaluation made from the same input.

    Args:
        spec: the job.
        progress: told after each batch.

    Raises:
        StudentError: the student or its adapter cannot be loaded.
        ArtifactError: the dataset or the adapter is missing or damaged.
    """
    root, key = ArtifactRoot(spec.artifact_root), spec.key
    folder = root.lookup("evaluations", key)
    if folder is not None:
        result = EvaluateResult.model_validate_json((folder / RESULT).read_bytes())
        log.info("evaluation %s is there already", key)
        # The size is a name of the candidate and no part of the work.
        return result.model_copy(update={"found": True, "student": spec.student.name, "size": spec.size})
    result = family_of(spec.student).examine(root, key, spec, progress)
    return cast("EvaluateResult", result)


def choose_among(model: Any, prompts: Sequence[Any], trie: LabelTrie, **settings: Any) -> Answers[Any]:
    """Return the answers to prompts out of a closed set."""
    from flywheel.students.choosing import choose
    from flywheel.students.gpu.backend import gpu_choices

    return _by_the_fastest(gpu_choices, choose, model, prompts, trie, **settings)


def _answer(model: Any, prompts: Sequence[Any], stops: frozenset[int], **settings: Any) -> Answers[Any]:
    """Return the free answers to prompts."""
    from flywheel.students.generation import generate
    from flywheel.students.gpu.backend import gpu_answers

    return _by_the_fastest(gpu_answers, generate, model, prompts, stops, **settings)


def _by_the_fastest(
    gpu_path: Callable[..., Answers[Any] | None],
    clear_path: Callable[..., Answers[Any]],
    model: Any,
    *arguments: Any,
    **settings: Any,
) -> Answers[Any]:
    """Answer by the GPU path where it applies, else by the clear one."""
    from flywheel.students.decoder import answering_decoder

    decoder = answering_decoder(model)
    if decoder.device.type == "cpu":
        return clear_path(decoder, *arguments, **settings)
    answers = gpu_path(model, *arguments, **settings)
    return answers if answers is not None else clear_path(decoder, *arguments, **settings)


def answer_and_score(
    root: ArtifactRoot, key: str, spec: EvaluateSpec, progress: ProgressCallback | None
) -> EvaluateResult:
    """Have a causal LM answer the held-out prompts, and score and keep its answers."""
    from flywheel.students.adapter import load_adapter
    from flywheel.students.calibration import probabilities_of
    from flywheel.students.compile_cache import compile_cache
    from flywheel.students.label_trie import LabelTrie
    from flywheel.students.loading import count_parameters, device_name, load_student, prepare_process

    parts = Parts()
    short: ShortPrompt | None = None
    with parts.time("load"):
        records = read_eval_records(root, spec)
        device = prepare_process()
        student = load_student(spec.student, device)
        model = student.model
        if spec.adapter is not None:
            model = load_adapter(model, root.fetch("adapters", spec.adapter))
            short = short_prompt_of(root, spec)
    # Asked besides: texts with instructions in them, and the slice that probabilities are calibrated on.
    told, held = injected(spec, records), read_calibration_records(root, spec)
    requests = [record["messages"][:-1] for record in records]
    beside = [*(one.request for one in told), *(record["messages"][:-1] for record in held)]
    if short is not None:
        requests, beside = ([short.shorten(one) for one in several] for several in (requests, beside))
    tools = [record.get("tools") for record in (*records, *(records[one.place] for one in told), *held)]
    examples: float | None = None
    if spec.icl is not None:
        requests, examples = with_examples(
            records,
            read_training_records(root, spec),
            spec.icl,
            context_length=spec.student.context_length,
            answer_tokens=spec.evaluation.answer_tokens,
            measure=student.chat.lengths,
        )
    started = time.perf_counter()
    count = len(records)
    prompts, refused = student.chat.prompts([*requests, *beside], tools)
    longest = spec.student.context_length - spec.evaluation.answer_tokens
    asked_of = {at: one for at, one in enumerate(prompts) if one is not None and len(one) <= longest}
    fitting = [at for at in asked_of if at < count]
    dropped = refused.first(count)
    if too_long := count - len(fitting) - dropped.count:
        dropped.reasons["longer than the context"] += too_long
    notes = dropped.said([record["id"] for record in records], "prompts count as unanswered")
    for note in notes:
        log.warning("%s", note)

    def tell(done: int) -> None:
        if progress is not None:
            rate = done / max(time.perf_counter() - started, 1e-9)
            progress(Progress(done, len(asked), None, None, rate, (len(asked) - done) / rate))

    asked = list(asked_of.values())
    settings: dict[str, Any] = {"batch_size": spec.evaluation.batch_size, "progress": tell}
    probabilities: Probabilities | None = None
    with compile_cache(root, device.type):
        if spec.answers is None:
            longest_answer = spec.evaluation.answer_tokens
            answers = _answer(model, asked, student.chat.stops, max_new_tokens=longest_answer, **settings)
            given = answers.given
        else:
            trie = LabelTrie(student.chat.answers(requests[fitting[0] if fitting else 0], spec.answers))
            answers = choose_among(model, asked, trie, **settings)
            given = [choice.tokens for choice in answers.given]
            if spec.adapter is not None and fitting:
                of_slice = [at for at in asked_of if at >= count + len(told)]
                probabilities = probabilities_of(
                    spec.classes,
                    [records[at] for at in fitting],
                    [held[at - count - len(told)] for at in of_slice],
                    [*answers.given[: len(fitting)], *answers.given[len(asked) - len(of_slice) :]],
                )
    texts = [""] * (count + len(told))
    for at, tokens in zip(asked_of, given, strict=True):
        if at < len(texts):
            texts[at] = student.chat.text(tokens)
    seconds = time.perf_counter() - started
    parts.add("answer", seconds)
    speed = Speed.of(answers, seconds)
    with parts.time("score"):
        result = keep_evaluation(
            root,
            key,
            spec,
            records,
            texts[:count],
            instructed=texts[count:],
            speed=speed,
            parameters=count_parameters(model)[0],
            device=device_name(device.type),
            examples=examples,
            unanswered=count - len(fitting),
            notes=notes,
            probabilities=probabilities,
            fitting=fitting,
        )
    student.keep(model)
    return result.model_copy(update={"parts": parts.seconds})


def read_eval_records(root: ArtifactRoot, spec: EvaluateSpec) -> list[dict[str, Any]]:
    """Return the held-out records of a dataset.

    Raises:
        ArtifactError: the dataset is missing or damaged, or has none.
    """
    records = read_records(root.fetch("datasets", spec.dataset) / "eval.jsonl")
    if not records:
        raise ArtifactError(f"dataset {spec.dataset}: eval.jsonl is empty")
    return records


def read_calibration_records(root: ArtifactRoot, spec: EvaluateSpec) -> list[dict[str, Any]]:
    """Return the records that probabilities are calibrated on; none where there is nothing to calibrate.

    Raises:
        ArtifactError: the dataset is missing or damaged.
    """
    path = root.fetch("datasets", spec.dataset) / "calibration.jsonl"
    chooses = spec.answers is not None or spec.student.family != "causal_lm"
    if not chooses or spec.adapter is None or not path.exists():
        return []
    return read_records(path)


def short_prompt_of(root: ArtifactRoot, spec: EvaluateSpec) -> ShortPrompt | None:
    """Return what the prompts of an evaluation leave out; None: the student is asked whole ones.

    By what tonight's prompts share: a champion may have been trained under another prompt.

    Raises:
        ArtifactError: the dataset or the adapter is missing or damaged.
    """
    if spec.adapter is None:
        return None
    result = root.fetch("adapters", spec.adapter) / RESULT
    if not result.exists() or CustomizeResult.model_validate_json(result.read_bytes()).short_prompt is None:
        return None
    return ShortPrompt.of(read_training_records(root, spec, LOOKED_AT))


def read_training_records(
    root: ArtifactRoot, spec: EvaluateSpec, most: int = MOST_RECORDS
) -> list[dict[str, Any]]:
    """Return the first training records: examples are taken from them, and what prompts share.

    Raises:
        ArtifactError: the dataset is missing or damaged.
    """
    return read_records(root.fetch("datasets", spec.dataset) / "train.jsonl", most)


def _latency(waits: Sequence[float]) -> Latency | None:
    """Return the percentiles of waits in milliseconds; None without any."""
    if not len(waits):
        return None
    p50, p95 = np.percentile(waits, [50, 95])
    return Latency(p50=float(p50), p95=float(p95))


def keep_evaluation(
    root: ArtifactRoot,
    key: str,
    spec: EvaluateSpec,
    records: Sequence[dict[str, Any]],
    texts: Sequence[str],
    *,
    instructed: Sequence[str] = (),
    speed: Speed,
    parameters: int | None,
    device: str,
    examples: float | None = None,
    unanswered: int = 0,
    notes: tuple[str, ...] = (),
    probabilities: Probabilities | None = None,
    fitting: Sequence[int] = (),
) -> EvaluateResult:
    """Score a student's answers and keep them, wherever it answered.

    Args:
        records: of the eval set, with the teacher's labels.
        texts: the answers, in the same order; "" for none.
        instructed: the answers to `flywheel.evaluation.injections.injected`; empty where those were not
        asked. speed: how fast it answered.
        parameters: of the student with its adapter.
        examples: in a prompt on average; None where none were asked for.
        unanswered: prompts that were not asked.
        notes: in sentences, why not.
        probabilities: of the answers to the records at the places `fitting`; None where it gave none.
    """
    from flywheel.students.comparing import compare

    evaluation = spec.evaluation.of_type(spec.workload_type)
    compared = compare(records, texts, evaluation, spec.classes, spec.aliases)
    labels = compared.labels
    told = injected(spec, records) if instructed else []
    injections, instructions = outcome(spec, told, instructed, texts)
    result = EvaluateResult(
        key=key,
        student=spec.student.name,
        size=spec.size,
        adapter=spec.adapter,
        records=len(records),
        workload_type=spec.workload_type,
        scores=compared.scores,
        intervals=compared.intervals,
        per_class=labels.per_class if labels else {},
        unparsable=compared.unparsable,
        unanswered=unanswered,
        notes=notes,
        injections=injections if told else None,
        icl_examples=examples,
        seconds=speed.seconds,
        records_per_second=speed.answered / max(speed.steady_seconds, 1e-9),
        latency_ms=_latency(speed.waits) or Latency(p50=0.0, p95=0.0),
        answer_seconds=median_interval(speed.each),
        batch_size=speed.batch_size,
        warmup_seconds=speed.warmup_seconds,
        single_ms=_latency(speed.alone),
        parameters=parameters,
        calibration=probabilities.calibration if probabilities else None,
        predictions=f"evaluations/{key}/{PREDICTIONS}",
        confusion=labels.confusion if labels else Confusion(labels=(), matrix=()),
        found=False,
        device=device,
    )
    own = own_texts([record["messages"][:-1] for record in records])
    likely = dict(zip(fitting, probabilities.lines(), strict=True)) if probabilities else {}
    with root.build("evaluations", key) as folder:
        with (folder / PREDICTIONS).open("wb") as file:
            answers = zip(compared.teacher, compared.student, texts, strict=True)
            for index, (record, (teacher, answer, text)) in enumerate(zip(records, answers, strict=True)):
                line = {
                    "id": record["id"],
                    "text": own[index],
                    "teacher": teacher,
                    "student": answer,
                    "answer": text,
                    **({"probabilities": likely[index]} if index in likely else {}),
                    **({"label": record["label"]} if compared.each else {}),
                    **{name: values[index] for name, values in compared.each.items()},
                }
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if instructions:
            lines = [orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in instructions]
            (folder / INJECTIONS).write_bytes(b"".join(lines))
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
