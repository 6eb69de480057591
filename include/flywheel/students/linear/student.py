"""The linear model as a student: trained on a data set's own texts, read again from its artifact."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from flywheel.common.errors import StudentError
from flywheel.config.student import Student
from flywheel.jobs.progress import Progress
from flywheel.jobs.result import LossPoint
from flywheel.students.classifiers import Examples, Trained, TrainingWork
from flywheel.students.linear.model import ARRAYS, WORDS, LinearModel, fit


def train(work: TrainingWork) -> Trained:
    """Fit the model; that takes seconds, and there is nothing to go on from.

    Raises:
        StudentError: no text has a word.
    """
    started = time.monotonic()
    try:
        model = fit(work.train.texts, work.train.labels)
    except ValueError as error:
        raise StudentError(f"TF-IDF and logistic regression cannot be fitted: {error}") from None
    seconds = time.monotonic() - started
    loss, val_loss = _loss(model, work.train), _loss(model, work.val)
    assert loss is not None
    samples = model.records * model.rounds
    if work.progress is not None:
        rate = samples / max(seconds, 1e-9)
        work.progress(Progress(model.rounds, model.rounds, loss, val_loss, rate, 0.0))
    return Trained(
        save=model.save,
        parameters=model.parameters,
        trainable_parameters=model.parameters,
        steps=model.rounds,
        steps_run=model.rounds,
        samples=samples,
        seconds=seconds,
        train_loss=loss,
        val_loss=val_loss,
        losses=(LossPoint(step=model.rounds, loss=loss, val_loss=val_loss),),
        epochs=model.rounds,
        about={"words and word pairs": f"{len(model.words):,}", "classes": f"{len(model.classes)}"},
        usage=f"`{ARRAYS}` holds the weights, `{WORDS}` the words and the classes; nothing is pickled.",
    )


def load(student: Student, folder: Path) -> LinearModel:
    """Read the model of an artifact.

    Raises:
        StudentError: it is damaged.
    """
    return LinearModel.read(folder)


def _loss(model: LinearModel, examples: Examples) -> float | None:
    """Return the mean negative log probability of the right classes; None without any that it knows."""
    place_of = {name: place for place, name in enumerate(model.classes)}
    known = [at for at, label in enumerate(examples.labels) if label in place_of]
    if not known:
        return None
    values = model.log_probabilities([examples.texts[at] for at in known])
    right = [place_of[examples.labels[at]] for at in known]
    return float(-values[np.arange(len(known)), right].mean())
