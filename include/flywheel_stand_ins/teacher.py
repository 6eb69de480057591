"""A stand-in for a teacher: an OpenAI-compatible server that gives answers from a file. It is no model.

    POST /v1/chat/completions   the answer to the text of the file that one of the prompt's last lines is
    GET  /v1/models             the one model, `stand-in`
    GET  /health                200 once it serves
    GET  /stats                 calls, what became of them, and the tokens of the answers

It serves demos and tests: `python -m flywheel_stand_ins teacher --answers FILE`. A text that the file does
not have gets status 422, not an invented answer. For tests it can be slow, fail, ask to be left alone (429
with Retry-After) and talk nonsense, by shares that a seed makes repeatable.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

# Only the orchestrator and the development environment have these two; no other module imports this one.
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flywheel.common.errors import SourceError, TeacherError
from flywheel.common.listening import listen
from flywheel.sources import clean_text
from flywheel.workloads.labels import answer_form
from flywheel.workloads.markers import for_teacher

MODEL = "stand-in"
# The text is in one of so many last lines of a prompt; further up stand examples, which may be in the file.
LINES_SEARCHED = 3
_GARBAGE = ("I would rather not say.", "[[[sports]]]", "", "[[[earnings]]] or [[[guidance]]]")


@dataclass(frozen=True)
class TeacherBehaviour:
    """How the server misbehaves.

    Attributes:
        latency_seconds: before each answer.
        fail_rate: share of calls that get status 500.
        busy_rate: share of calls that get status 429 with Retry-After.
        retry_after_seconds: what that header says.
        garbage_rate: share of calls whose answer names no class, or two.
        malformed_rate: share of calls whose body is cut off.
        api_key: the key that a call must bring; None for none.
    """

    latency_seconds: float = 0.0
    fail_rate: float = 0.0
    busy_rate: float = 0.0
    retry_after_seconds: float = 1.0
    garbage_rate: float = 0.0
    malformed_rate: float = 0.0
    api_key: str | None = None
    seed: int = 0


class StandIn:
    """The application: texts with their labels in, answers in the asked form out."""

    def __init__(self, labels: Mapping[str, str], behaviour: TeacherBehaviour | None = None) -> None:
        self.calls: Counter[str] = Counter()
        # A text is asked for as prompts hold it.
        self._labels = {for_teacher(text): label for text, label in labels.items()} | dict(labels)
        self._behaviour = behaviour or TeacherBehaviour()
        self._random = random.Random(self._behaviour.seed)
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._health),
                Route("/stats", self._stats),
            ]
        )

    async def _complete(self, request: Request) -> Response:
        behaviour = self._behaviour
        self.calls["calls"] += 1
        if behaviour.latency_seconds:
            await asyncio.sleep(behaviour.latency_seconds)
        if behaviour.api_key and request.headers.get("authorization") != f"Bearer {behaviour.api_key}":
            return self._error("unauthorized", 401, "stand-in: wrong or missing API key")
        chance = self._random.random()
        if chance < behaviour.fail_rate:
            return self._error("failed", 500, "stand-in: failed, as --fail-rate asks for")
        chance -= behaviour.fail_rate
        if 0 <= chance < behaviour.busy_rate:
            wait = {"Retry-After": f"{behaviour.retry_after_seconds:g}"}
            return self._error("busy", 429, "stand-in: busy, as --busy-rate asks for", wait)
        chance -= behaviour.busy_rate
        try:
            body = orjson.loads(await request.body())
            prompt = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
            lines = prompt.splitlines()
        except (orjson.JSONDecodeError, LookupError, TypeError, StopIteration, AttributeError):
            return self._error(
                "bad", 400, "stand-in: expected a chat-completions request with a user message"
            )
        label = self._label(lines)
        if label is None:
            return self._error("unknown", 422, f"stand-in has no answer for: {_ending(lines)}")
        answer = answer_form(label)
        if 0 <= chance < behaviour.garbage_rate:
            self.calls["garbage"] += 1
            answer = self._random.choice(_GARBAGE)
        chance -= behaviour.garbage_rate
        usage = _usage(answer, prompt)
        self.calls.update(usage)
        data = _completion(answer, usage)
        if 0 <= chance < behaviour.malformed_rate:
            self.calls["malformed"] += 1
            data = data[: len(data) // 2]
        self.calls["answered"] += 1
        return Response(data, media_type="application/json")

    def _label(self, lines: list[str]) -> str | None:
        """Return the label of the text that one of the last lines is, with or without `Word: ` before it."""
        for line in reversed(lines[-LINES_SEARCHED:]):
            text = clean_text(line)
            label = self._labels.get(text)
            if label is None:
                label = self._labels.get(text.partition(": ")[2])
            if label is not None:
                return label
        return None

    async def _models(self, request: Request) -> Response:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "flywheel"}
        return _json({"object": "list", "data": [model]})

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok", "model": MODEL, "texts": len(self._labels)})

    async def _stats(self, request: Request) -> Response:
        return _json({"model": MODEL, "calls": 0, "answered": 0, **self.calls})

    def _error(self, kind: str, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        self.calls[kind] += 1
        return _json({"error": {"message": message, "type": kind, "model": MODEL}}, status, headers)


def read_answers(path: Path, text_column: str, label_column: str) -> dict[str, str]:
    """Read texts with their labels from a CSV file, compressed with gzip or not. A text's first label counts.

    Raises:
        SourceError: no such file, not UTF-8 text, or a column is missing.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    labels: dict[str, str] = {}
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for column in (text_column, label_column):
                if column not in (reader.fieldnames or ()):
                    there = ", ".join(reader.fieldnames or ()) or "none"
                    raise SourceError(f"{path}: no column {column!r}; its columns are {there}")
            for row in reader:
                text, label = clean_text(row[text_column] or ""), (row[label_column] or "").strip()
                if text and label:
                    labels.setdefault(text, label)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read as CSV: {error}") from error
    return labels


def serve(
    labels: Mapping[str, str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    behaviour: TeacherBehaviour | None = None,
) -> None:
    """Serve until interrupted; says its address once it answers.

    Raises:
        TeacherError: the address cannot be had.
    """
    application = StandIn(labels, behaviour).app
    announced(application, host, port, lambda url: f"stand-in teacher: {url} answers for {len(labels)} texts")


def announced(application: Starlette, host: str, port: int, line: Callable[[str], str]) -> None:
    """Serve an application until interrupted.

    Args:
        line: makes what is said once it answers, of its address.

    Raises:
        TeacherError: the address cannot be had.
    """
    listening = listen(host, port, TeacherError)
    port = listening.getsockname()[1]

    @asynccontextmanager
    async def announce(_: Starlette) -> AsyncIterator[None]:
        print(line(f"http://{host}:{port}/v1"), flush=True)  # noqa: T201  what was started by hand says where it is
        yield

    application.router.lifespan_context = announce
    config = uvicorn.Config(application, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


def _usage(answer: str, prompt: str) -> dict[str, int]:
    # About 4.3 characters a token, as a Llama tokenizer makes of the news prompt; an estimate, and enough
    # to show what a teacher's bill counts.
    asked, given = round(len(prompt) / 4.3), max(1, round(len(answer) / 4.3))
    return {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}


def _completion(answer: str, usage: dict[str, int]) -> bytes:
    return orjson.dumps(
        {
            "id": f"stand-in-{time.time_ns():x}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
            ],
            "usage": usage,
        }
    )


def _json(data: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(data), status, headers, "application/json")


def _ending(lines: list[str]) -> str:
    """Return the end of a prompt, for a message."""
    return " / ".join(clean_text(line) for line in lines[-2:])[:300]
