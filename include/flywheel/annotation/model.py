"""A student over any number of texts: what `flywheel.champion` gives, and what MLflow's registry holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flywheel.annotation.texts import Texts, is_missing
from flywheel.common.errors import StudentError
from flywheel.jobs.families import family_of
from flywheel.serving.classified import Classified
from flywheel.serving.student import Source

log = logging.getLogger(__name__)

# Texts that are made into tokens and sorted by length together: what memory is needed for.
WINDOW = 4096
_EMPTY = "empty"


class _Student(Protocol):
    def classify(self, texts: list[str], batch_size: int | None = None) -> Classified:
        """See `flywheel.serving.student.ServedStudent`."""


class TextModel:
    """A student, loaded, that labels texts on this machine's GPU or CPU.

    FLYWHEEL_DEVICE names another device, FLYWHEEL_THREADS the number of CPU threads.

    Args:
        source: what it is made of.

    Attributes:
        classes_: the names of the classes, in the order of `predict_proba`'s columns: [C].
        name: student and training records, as `large @ 2500`.
        adapter: key of its adapter.
        workload_version: hash of its prompt and classes.

    Raises:
        StudentError: it cannot be loaded, or the extra `students` is not installed.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.adapter = source.name, source.adapter
        self.workload_version = source.workload.sha256
        self.classes_: NDArray[np.object_] = np.array(source.workload.classes, dtype=object)
        with _extra():
            self._student: _Student = family_of(source.student).serve(source)

    def label(self, texts: Any, *, batch_size: int | None = None) -> Any:
        """Label texts.

        Args:
            texts: N of them: a list, a tuple, a NumPy array, a Series of pandas or polars, an Array or
                ChunkedArray of pyarrow.
            batch_size: texts of one pass, of similar length; None: by the memory of the GPU, 64 on a CPU.

        Returns:
            N rows in the order of the texts: `label`, `probability` of it, and one column a class with its
            calibrated probability in [0, 1]; those of a row sum to one. A DataFrame of pandas (with the
            index of a Series) or polars or a Table of pyarrow, as the texts came. A text that is missing,
            empty, no UTF-8 or longer than the student's context has no label (None, null) and no
            probabilities; the log names its row.

        Raises:
            TextError: an entry is no text; the message names its row.
        """
        read = Texts.of(texts)
        with _extra():
            return read.table(list(self.classes_), self.ask(read, batch_size=batch_size))

    def label_batches(self, texts: Iterable[Any], size: int = WINDOW) -> Iterator[Any]:
        """Label a stream in bounded memory, a table for each batch, in order.

        Args:
            texts: texts, of which `size` make a batch; or columns of texts (anything that `label` takes),
                each a batch of its own.
            size: of a batch, from 1.

        Raises:
            TextError: an entry is no text; the message names its row in its batch.
        """
        waiting: list[Any] = []
        for item in texts:
            if isinstance(item, str) or is_missing(item):
                waiting.append(item)
                if len(waiting) >= size:
                    yield self.label(waiting)
                    waiting = []
            else:
                if waiting:
                    yield self.label(waiting)
                    waiting = []
                yield self.label(item)
        if waiting:
            yield self.label(waiting)

    def predict(self, texts: Any) -> NDArray[np.object_]:
        """Return the class of each text, as scikit-learn does: [N]; None where `label` has none."""
        answers = self.ask(Texts.of(texts)).answers
        found: NDArray[np.object_] = np.array([*self.classes_, None], dtype=object)[answers]  # -1: the last
        return found

    def predict_proba(self, texts: Any) -> NDArray[np.float64]:
        """Return calibrated probabilities, as scikit-learn does: [N, C], in the order of `classes_`.

        Each row sums to one; it is NaN where `label` has no label. A causal LM's label is what it would
        write, token by token, which need not be the class of the highest probability where these are close.
        """
        return self.ask(Texts.of(texts)).probabilities

    def ask(self, texts: Texts, *, batch_size: int | None = None) -> Classified:
        """Return the classes of N texts as numbers, with the reason where a text has none."""
        found = Classified.nothing(len(texts.values), len(self.classes_))
        for start in range(0, len(texts.values), WINDOW):
            asked: dict[int, str] = {}
            for place, text in enumerate(texts.values[start : start + WINDOW], start):
                if reason := _problem_of(text):
                    found.refused[place] = reason
                else:
                    asked[place] = str(text)
            if not asked:
                continue
            places = np.fromiter(asked, np.int64)
            answered = self._student.classify(list(asked.values()), batch_size)
            found.answers[places] = answered.answers
            found.probabilities[places] = answered.probabilities
            found.refused.update({int(places[at]): why for at, why in answered.refused.items()})
        for reason in dict.fromkeys(found.refused.values()):
            rows = [place for place, why in found.refused.items() if why == reason]
            log.warning(
                "%d of %d texts have no label, %s: %s",
                len(rows),
                len(texts.values),
                reason,
                texts.named(rows),
            )
        return found


def _problem_of(text: str | None) -> str:
    if text is None:
        return "missing"
    if not text.strip():
        return _EMPTY
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "not valid UTF-8"
    return ""


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "flywheel":
            raise
        raise StudentError(
            f"{error.name} is not installed, which a student needs: pip install 'flywheel[students]'"
        ) from None
