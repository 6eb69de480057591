"""A teacher with all the bad manners that public reports tell of, and a count of what it did."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

import orjson

from tests.unit.teacher_servers import body_of
from tests.unit.test_stages_label import WORKLOAD

CUT_OFF_TOKENS = 256
_WRONG = "[[[{wrong}]]] may fit, but [[[{right}]]] wins"
# What a model thinks first, in five markings; the last two are a field and parts of their own.
MARKINGS = ("tags", "closing mark alone", "brackets", "channels", "field", "parts", "none")


class BadTeacher:
    """An ASGI application that knows the labels of texts.

    It thinks aloud, answers in parts, forgets usage, compresses, refuses `refused` of the texts for ever, cuts
    off `cut_off` of its answers, and is degraded (400 to everything) for some calls after the first ones.
    What it does to a text depends on the text and how often it was asked, never on the order of calls.

    Attributes:
        usable: how often each text got an answer with its class.
        last: what each text got last: `usable`, `cut off`, `refusal`, `flagged` or `degraded`.
        tokens: of all that is paid for, told or not.
    """

    def __init__(
        self,
        labels: Mapping[str, str],
        *,
        refused: float = 0.01,
        cut_off: float = 0.05,
        degraded: tuple[int, int] = (0, 0),
        encodings: tuple[str, ...] = ("", "gzip", "deflate"),
    ) -> None:
        self.usable: Counter[str] = Counter()
        self.last: dict[str, str] = {}
        self.did: Counter[str] = Counter()
        self.tokens = 0.0
        self._labels = labels
        self._refused, self._cut_off = refused, cut_off
        self._degraded = degraded
        self._encodings = encodings
        self._asked: Counter[str] = Counter()
        self._calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = await body_of(receive)
        status, data, rng = self._answer(body)
        headers = []
        encoding = rng.choice(self._encodings)
        if encoding:
            self.did[encoding] += 1
            data = gzip.compress(data) if encoding == "gzip" else zlib.compress(data)
            headers.append((b"content-encoding", encoding.encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def _answer(self, body: bytes) -> tuple[int, bytes, Random]:
        text = WORKLOAD.text_of(orjson.loads(body)["messages"]) or ""
        number = self._asked[text]
        self._asked[text] += 1
        rng, self._calls = Random(f"{text}/{number}"), self._calls + 1
        if self._degraded[0] <= self._calls < self._degraded[1]:
            return 400, self._error(text, "degraded", "DEGRADED function cannot be invoked"), rng
        of_text = Random(text)
        if of_text.random() < self._refused:
            if of_text.random() < 0.5:
                return 403, self._error(text, "flagged", "input was flagged"), rng
            self._pay(text, "refusal", body, 8)
            return 200, _completion({"content": None, "refusal": "I cannot."}, "stop"), rng
        if rng.random() < self._cut_off:
            self._pay(text, "cut off", body, CUT_OFF_TOKENS)
            thought = rng.choice([None, "<think>It may be [[[guidance]]], for", ""])
            return 200, _completion({"content": thought}, "length"), rng
        self.usable[text] += 1
        marking = rng.choice(MARKINGS)
        self.did[marking] += 1
        message, written = _message(self._labels[text], marking)
        prompt, completion = len(body) * 0.25, written * 0.25
        self._pay(text, "usable", body, completion)
        kind = rng.choice(["told", "floats", "none", "null", "empty", "zeros"])
        self.did[kind] += 1
        usages: dict[str, Any] = {
            "told": {"prompt_tokens": round(prompt), "completion_tokens": round(completion)},
            "floats": {"prompt_tokens": prompt, "completion_tokens": completion},
            "null": None,
            "empty": {},
            "zeros": {"prompt_tokens": 0, "completion_tokens": 0},
        }
        usage = {} if kind == "none" else {"usage": usages[kind]}
        return 200, _completion(message, "stop", **usage), rng

    def _error(self, text: str, what: str, message: str) -> bytes:
        self.last[text] = what
        self.did[what] += 1
        return orjson.dumps({"error": {"message": message}})

    def _pay(self, text: str, what: str, body: bytes, completion: float) -> None:
        self.last[text] = what
        self.did[what] += 1
        self.tokens += len(body) * 0.25 + completion


def _completion(message: dict[str, Any], reason: str, **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    return orjson.dumps({"model": "bad", "choices": [choice], **more})


def _message(label: str, marking: str) -> tuple[dict[str, Any], int]:
    """Return a message that names a class after a thought of others, and the bytes of its texts."""
    wrong = "guidance" if label != "Guidance" else "earnings"
    thought, answer = _WRONG.format(wrong=wrong, right=label.lower()), f"[[[{label.lower()}]]]"
    if marking == "field":
        return {"content": answer, "reasoning_content": thought}, len(answer) + len(thought)
    if marking == "parts":
        parts = [
            {"type": "thinking", "thinking": [{"type": "text", "text": thought}]},
            {"type": "text", "text": answer[:5]},
            {"type": "text", "text": answer[5:]},
        ]
        return {"content": parts}, len(answer) + len(thought)
    content = {
        "tags": f"<think>{thought}</think>\n\nThe class is {answer}.",
        "closing mark alone": f"{thought}\n</think>\n\n{label}",
        "brackets": f"[THINK]{thought}[/THINK]{answer}",
        "channels": f"<|channel|>analysis<|message|>{thought}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{answer}",
        "none": answer,
    }[marking]
    return {"content": content}, len(content)
