"""Ratings of pairs of answers: asked for once, ever, and kept in the store as the teacher's answers are.

What needs no judge is not asked: equal answers have the highest rating, a missing one the lowest. An answer
without a rating is asked for again, some times, then the pair counts as not rated; unusable answers are kept,
too, so that a repeated stage does not pay for them again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from flywheel.common.errors import JudgeError, TeacherError
from flywheel.config import Config
from flywheel.config.judge import JudgeConfig
from flywheel.evaluation.rubric import Rubric
from flywheel.stores import Owner, PaidAnswer, RecordStore
from flywheel.teacher.client import CallError, TeacherClient
from flywheel.teacher.endpoint import Endpoint, chat_url, headers_of

log = logging.getLogger(__name__)

# Longest answer of a judge, in tokens: some words before the rating.
ANSWER_TOKENS = 512
# So many answers are kept at once; a kill loses at most these.
KEPT_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to a request."""

    request: str
    teacher: str
    student: str


@dataclass(frozen=True, slots=True)
class Rating:
    """How well a pair agrees, in each order: the teacher's answer first, the student's first."""

    teacher_first: int
    student_first: int

    @property
    def mean(self) -> float:
        """The rating that counts."""
        return (self.teacher_first + self.student_first) / 2


@dataclass
class RatingCounts:
    """What became of the ratings: asked for, found in the store, given without asking, never had."""

    asked: int = 0
    found: int = 0
    given: int = 0
    unusable: int = 0


@dataclass(slots=True)
class _Question:
    """A pair in one order, and how far its rating is."""

    request: str
    first: str
    second: str
    asking: int = 0
    rating: int | None = None


class Judge:
    """The LLM of the configuration.

    Args:
        config: has an `llm_judge_config`.
        store: keeps its answers.
        owner: whose records are judged.

    Raises:
        JudgeError: its key is not in the environment.
    """

    def __init__(self, config: Config, store: RecordStore, owner: Owner | None = None) -> None:
        assert config.llm_judge_config is not None
        self._config = config.llm_judge_config
        self._store = store
        self._owner = owner
        self._endpoint = endpoint_of(config)
        self.counts = RatingCounts()

    @property
    def model(self) -> str:
        """The name of its model."""
        return str(self._config.model_name)

    def rate(self, pairs: Sequence[AnswerPair], rubric: Rubric) -> list[Rating | None]:
        """Return the rating of each pair; None for those without one.

        Raises:
            JudgeError: the judge cannot be asked.
            StoreError: the store cannot be used.
        """
        questions: dict[tuple[str, str, str], _Question] = {}
        for pair in pairs:
            if _known(pair, rubric) is None:
                for first, second in ((pair.teacher, pair.student), (pair.student, pair.teacher)):
                    key = (pair.request, first, second)
                    questions.setdefault(key, _Question(*key))
        self._answer(list(questions.values()), rubric)
        ratings: list[Rating | None] = []
        for pair in pairs:
            known = _known(pair, rubric)
            if known is not None:
                self.counts.given += 1
                ratings.append(Rating(known, known))
                continue
            one = questions[pair.request, pair.teacher, pair.student].rating
            other = questions[pair.request, pair.student, pair.teacher].rating
            ratings.append(None if one is None or other is None else Rating(one, other))
            self.counts.unusable += ratings[-1] is None
        return ratings

    def _answer(self, questions: list[_Question], rubric: Rubric) -> None:
        """Have questions answered, from the store or by the judge."""
        for _ in range(self._config.askings):
            open_ones = [question for question in questions if question.rating is None]
            bodies = {self._body(question, rubric): question for question in open_ones}
            keys = {key_of_body(body): body for body in bodies}
            found = self._store.get_answers(list(keys))
            self.counts.found += len(found)
            if self._owner is not None:
                self._store.own_answers(self._owner, list(found))
            for key, answer in found.items():
                bodies[keys[key]].rating = rubric.read(answer.content)
            missing = [body for key, body in keys.items() if key not in found]
            if missing:
                log.info("asking %s for %d ratings, %d are there", self.model, len(missing), len(found))
                answers = asyncio.run(self._ask(missing))
                for body, answer in answers.items():
                    bodies[body].rating = rubric.read(answer.content)
            for question in open_ones:
                question.asking += 1

    def _body(self, question: _Question, rubric: Rubric) -> bytes:
        fields = {"temperature": 0.0, "max_tokens": ANSWER_TOKENS, **self._config.request}
        body = {
            "model": self.model,
            "messages": rubric.messages(question.request, question.first, question.second, question.asking),
            **{name: value for name, value in fields.items() if value is not None},
        }
        return orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)

    async def _ask(self, bodies: list[bytes]) -> dict[bytes, PaidAnswer]:
        answers: dict[bytes, PaidAnswer] = {}
        client = TeacherClient(
            [self._endpoint],
            concurrency=self._config.parallel_requests,
            timeout_seconds=self._config.timeout_seconds,
        )

        async def one(body: bytes) -> tuple[bytes, PaidAnswer] | None:
            try:
                reply = await client.ask(body)
            except CallError as error:
                log.warning("no rating: %s", error)
                return None
            self.counts.asked += 1
            return body, PaidAnswer(reply.content, reply.model, int(time.time()), reply.usage)

        try:
            async with client:
                for start in range(0, len(bodies), KEPT_AT_ONCE):
                    asked = await asyncio.gather(*map(one, bodies[start : start + KEPT_AT_ONCE]))
                    had = dict(answer for answer in asked if answer is not None)
                    # Off the loop: a store may take its time, and has an event loop of its own.
                    await asyncio.to_thread(
                        self._store.put_answers,
                        [(key_of_body(body), had[body]) for body in had],
                        self._owner,
                    )
                    answers |= had
        except TeacherError as error:
            raise JudgeError(f"llm_judge_config: {error}") from error
        return answers


def key_of_body(body: bytes) -> str:
    """Return the key under which the answer to a request is kept; it covers model, rubric and answers."""
    return hashlib.sha256(b"judge\0" + body).hexdigest()


def endpoint_of(config: Config) -> Endpoint:
    """Return where the judge is.

    Raises:
        JudgeError: its address is none, or its key is not in the environment.
    """
    judge = config.llm_judge_config
    assert judge is not None
    url = judge.url if judge.type == "remote" else config.nmp_config.nim_base_url
    try:
        return Endpoint(
            chat_url(str(url), "llm_judge_config.url"),
            _key(judge),
            judge.key_header,
            headers_of(judge.headers, "llm_judge_config"),
        )
    except TeacherError as error:
        raise JudgeError(str(error)) from None


def _key(judge: JudgeConfig) -> str | None:
    if judge.api_key_env is None:
        return None
    key = os.environ.get(judge.api_key_env, "").strip()
    if not key:
        raise JudgeError(
            f"llm_judge_config.api_key_env: the environment has no {judge.api_key_env}; set it to the key"
        )
    return key


def _known(pair: AnswerPair, rubric: Rubric) -> int | None:
    """Return the rating of a pair that needs no judge; None where it needs one."""
    if pair.teacher.split() == pair.student.split():
        return rubric.highest
    return rubric.lowest if not pair.student.strip() else None
