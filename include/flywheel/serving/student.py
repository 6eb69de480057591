"""A student that is loaded once and answers requests in its own form, with the probability of each class."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flywheel.common.errors import StudentError
from flywheel.config.student import Student
from flywheel.evaluation.cascade import Cascade
from flywheel.jobs.result import CustomizeResult
from flywheel.jobs.spec import RESULT
from flywheel.serving.classified import Classified
from flywheel.workloads.markers import in_conversation, in_tools
from flywheel.workloads.short_prompts import ShortPrompt
from flywheel.workloads.workload import Workload

Messages = list[dict[str, Any]]
# No language has so many; to cut a text of a megabyte into tokens would hold up who asks beside it.
_CHARACTERS_A_TOKEN = 32
# Room for the answer's tokens, of a class.
_ANSWER_TOKENS = 16
# Texts that no prompt's own part shares a beginning with: what their prompts share is the form's.
_PROBES = ("0", "Z")
# And these: what prompts begin with, whatever their text, is tokenised once.
_MORE_PROBES = ("EPS of $1.20 beat", "émigré\n— 5 %")


class RefusedError(Exception):
    """A request that a student cannot answer, in words for whoever asked."""


class NotYetError(Exception):
    """The model exists and cannot answer now; the reason in words."""


@dataclass(frozen=True)
class Source:
    """What a served student is made of.

    Attributes:
        name: as people read it: `large @ 2500`.
        student: the base weights, and the longest prompt.
        adapter: its key; `folder` holds its files.
        workload: the prompt, classes and aliases that it was trained for.
        asked_text: it is asked the text alone.
        temperature: that its probabilities are calibrated by; None: they are as the student gives them.
        classifies: it chooses among the classes; else it writes freely.
        cascade: from which probability on its answers are its own to give; None: all are.
    """

    name: str
    student: Student
    adapter: str
    folder: Path
    workload: Workload
    asked_text: bool
    temperature: float | None
    classifies: bool
    cascade: Cascade | None = None


@dataclass(frozen=True)
class Question:
    """A request, as a caller sent it: any prompt with the text to label, or the text alone.

    Attributes:
        trace: headers of its trace, which go on to another server that answers.
    """

    messages: Messages
    tools: Sequence[Any] | None = None
    most_tokens: int = 256
    trace: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a student answered.

    Attributes:
        text: in the form that the teacher answers in.
        label: the class; None of free texts.
        probabilities: of each class, calibrated; they sum to one. Empty of free texts.
        prompt_tokens, answer_tokens: as the student was asked.
        cut: it would have gone on.
    """

    text: str
    label: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cut: bool = False


def text_of(workload: Workload, messages: Messages) -> str:
    """Return the text to label: what stands inside the workload's prompt, else the last message of a user.

    Raises:
        RefusedError: no message is a user's.
    """
    text = workload.text_of(messages)
    if text is None:
        users = [message.get("content") for message in messages if message.get("role") == "user"]
        text = users[-1] if users else None
        if not isinstance(text, str) or not text.strip():
            raise RefusedError("messages: expected a message of role user with the text to label")
    return text


class PromptForm:
    """How a student is asked, whatever prompt a caller wrote around the text.

    Args:
        workload: whose prompt callers may send whole.
        asked_text: the student is asked the text alone.
        left_out: what an application's prompts shared, which the student was trained without.
    """

    def __init__(self, workload: Workload, asked_text: bool, left_out: ShortPrompt | None) -> None:
        self._workload, self._asked_text, self._left_out = workload, asked_text, left_out

    def of(self, messages: Messages) -> Messages:
        """Return a request as the student is asked.

        The text is what stands inside the workload's prompt, or inside the application's that the student
        was trained on; of any other prompt it is the last message of a user.

        Raises:
            RefusedError: no message is a user's.
        """
        if self._left_out is not None:
            short = self._left_out.shorten(messages)
            if short != messages:
                return short
        if not self._workload.has_prompt:
            return messages
        text = text_of(self._workload, messages)
        if self._asked_text:
            return [{"role": "user", "content": text.strip()}]
        return self._workload.messages(text)


class ServedStudent:
    """A student with its adapter, loaded and warm.

    Args:
        source: what it is made of.

    Raises:
        StudentError: weights or adapter cannot be loaded.
    """

    def __init__(self, source: Source) -> None:
        from flywheel.students.adapter import load_adapter
        from flywheel.students.chooser import Chooser
        from flywheel.students.decoder import answering_decoder
        from flywheel.students.label_trie import LabelTrie
        from flywheel.students.loading import load_student, prepare_process

        started = time.monotonic()
        self.source = source
        loaded = load_student(source.student, prepare_process())
        model = load_adapter(loaded.model, source.folder)
        self._chat = loaded.chat
        self._form = PromptForm(source.workload, source.asked_text, left_out(source.folder))
        self._longest = source.student.context_length
        self._chooser: Chooser | None = None
        if source.classifies:
            answers = [source.workload.answer_for(label) for label in source.workload.classes]
            probes = [self._form.of([{"role": "user", "content": text}]) for text in _PROBES]
            trie = LabelTrie(self._chat.answers(probes[0], answers))
            self._chooser = Chooser(model, trie, _shared(self._chat.prompts(probes)[0]))
            more = [self._form.of([{"role": "user", "content": text}]) for text in _MORE_PROBES]
            self._chat.keep_beginning([*probes, *more])
        else:
            self._decoder = answering_decoder(model)
        self.answer([Question([{"role": "user", "content": "warm-up"}], most_tokens=2)] * 2)
        self.load_seconds = time.monotonic() - started

    def answer(self, questions: Sequence[Question]) -> list[Answer | RefusedError]:
        """Answer requests in one pass; one that cannot be answered does not stop the others.

        Returns:
            For each request, in order, its answer or why there is none.
        """
        found: list[Answer | RefusedError | None] = [None] * len(questions)
        asked: list[tuple[int, Any]] = []
        for place, question in enumerate(questions):
            try:
                asked.append((place, self._prompt(question)))
            except RefusedError as error:
                found[place] = error
        prompts = [prompt for _, prompt in asked]
        answers: Sequence[Answer] = ()
        if prompts and self._chooser is not None:
            answers = self._classified(prompts)
        elif prompts:
            answers = self._written(prompts, [questions[place].most_tokens for place, _ in asked])
        for (place, _), answer in zip(asked, answers, strict=True):
            found[place] = answer
        return [one for one in found if one is not None]

    def classify(self, texts: Sequence[str], batch_size: int | None = None) -> Classified:
        """Return the classes of texts, each asked as this student was trained; one without a class says why.

        Args:
            batch_size: texts of one pass, of similar length; None: as many as fit and are worth it.

        Raises:
            StudentError: this student writes free texts.
        """
        if self._chooser is None:
            raise StudentError(f"{self.source.name} writes free texts, and so knows no classes")
        found = Classified.nothing(len(texts), len(self.source.workload.classes))
        asked: dict[int, Messages] = {}
        for place, text in enumerate(texts):
            if len(text) > self._longest * _CHARACTERS_A_TOKEN:
                found.refused[place] = f"{len(text):,} characters, far more than {self._longest} tokens"
            else:
                asked[place] = self._form.of(in_conversation([{"role": "user", "content": text}]))
        if not asked:
            return found
        prompts, dropped = self._chat.prompts(list(asked.values()))
        room = self._longest - _ANSWER_TOKENS
        fitting: dict[int, Any] = {}
        for at, (place, prompt) in enumerate(zip(asked, prompts, strict=True)):
            if prompt is None:
                found.refused[place] = f"the chat template refuses it: {dropped.places.get(at, dropped)}"
            elif len(prompt) > room:
                found.refused[place] = f"{len(prompt):,} tokens, and the context leaves room for {room:,}"
            else:
                fitting[place] = prompt
        chosen = self._chooser.choose_all(list(fitting.values()), batch_size)
        found.take(list(fitting), chosen, self.source.temperature)
        return found

    def _prompt(self, question: Question) -> Any:
        length = sum(len(str(message.get("content") or "")) for message in question.messages)
        if length > self._longest * _CHARACTERS_A_TOKEN:
            raise RefusedError(
                f"messages: {length} characters, far more than this model's context of {self._longest} tokens"
            )
        messages = self._form.of(in_conversation(question.messages))
        tools = [in_tools(question.tools)] if question.tools else None
        try:
            (prompt,), dropped = self._chat.prompts([messages], tools)
        except StudentError as error:
            raise RefusedError(str(error)) from None
        if prompt is None:
            raise RefusedError(str(dropped))
        room = self._longest - (_ANSWER_TOKENS if self._chooser is not None else 1)
        if len(prompt) > room:
            raise RefusedError(
                f"messages: {len(prompt)} tokens, and this model's context leaves room for {room}"
            )
        return prompt

    def _classified(self, prompts: Sequence[Any]) -> list[Answer]:
        from flywheel.students.calibration import calibrated

        assert self._chooser is not None
        choices = self._chooser.choose(prompts)
        logs = np.stack([choice.log_probabilities for choice in choices])
        values = calibrated(logs, self.source.temperature or 1.0).tolist()
        classes = self.source.workload.classes
        return [
            Answer(
                text=self.source.workload.answer_for(classes[choice.answer]),
                label=classes[choice.answer],
                probabilities=dict(zip(classes, row, strict=True)),
                prompt_tokens=len(prompt),
                answer_tokens=len(choice.tokens),
            )
            for prompt, choice, row in zip(prompts, choices, values, strict=True)
        ]

    def _written(self, prompts: Sequence[Any], most: Sequence[int]) -> list[Answer]:
        from flywheel.students.generation import answer_batch

        longest = min(max(most), self._longest - max(map(len, prompts)))
        rows = answer_batch(self._decoder, prompts, self._chat.stops, max_new_tokens=longest)
        return [
            Answer(
                text=self._chat.text(row[:limit]),
                prompt_tokens=len(prompt),
                answer_tokens=min(len(row), limit),
                cut=len(row) >= min(limit, longest),
            )
            for prompt, row, limit in zip(prompts, rows, most, strict=True)
        ]


def left_out(folder: Path) -> ShortPrompt | None:
    """Return what an application's prompts shared, which its student was trained without; None: nothing."""
    result = folder / RESULT
    return CustomizeResult.model_validate_json(result.read_bytes()).short_prompt if result.exists() else None


def _shared(prompts: Sequence[Any]) -> Any:
    from flywheel.students.rows import common_prefix

    whole = [prompt for prompt in prompts if prompt is not None]
    return whole[0][: common_prefix(whole)] if whole else np.empty(0, np.int32)
