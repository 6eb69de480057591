"""Stage 4, customize: fine-tune one student on the first records of a dataset. In a process or a pod."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, NotEnoughRecordsError
from flywheel.common.timing import Timing
from flywheel.jobs.families import family_of
from flywheel.jobs.progress import ProgressCallback
from flywheel.jobs.result import CustomizeResult
from flywheel.jobs.spec import RESULT, CustomizeSpec
from flywheel.jobs.tuning import Tuning
from flywheel.jobs.weights import base_name, files_hash
from flywheel.workloads.lines import read_lines
from flywheel.workloads.short_prompts import LOOKED_AT, ShortPrompt

if TYPE_CHECKING:
    from flywheel.students.chat import Dropped
    from flywheel.students.loading import LoadedStudent
    from flywheel.students.outcome import TrainingOutcome
    from flywheel.students.rows import Sample

log = logging.getLogger(__name__)

# Validation records that a search of settings examines, by their answers.
_EXAMINED = 2000
# Those for a training of n records: the loss of this many tells when to stop, and costs little.
_VAL_SHARE, _LEAST_VAL, _MOST_VAL = 0.1, 64, 1024


def customize(spec: CustomizeSpec, progress: ProgressCallback | None = None) -> CustomizeResult:
    """Fine-tune a student, or find the adapter that an earlier job made from the same input.

    A job that was killed goes on from its last checkpoint. Two jobs with the same spec wait for each other.
    Where the form of its prompts is open, it is decided here: see `flywheel.stages.prompt_choice`.

    Args:
        spec: the job.
        progress: told a few times a second how far it is.

    Raises:
        StudentError: the student cannot be loaded or trained.
        NotEnoughRecordsError: the dataset has fewer training records than the size asks for.
        ArtifactError: the dataset is missing or damaged.
        JobError: SIGTERM ended the job after a checkpoint.
    """
    if spec.is_open:
        from flywheel.stages.prompt_choice import customize_open

        return customize_open(spec, progress)
    root, key = ArtifactRoot(spec.artifact_root), spec.key
    found = _find(root, key)
    if found is not None:
        return found
    with root.scratch("adapters", key) as scratch:
        found = _find(root, key)  # made by the job that this one waited for
        if found is not None:
            return found
        result: CustomizeResult = family_of(spec.student).train(root, key, spec, scratch, progress)
        root.discard_scratch("adapters", key)
    return result


def read_records(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """Return the first records of a dataset's file.

    Raises:
        ArtifactError: a line is no record.
    """
    records = []
    for number, record in enumerate(read_lines(path, most), 1):
        try:
            record["messages"][-1]["content"], record["id"], record["label"]
        except (KeyError, IndexError, TypeError) as error:
            raise ArtifactError(
                f"{path}, line {number}: no record with id, label and messages: {error}"
            ) from None
        records.append(record)
    return records


def short_prompt_for(spec: CustomizeSpec, dataset: Path) -> ShortPrompt | None:
    """Return what the prompts of a training leave out; None: it is of whole ones."""
    if spec.student_prompt != "text":
        return None
    return ShortPrompt.of(read_records(dataset / "train.jsonl", LOOKED_AT))


def _chats(
    records: list[dict[str, Any]], longest: int, short: ShortPrompt | None
) -> tuple[list[list[dict[str, Any]]], int, list[list[dict[str, Any]] | None]]:
    """Return what `Chat.samples` takes of a dataset's records."""
    return (
        [short.shorten(record["messages"]) if short else record["messages"] for record in records],
        longest,
        [record.get("tools") for record in records],
    )


def watched_records(size: int) -> int:
    """Return how many validation records are watched in a training on `size` records."""
    return min(_MOST_VAL, max(_LEAST_VAL, round(size * _VAL_SHARE)))


def _find(root: ArtifactRoot, key: str) -> CustomizeResult | None:
    folder = root.lookup("adapters", key)
    if folder is None:
        return None
    result = CustomizeResult.model_validate_json((folder / RESULT).read_bytes())
    log.info("adapter %s is there already", key)
    return result.model_copy(update={"found": True, "steps_run": 0, "resumed_from_step": None})


def training_records(spec: CustomizeSpec, dataset: Path, most: int = 0) -> list[dict[str, Any]]:
    """Return the first training records of a dataset: as many as the size asks for, or `most` of them.

    Raises:
        NotEnoughRecordsError: it has fewer than the size asks for.
        ArtifactError: a line is no record.
    """
    records = read_records(dataset / "train.jsonl", max(spec.size, most))
    if len(records) < spec.size:
        raise NotEnoughRecordsError(
            f"dataset {spec.dataset} has {len(records)} training records, fewer than the {spec.size} of "
            f"size {spec.size}; lower `sizes` or wait for more records"
        )
    return records


@dataclass(frozen=True)
class _Loaded:
    """A student, and what it is trained on."""

    student: LoadedStudent
    short: ShortPrompt | None
    samples: list[Sample]
    val_samples: list[Sample]
    examined: list[dict[str, Any]]
    dropped: Dropped
    notes: tuple[str, ...]


def _load(root: ArtifactRoot, spec: CustomizeSpec) -> _Loaded:
    from flywheel.students.loading import load_student, prepare_process

    dataset = root.fetch("datasets", spec.dataset)
    train = training_records(spec, dataset)
    short = short_prompt_for(spec, dataset)
    watched = watched_records(spec.size) if spec.training.validations else 0
    examined = read_records(dataset / "val.jsonl", _EXAMINED if spec.is_tuned else watched)
    val = examined[:watched]
    student = load_student(spec.student, prepare_process())
    longest = min(spec.student.context_length, spec.student.customizer_configs.max_seq_length or 1 << 62)
    samples, dropped = student.chat.samples(*_chats(train, longest, short))
    val_samples, val_dropped = student.chat.samples(*_chats(val, longest, short), some=False)
    notes = (
        *dropped.said([record["id"] for record in train], "training records are left out"),
        *val_dropped.said([record["id"] for record in val], "validation records are left out"),
    )
    notes = tuple(dict.fromkeys(notes))
    for note in notes:
        log.warning("%s", note)
    return _Loaded(student, short, samples, val_samples, examined, dropped, notes)


def train(
    root: ArtifactRoot, key: str, spec: CustomizeSpec, scratch: Path, progress: ProgressCallback | None
) -> CustomizeResult:
    """Fine-tune a causal LM, and keep its adapter."""
    from flywheel.students.adapter import add_adapter, save_adapter
    from flywheel.students.compile_cache import compile_cache
    from flywheel.students.training import fine_tune

    timing = Timing()
    with timing.time("load"):
        loaded = _load(root, spec)
    student, device = loaded.student, loaded.student.device.type
    tuning: Tuning | None = None
    if spec.is_tuned:
        from flywheel.stages.tuning import Material, tune

        saved = partial(root.save_scratch, "adapters", key)
        with timing.time("tune"), compile_cache(root, device):
            material = Material(
                student, loaded.samples, loaded.val_samples, loaded.examined, loaded.short, scratch, saved
            )
            training, lora, tuning = tune(spec, material)
        spec = spec.model_copy(update={"training": training, "lora": lora})
    with timing.time("load"):
        model = add_adapter(student.model, spec.lora, student.base_name, spec.seed, student.revision)
    with timing.time("train"), compile_cache(root, device):
        outcome = fine_tune(
            model,
            loaded.samples,
            loaded.val_samples,
            spec.training,
            dropout=spec.lora.adapter_dropout,
            seed=spec.seed,
            scratch=scratch,
            after_checkpoint=lambda: root.save_scratch("adapters", key),
            progress=progress,
        )
    timing.add("compile", outcome.compile_seconds)
    timing.add("train", -outcome.compile_seconds)
    result = _result(key, spec, loaded, model, tuning, outcome, timing)
    with timing.time("save"), root.build("adapters", key) as folder:
        save_adapter(model, folder, _model_card(spec, result, outcome))
        (folder / RESULT).write_bytes(result.model_dump_json(indent=2).encode() + b"\n")
    student.keep(model)
    log.info("adapter %s: %d steps, %.0f records/s", key, result.steps, result.records_per_second)
    return result.model_copy(update={"timing": timing.seconds})


def _result(
    key: str,
    spec: CustomizeSpec,
    loaded: _Loaded,
    model: Any,
    tuning: Tuning | None,
    outcome: TrainingOutcome,
    timing: Timing,
) -> CustomizeResult:
    from flywheel.students.loading import count_parameters, device_name

    parameters, trainable_parameters = count_parameters(model)
    state, student = outcome.state, loaded.student
    return CustomizeResult(
        adapter=key,
        path=f"adapters/{key}",
        student=spec.student.name,
        size=spec.size,
        parameters=parameters,
        trainable_parameters=trainable_parameters,
        train_records=len(loaded.samples),
        dropped=loaded.dropped.count,
        dropped_reasons=dict(loaded.dropped.reasons),
        short_prompt=loaded.short,
        tuning=tuning,
        base_revision=student.revision,
        base_sha256=files_hash(spec.student.weights),
        notes=(*loaded.notes, *([tuning.sentence()] if tuning else []), *outcome.settings.doubts),
        prefix_tokens=outcome.prefix,
        steps=state.step,
        steps_run=outcome.steps_run,
        learning_rate=outcome.settings.learning_rate,
        epochs=outcome.settings.epochs,
        samples=state.samples,
        train_seconds=state.seconds,
        records_per_second=state.samples / max(state.seconds, 1e-9),
        train_loss=outcome.train_loss,
        val_loss=outcome.val_loss,
        losses=outcome.curve(),
        stopped_early=state.stopped_early,
        found=False,
        resumed_from_step=outcome.resumed_from_step,
        device=device_name(student.device.type),
        timing=timing.seconds,
    )


def _model_card(spec: CustomizeSpec, result: CustomizeResult, outcome: TrainingOutcome) -> str:
    """Return README.md of the adapter, in the Hub's format for model cards."""
    training, lora = spec.training, spec.lora
    planned = f"{outcome.settings.steps}{' (stopped early)' if result.stopped_early else ''}"
    val = f"{result.val_loss:.4f}" if result.val_loss is not None else "not watched"
    alpha = lora.alpha if lora.alpha is not None else 2 * lora.adapter_dim
    base = base_name(spec.student.weights)
    weights = f"SHA-256 of the files `{result.base_sha256}`"
    if result.base_revision:
        weights = f"commit `{result.base_revision}`, {weights}"
    asked = ""
    if result.short_prompt is not None:
        asked = f"""
Ask it the text alone: it was trained without the instructions that its prompts shared. What was left out
is `short_prompt` in {RESULT}: messages at the beginning, and what stood before and after the text. So vLLM,
peft and every other server get `[{{"role": "user", "content": TEXT}}]` under the base model's chat template.
"""
    return f"""---
base_model: {base}
library_name: peft
tags: [lora, flywheel]
---
# {spec.student.name} @ {spec.size}

A LoRA adapter of `{spec.student.model_name}` (weights: `{base}`) that answers as its teacher did. Made by
flywheel from the first {spec.size} training records of dataset `{spec.dataset}`.
{asked}
| | |
|---|---|
| base weights | {weights} |
| records | {result.train_records} ({result.dropped} left out) |
| optimizer steps | {result.steps} of {planned} |
| batch size, epochs | {training.batch_size}, {result.epochs} |
| learning rate | {result.learning_rate:g}, warmup {training.warmup_ratio:g}, cosine |
| rank, alpha, dropout | {lora.adapter_dim}, {alpha:g}, {lora.adapter_dropout:g} |
| parameters | {result.parameters or 0:,}, of which trained {result.trainable_parameters or 0:,} |
| training loss | {result.train_loss:.4f} nats a token |
| validation loss | {val} |
| seed | {spec.seed} |
| device | {result.device} |

```python
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained("path of this folder")  # with the base model's weights
```
"""
