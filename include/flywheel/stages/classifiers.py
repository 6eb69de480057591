"""Customize and evaluate for the families that classify only: texts in, the probability of each class out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import NotEnoughRecordsError, StudentError
from flywheel.common.timing import Timing
from flywheel.jobs.families import family_of
from flywheel.jobs.progress import ProgressCallback, telling
from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.jobs.spec import RESULT, CustomizeSpec, EvaluateSpec
from flywheel.jobs.weights import files_hash
from flywheel.stages.customize import read_records, training_records, watched_records
from flywheel.stages.evaluate import Questions, read_training_records
from flywheel.stages.examined import Examined, Speed, keep_evaluation
from flywheel.students.answering import answer_in_batches
from flywheel.students.calibration import probabilities_of
from flywheel.students.classifiers import Examples, Trained, TrainingWork, ask, text_of
from flywheel.workloads.labels import answer_form
from flywheel.workloads.short_prompts import LOOKED_AT, ShortPrompt

log = logging.getLogger(__name__)


def train(
    root: ArtifactRoot, key: str, spec: CustomizeSpec, scratch: Path, progress: ProgressCallback | None
) -> CustomizeResult:
    """Train a classifier on the first records of a dataset, on their own texts, and keep it.

    Raises:
        NotEnoughRecordsError: fewer records than the size asks for, or all of one class.
        StudentError: the student cannot be loaded or trained.
    """
    timing, family = Timing(), family_of(spec.student)
    with timing.time("load"):
        dataset = root.fetch("datasets", spec.dataset)
        records = training_records(spec, dataset, LOOKED_AT)
        short = ShortPrompt.of(records)
        train = _examples(records[: spec.size], short)
        if len(set(train.labels)) < 2:
            raise NotEnoughRecordsError(
                f"the first {spec.size} training records are all of one class; raise `sizes`"
            )
        watched = watched_records(spec.size) if spec.training.validations else 0
        val = _examples(read_records(dataset / "val.jsonl", watched), short)
    work = TrainingWork(spec, train, val, scratch, lambda: root.save_scratch("adapters", key), progress)
    with timing.time("train"):
        made = family.classifier.train(work)
    for note in made.notes:
        log.warning("%s", note)
    result = CustomizeResult(
        adapter=key,
        path=f"adapters/{key}",
        student=spec.student.name,
        family=family.name,
        size=spec.size,
        parameters=made.parameters,
        trainable_parameters=made.trainable_parameters,
        train_records=spec.size,
        short_prompt=short,
        base_revision=made.base_revision,
        base_sha256=files_hash(spec.student.weights),
        notes=made.notes,
        steps=made.steps,
        steps_run=made.steps_run,
        learning_rate=made.learning_rate,
        epochs=made.epochs,
        samples=made.samples,
        train_seconds=made.seconds,
        records_per_second=made.samples / max(made.seconds, 1e-9),
        train_loss=made.train_loss,
        val_loss=made.val_loss,
        losses=made.losses,
        stopped_early=made.stopped_early,
        found=False,
        resumed_from_step=made.resumed_from_step,
        device=made.device,
        timing=timing.seconds,
    )
    with timing.time("save"), root.build("adapters", key) as folder:
        made.save(folder)
        (folder / "README.md").write_text(_card(spec, result, made, family.title), encoding="utf-8")
        (folder / RESULT).write_bytes(result.model_dump_json(indent=2).encode() + b"\n")
    log.info("adapter %s: %d steps, %.0f records/s", key, result.steps, result.records_per_second)
    return result.model_copy(update={"timing": timing.seconds})


def examine(
    root: ArtifactRoot, key: str, spec: EvaluateSpec, progress: ProgressCallback | None
) -> EvaluateResult:
    """Have a trained classifier answer the held-out texts, and score and keep its answers.

    Raises:
        StudentError: it is not trained, its files are damaged, or the workload is no classification.
        ArtifactError: the dataset or the adapter is missing or damaged.
    """
    timing, family = Timing(), family_of(spec.student)
    if spec.adapter is None or spec.workload_type != "classification":
        raise StudentError(f"{spec.student.name}: {family.title} classifies, and only when it was trained")
    with timing.time("load"):
        questions = Questions.of(root, spec)
        classifier = family.classifier.load(spec.student, root.fetch("adapters", spec.adapter))
        short = ShortPrompt.of(read_training_records(root, spec, LOOKED_AT))
    texts = [text_of(request) for request in questions.requests(short)]
    started = time.perf_counter()
    answers = answer_in_batches(
        texts,
        lambda batch: ask(classifier, spec.classes, batch),
        batch_size=spec.evaluation.batch_size,
        device="cpu" if classifier.device == "cpu" else "cuda",
        progress=telling(progress, len(texts)),
    )
    seconds = time.perf_counter() - started
    timing.add("answer", seconds)
    count, given = len(questions.records), answers.given
    asked = count + len(questions.told)
    forms = spec.answers or tuple(answer_form(name) for name in spec.classes)
    written = [forms[one.answer] for one in given[:asked]]
    with timing.time("score"):
        examined = Examined(
            questions.records,
            written[:count],
            Speed.of(answers, seconds),
            classifier.device,
            classifier.parameters,
            instructed=written[count:],
            probabilities=probabilities_of(
                spec.classes, questions.records, questions.held, [*given[:count], *given[asked:]]
            ),
            fitting=range(count),
        )
        result = keep_evaluation(root, key, spec, examined)
    return result.model_copy(update={"timing": timing.seconds})


def _examples(records: Sequence[dict[str, Any]], short: ShortPrompt | None) -> Examples:
    requests = [record["messages"][:-1] for record in records]
    return Examples(
        [text_of(short.shorten(one) if short else one) for one in requests],
        [str(record["label"]) for record in records],
    )


def _card(spec: CustomizeSpec, result: CustomizeResult, made: Trained, title: str) -> str:
    """Return README.md of the artifact, in the Hub's format for model cards."""
    base = f"base_model: {spec.student.weights}\n" if spec.student.weights else ""
    val = f"{result.val_loss:.4f} nats a record" if result.val_loss is not None else "not computed"
    about = {
        "records": f"{result.train_records}",
        **made.about,
        "parameters": f"{made.parameters:,}, of which trained {made.trainable_parameters:,}",
        "training loss": f"{result.train_loss:.4f} nats a record",
        "validation loss": val,
        "device": result.device,
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in about.items())
    return f"""---
{base}tags: [text-classification, flywheel]
---
# {spec.student.name} @ {spec.size}

{title[0].upper()}{title[1:]} that answers as its teacher did: it reads a record's own text, without
instructions, and gives each class a probability. Made by flywheel from the first {spec.size} training
records of dataset `{spec.dataset}`.

| | |
|---|---|
{rows}

{made.usage}
"""
