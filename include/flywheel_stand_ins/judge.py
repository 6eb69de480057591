"""A stand-in for a judge: an OpenAI-compatible server that computes ratings from the texts. It is no model.

    POST /v1/chat/completions   a rating of the two answers in the question, by the words that they share
    GET  /v1/models             the one model, `stand-in-judge`

It serves demos and tests: `python -m flywheel_stand_ins judge`. As real judges do, it can favour a
place (where the longer answer stands) and answer without a rating.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from dataclasses import dataclass

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flywheel.evaluation.rubric import CALLS
from flywheel.students.similarity import Similarity
from flywheel.workloads.tool_calls import parse_calls

MODEL = "stand-in-judge"
_QUESTION = re.compile(r'^Answer 1: (".*")\nAnswer 2: (".*")$', re.MULTILINE)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class JudgeBehaviour:
    """How the judge misbehaves.

    Attributes:
        position_bias: points of the scale that it adds where the longer answer comes first, and takes off
            where it comes second.
        garbage_rate: share of its answers that have no rating.
    """

    position_bias: int = 0
    garbage_rate: float = 0.0
    seed: int = 0


class StandInJudge:
    """The application."""

    def __init__(self, behaviour: JudgeBehaviour | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self._behaviour = behaviour or JudgeBehaviour()
        self._random = random.Random(self._behaviour.seed)
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
            ]
        )

    async def _complete(self, request: Request) -> Response:
        self.calls["calls"] += 1
        try:
            body = orjson.loads(await request.body())
            system, user = body["messages"][0]["content"], body["messages"][-1]["content"]
            found = _QUESTION.search(user)
            first, second = (orjson.loads(text) for text in found.groups()) if found else (None, None)
        except (orjson.JSONDecodeError, LookupError, TypeError):
            first = second = None
        if first is None or second is None:
            error = {"message": "stand-in judge: expected a question about two answers", "type": "bad"}
            return _json({"error": error}, 400)
        rating = self.rating(first, second, calls=system == CALLS.system)
        answer = f"They agree in part. [[{rating}]]"
        if self._random.random() < self._behaviour.garbage_rate:
            self.calls["garbage"] += 1
            answer = "I would rather not rate this."
        message = {"role": "assistant", "content": answer}
        usage = {"prompt_tokens": len(user) // 4, "completion_tokens": len(answer) // 4}
        return _json(
            {
                "id": f"stand-in-{time.time_ns():x}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": MODEL,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {**usage, "total_tokens": sum(usage.values())},
            }
        )

    def rating(self, first: str, second: str, *, calls: bool) -> int:
        """Return the rating of two answers, as its behaviour makes it."""
        if calls:
            return int(_do_the_same(first, second))
        rating = 1 + round(9 * Similarity([]).of(first, second))
        if len(first) != len(second):
            rating += self._behaviour.position_bias * (1 if len(first) > len(second) else -1)
        return max(1, min(10, rating))

    async def _models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0}]})


def _do_the_same(first: str, second: str) -> bool:
    """Return whether the arguments of two answers' calls have the same words, whatever their form."""

    def words(text: str) -> list[tuple[str, list[str]]]:
        return sorted(
            (call.name, sorted(_WORD.findall(str(call.arguments).casefold()))) for call in parse_calls(text)
        )

    return words(first) == words(second)


def _json(data: object, status: int = 200) -> Response:
    return Response(orjson.dumps(data), status, media_type="application/json")
