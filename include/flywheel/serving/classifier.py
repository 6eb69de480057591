"""A student that classifies only, loaded once: requests and answers are those of `serving.student`."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from flywheel.jobs.families import family_of
from flywheel.serving.classified import Classified
from flywheel.serving.student import Answer, PromptForm, Question, RefusedError, Source, left_out
from flywheel.students.answering import PLAIN_BATCH
from flywheel.students.calibration import calibrated
from flywheel.students.classifiers import ask, text_of
from flywheel.workloads.markers import in_conversation


class ServedClassifier:
    """A trained classifier, loaded and warm.

    Args:
        source: what it is made of.

    Raises:
        StudentError: it cannot be loaded, or knows none of the workload's classes.
    """

    def __init__(self, source: Source) -> None:
        started = time.monotonic()
        self.source = source
        self._classifier = family_of(source.student).classifier.load(source.student, source.folder)
        self._form = PromptForm(source.workload, True, left_out(source.folder))
        self.answer([Question([{"role": "user", "content": "warm-up"}])] * 2)
        self.load_seconds = time.monotonic() - started

    def answer(self, questions: Sequence[Question]) -> list[Answer | RefusedError]:
        """Answer requests in one pass; one that cannot be answered does not stop the others.

        Returns:
            For each request, in order, its answer or why there is none.
        """
        found: list[Answer | RefusedError | None] = [None] * len(questions)
        asked: dict[int, str] = {}
        for place, question in enumerate(questions):
            try:
                asked[place] = text_of(self._form.of(question.messages))
            except RefusedError as error:
                found[place] = error
        for place, answer in zip(asked, self._classified(list(asked.values())), strict=True):
            found[place] = answer
        return [one for one in found if one is not None]

    def classify(self, texts: Sequence[str], batch_size: int | None = None) -> Classified:
        """Return the classes of texts, each asked as this student was trained.

        Args:
            batch_size: texts of one pass; None: `PLAIN_BATCH`.
        """
        workload = self.source.workload
        found = Classified.nothing(len(texts), len(workload.classes))
        asked = [
            text_of(self._form.of(in_conversation([{"role": "user", "content": text}]))) for text in texts
        ]
        size = batch_size or PLAIN_BATCH
        for start in range(0, len(asked), size):
            batch = asked[start : start + size]
            chosen = ask(self._classifier, workload.classes, batch)
            found.take(range(start, start + len(batch)), chosen, self.source.temperature)
        return found

    def _classified(self, texts: Sequence[str]) -> list[Answer]:
        if not texts:
            return []
        workload = self.source.workload
        given = ask(self._classifier, workload.classes, texts)
        logs = np.stack([one.log_probabilities for one in given])
        values = calibrated(logs, self.source.temperature or 1.0).tolist()
        return [
            Answer(
                text=workload.answer_for(workload.classes[one.answer]),
                label=workload.classes[one.answer],
                probabilities=dict(zip(workload.classes, row, strict=True)),
                prompt_tokens=self._classifier.tokens(text),
                answer_tokens=1,
            )
            for text, one, row in zip(texts, given, values, strict=True)
        ]
