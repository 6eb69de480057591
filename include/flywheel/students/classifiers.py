"""Students that classify only: what is asked of a family that reads a text and tells its class.

No torch here: a linear student needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flywheel.common.errors import StudentError
from flywheel.config.student import Student
from flywheel.jobs.progress import ProgressCallback
from flywheel.jobs.result import LossPoint
from flywheel.jobs.spec import CustomizeSpec

Floats = NDArray[np.float64]


class Chosen(Protocol):
    """An answer out of the classes."""

    @property
    def answer(self) -> int:
        """Its number."""

    @property
    def log_probabilities(self) -> Floats:
        """Of all classes, natural logarithms: [C]."""


@dataclass(frozen=True, slots=True)
class Given:
    """A classifier's answer to a text.

    Attributes:
        answer: the number of the likeliest class.
        log_probabilities: of all classes, natural logarithms: [C].
    """

    answer: int
    log_probabilities: Floats


class Classifier(Protocol):
    """A trained student, ready to be asked.

    Attributes:
        classes: that it was trained on: K.
        records: that it was trained on.
        parameters: of all that it computes with.
        device: `cpu`, or the name of its GPU.
    """

    classes: tuple[str, ...]
    records: int
    parameters: int
    device: str

    def log_probabilities(self, texts: Sequence[str]) -> Floats:
        """Return natural logarithms of the probabilities of each text's classes: [N, K]."""

    def tokens(self, text: str) -> int:
        """Return how many tokens of a text it reads."""


@dataclass(frozen=True)
class Examples:
    """Texts with their classes, each a class by its name."""

    texts: list[str]
    labels: list[str]


@dataclass(frozen=True)
class TrainingWork:
    """A training of a classifier.

    Attributes:
        spec: what the job is asked to do.
        train, val: the texts to learn from, at least two classes; those to watch, which may be none.
        scratch: folder for checkpoints.
        keep: called when a checkpoint was written.
        progress: told a few times a second how far it is.
    """

    spec: CustomizeSpec
    train: Examples
    val: Examples
    scratch: Path
    keep: Callable[[], None]
    progress: ProgressCallback | None


@dataclass(frozen=True)
class Trained:
    """What a training of a classifier came to; losses are in nats a record.

    Attributes:
        save: writes what `load` reads into an empty folder.
        about: rows of the model card.
        usage: how the folder is used without flywheel, in Markdown.
    """

    save: Callable[[Path], None]
    parameters: int
    trainable_parameters: int
    steps: int
    steps_run: int
    samples: int
    seconds: float
    train_loss: float
    val_loss: float | None
    losses: tuple[LossPoint, ...]
    learning_rate: float | None = None
    epochs: int | None = None
    stopped_early: bool = False
    resumed_from_step: int | None = None
    device: str = "cpu"
    base_revision: str | None = None
    notes: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    usage: str = ""


class Room(Protocol):
    """The module of a family that classifies."""

    def train(self, work: TrainingWork) -> Trained:
        """Train on the texts."""

    def load(self, student: Student, folder: Path) -> Classifier:
        """Read what a training wrote.

        Raises:
            StudentError: the files are damaged, or of another student.
        """


def text_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a request without its instructions: see `flywheel.workloads.short_prompts`."""
    texts = [message.get("content") for message in messages]
    return "\n".join(text for text in texts if isinstance(text, str))


def ask(classifier: Classifier, classes: Sequence[str], texts: Sequence[str]) -> list[Given]:
    """Return the answers to texts, among classes that may be others than it was trained on.

    A class that none of its n training records had gets a probability of 1 / (n + 2), the rule of succession;
    one that is no class any more gets none.

    Raises:
        StudentError: it was trained on none of the classes.
    """
    own = {name: place for place, name in enumerate(classifier.classes)}
    known = [place for place, name in enumerate(classes) if name in own]
    if not known:
        raise StudentError(f"trained on none of the classes {', '.join(classes)}")
    values = np.full((len(texts), len(classes)), -np.log(classifier.records + 2.0))
    values[:, known] = classifier.log_probabilities(texts)[:, [own[classes[place]] for place in known]]
    values -= np.logaddexp.reduce(values, axis=1, keepdims=True)
    return [Given(int(row.argmax()), row) for row in values]
