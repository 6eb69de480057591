"""What NeMo gave, as the other runtimes leave it: adapters and evaluations in the artifact root.

adapters/<key>/result.json     as every runtime writes it
adapters/<key>/nemo.json       {"output_model", "job", "base_model"}: the weights stay in NeMo
evaluations/<key>/…            predictions and scores, by our own scoring
"""

from __future__ import annotations

import logging
import time
from typing import Any

import orjson
from nemo_microservices.types.customization import CustomizationStatusDetails
from nemo_microservices.types.customization.customization_metric_value import CustomizationMetricValue
from pydantic import BaseModel

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, JobError
from flywheel.evaluation.icl import estimate, with_examples
from flywheel.jobs.result import CustomizeResult, EvaluateResult, LossPoint
from flywheel.jobs.settings import settle
from flywheel.jobs.spec import RESULT, CustomizeSpec, EvaluateSpec
from flywheel.runtimes.base import RefusedJobError
from flywheel.runtimes.nemo.job import NemoJob, steps_of
from flywheel.stages.customize import short_prompt_for
from flywheel.stages.evaluate import read_eval_records, read_training_records
from flywheel.stages.examined import Examined, Speed, keep_evaluation
from flywheel.students.comparing import compare, teacher_calls
from flywheel.workloads.tool_calls import normal_text, parse_calls

log = logging.getLogger(__name__)

POINTER = "nemo.json"
DEVICE = "NeMo"
# Our own figure of what the Evaluator is asked for, an equal string: the first that the workload's type has.
_LIKE_THE_EVALUATORS = ("accuracy", "function_name_accuracy", "exact_match")


class NemoTrained(BaseModel):
    """What a customization on NeMo ended with.

    Attributes:
        job: its id there.
        output_model: the adapter's name.
        parameters: of the student, as the Customizer's target states them; 0 where it does not.
    """

    job: str
    output_model: str
    parameters: int
    status: CustomizationStatusDetails


class NemoEvaluated(BaseModel):
    """What an evaluation on NeMo ended with.

    Attributes:
        parameters: of the student; 0 where NeMo does not say.
        evaluator: the Evaluator's accuracy of the same answers; None where it was not asked.
        examples: in a prompt on average; None where none were asked for.
        instructed: answers to texts with instructions in them (`flywheel.evaluation.injections`).
        in_flight: prompts asked at once, at most; None where an earlier version asked.
    """

    texts: list[str]
    instructed: list[str] = []
    milliseconds: list[float]
    seconds: float
    parameters: int
    evaluator: float | None = None
    examples: float | None = None
    in_flight: int | None = None


class NemoJobState(BaseModel):
    """How far a job is, in `X.nemo.json` beside its spec: what the next try goes on with.

    Attributes:
        dataset: the name of what was uploaded for it.
        customization, evaluation: ids of its jobs on NeMo.
    """

    dataset: str | None = None
    customization: str | None = None
    evaluation: str | None = None
    trained: NemoTrained | None = None
    answered: NemoEvaluated | None = None


def read_state(job: NemoJob) -> NemoJobState:
    """Return how far earlier tries of the same job came."""
    folder, name = split(job.state_url)
    if not folder.exists(name):
        return NemoJobState()
    written = folder.read_json(name)
    # Of another dataset or training, such as that of a cleared task after a change: no part of this job.
    return NemoJobState.model_validate(written["state"]) if written["key"] == job.key else NemoJobState()


def write_state(job: NemoJob, state: NemoJobState) -> None:
    """Keep how far the job is."""
    folder, name = split(job.state_url)
    folder.write_json(name, {"key": job.key, "state": state.model_dump(mode="json")})


def find(job: NemoJob) -> bool:
    """Return whether what the job would make is there."""
    kind = "adapters" if isinstance(job.spec, CustomizeSpec) else "evaluations"
    return ArtifactRoot(job.spec.artifact_root).lookup(kind, job.key) is not None


def model_of(spec: EvaluateSpec) -> str:
    """Return the name by which a NIM knows what is to be evaluated: the student, or its adapter.

    Raises:
        RefusedJobError: the adapter was made by another runtime.
    """
    if spec.adapter is None:
        return spec.student.model_name
    folder = ArtifactRoot(spec.artifact_root).fetch("adapters", spec.adapter)
    pointer = folder / POINTER
    if not pointer.exists():
        raise RefusedJobError(
            f"adapter {spec.adapter} was not made on NeMo, so no NIM there has it; evaluate it on the "
            "runtime that made it, or let this runtime make its own"
        )
    return str(orjson.loads(pointer.read_bytes())["output_model"])


def keep(job: NemoJob) -> None:
    """Write the result of a job beside its spec, as every runtime does."""
    root = ArtifactRoot(job.spec.artifact_root)
    state = read_state(job)
    if isinstance(job.spec, CustomizeSpec):
        result: CustomizeResult | EvaluateResult = _adapter(root, job, job.spec, state.trained)
    else:
        result = _evaluation(root, job, job.spec, state.answered)
    folder, name = split(job.spec_url.removesuffix(".spec.json") + ".json")
    folder.write_json(
        name,
        {"result": result.model_dump(mode="json"), "started_at": job.started_at, "ended_at": time.time()},
    )


def requests_of(
    spec: EvaluateSpec, records: list[dict[str, Any]]
) -> tuple[list[list[dict[str, Any]]], float | None]:
    """Return the prompts of an evaluation, and how many examples they have on average, if it asks for any.

    The tokenizer is NeMo's, so whether examples have room is estimated.
    """
    if spec.icl is None:
        return [record["messages"][:-1] for record in records], None
    return with_examples(
        records,
        read_training_records(ArtifactRoot(spec.artifact_root), spec),
        spec.icl,
        context_length=spec.student.context_length,
        answer_tokens=spec.evaluation.answer_tokens,
        measure=estimate,
    )


def compared(
    spec: EvaluateSpec, records: list[dict[str, Any]], texts: list[str]
) -> tuple[list[str], list[str]]:
    """Return what NeMo Evaluator compares of each record: classes, or calls in one form, or texts."""
    if spec.workload_type == "tool_calling":
        return (
            [normal_text(teacher_calls(record)) for record in records],
            [normal_text(parse_calls(text)) if text.strip() else "" for text in texts],
        )
    found = compare(records, texts, spec.evaluation.of_type(spec.workload_type), spec.classes, spec.aliases)
    return found.teacher, found.student


def split(url: str) -> tuple[ArtifactRoot, str]:
    """Return a file's folder, as a root of its own, and its name in it."""
    folder, _, name = url.rpartition("/")
    return ArtifactRoot(folder), name


def _adapter(
    root: ArtifactRoot, job: NemoJob, spec: CustomizeSpec, trained: NemoTrained | None
) -> CustomizeResult:
    folder = root.lookup("adapters", job.key)
    if folder is not None:
        found = CustomizeResult.model_validate_json((folder / RESULT).read_bytes())
        return found.model_copy(update={"found": True, "steps_run": 0})
    if trained is None:
        raise JobError(f"{job.name}: ended on NeMo, but what it gave is not in {job.state_url}")
    short = short_prompt_for(spec, root.fetch("datasets", spec.dataset))
    result = _trained(job, spec, trained).model_copy(update={"short_prompt": short})
    pointer = {
        "output_model": trained.output_model,
        "job": trained.job,
        "base_model": spec.student.model_name,
    }
    with root.build("adapters", job.key) as folder:
        (folder / RESULT).write_bytes(result.model_dump_json(indent=2).encode() + b"\n")
        (folder / POINTER).write_bytes(orjson.dumps(pointer, option=orjson.OPT_INDENT_2))
    return result


def _trained(job: NemoJob, spec: CustomizeSpec, trained: NemoTrained) -> CustomizeResult:
    status = trained.status
    losses = loss_curve(status)
    each, epochs = steps_of(spec)
    settings = settle(spec.training, spec.size, None)
    steps = status.steps_completed or (losses[-1].step if losses else each * epochs)
    seconds = status.elapsed_time or (status.updated_at - status.created_at).total_seconds()
    samples = min(spec.size * epochs, steps * spec.training.batch_size)
    last = [point.loss for point in losses[-max(1, len(losses) // 10) :]]
    watched = [point.val_loss for point in losses if point.val_loss is not None]
    return CustomizeResult(
        adapter=job.key,
        path=f"adapters/{job.key}",
        student=spec.student.name,
        size=spec.size,
        parameters=trained.parameters or None,
        trainable_parameters=None,
        train_records=spec.size,
        steps=steps,
        steps_run=steps,
        learning_rate=settings.learning_rate,
        notes=settings.doubts,
        epochs=epochs,
        samples=samples,
        train_seconds=seconds,
        records_per_second=samples / max(seconds, 1e-9),
        train_loss=sum(last) / len(last) if last else (status.train_loss or 0.0),
        val_loss=min(watched) if watched else status.val_loss,
        losses=tuple(losses),
        stopped_early=steps < each * epochs,
        found=False,
        resumed_from_step=None,
        device=DEVICE,
    )


def loss_curve(status: CustomizationStatusDetails) -> list[LossPoint]:
    """Return a job's losses by step; a validation stands at the training step before it."""
    values = status.metrics.metrics if status.metrics is not None else None
    if values is None:
        return []
    train, val = _by_step(values.train_loss), _by_step(values.val_loss)
    points = {step: LossPoint(step=step, loss=loss) for step, loss in train.items()}
    for step, loss in val.items():
        before = max((known for known in points if known <= step), default=min(points, default=None))
        if before is not None:
            points[before] = points[before].model_copy(update={"val_loss": loss})
    return [points[step] for step in sorted(points)]


def _by_step(values: list[CustomizationMetricValue] | None) -> dict[int, float]:
    return {
        value.step: value.value
        for value in values or ()
        if value.step is not None and value.value is not None
    }


def _evaluation(
    root: ArtifactRoot, job: NemoJob, spec: EvaluateSpec, answered: NemoEvaluated | None
) -> EvaluateResult:
    folder = root.lookup("evaluations", job.key)
    if folder is not None:
        found = EvaluateResult.model_validate_json((folder / RESULT).read_bytes())
        return found.model_copy(update={"student": spec.student.name, "size": spec.size, "found": True})
    if answered is None:
        raise JobError(f"{job.name}: ended on NeMo, but what it gave is not in {job.state_url}")
    records = read_eval_records(root, spec)
    if len(records) != len(answered.texts):
        raise ArtifactError(
            f"{len(answered.texts)} answers for the {len(records)} records of dataset {spec.dataset}"
        )
    examined = Examined(
        records,
        answered.texts,
        # Nothing is warmed up and nothing asked alone: the NIM serves others, too, and is up before.
        Speed(
            seconds=answered.seconds,
            answered=len(answered.milliseconds),
            steady_seconds=answered.seconds,
            waits=answered.milliseconds,
            batch_size=answered.in_flight,
        ),
        DEVICE,
        answered.parameters or None,
        instructed=answered.instructed,
        examples=answered.examples,
    )
    result = keep_evaluation(root, job.key, spec, examined)
    if answered.evaluator is not None:
        ours = next(result.scores[name] for name in _LIKE_THE_EVALUATORS if name in result.scores)
        log.info("NeMo Evaluator's accuracy %.4f, ours %.4f", answered.evaluator, ours)
    return result
