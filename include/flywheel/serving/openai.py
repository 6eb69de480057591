"""OpenAI's chat completions: what is asked, what is answered, and how errors are said.

Fields and forms are those of OpenAI's API reference. What has no meaning for a classification (temperature,
top_p, seed, penalties, stop) is taken and changes nothing: the answer is the likeliest class.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flywheel.labels import answer_form
from flywheel.serving.student import Answer

# The most alternatives that `top_logprobs` may ask for, as at OpenAI.
MOST_ALTERNATIVES = 20
# No probability is so small that its logarithm is not a number of JSON.
_SMALLEST = 1e-12


class ApiError(Exception):
    """An error in OpenAI's form.

    Args:
        status: of HTTP.
        message: in a sentence.
        kind: OpenAI's `type`.
        param: the field that is wrong; None: no one field is.
        code: OpenAI's short name.
        retry_after: seconds after which to come again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(_Asked):
    """What a stream says besides the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Completion(_Asked):
    """A request for a chat completion."""

    model: str = Field(min_length=1, max_length=256)
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=256)
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=4096)
    n: Literal[1] | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None


def read_request(body: bytes) -> Completion:
    """Return a request, its messages' contents as plain texts.

    Raises:
        ApiError: it is no JSON, or a field is wrong or unknown; the message names it.
    """
    try:
        asked = Completion.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "the body"
        raise ApiError(400, f"{field}: {first['msg']}", param=field, code="invalid_value") from None
    return asked.model_copy(update={"messages": [_plain(message) for message in asked.messages]})


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content, where it is a list of parts of text, is one text."""
    if not isinstance(message.get("role"), str):
        raise ApiError(400, "messages: each needs a role", param="messages", code="invalid_value")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            said = "messages: content may hold parts of type text alone"
            raise ApiError(400, said, param="messages", code="invalid_value")
        return {**message, "content": "".join(part for part in parts if part)}
    if content is not None and not isinstance(content, str):
        raise ApiError(400, "messages: content is a text", param="messages", code="invalid_value")
    return message


class Reply:
    """The answer to one request, whole or as a stream.

    Args:
        asked: the request.
        adapter: key of the adapter that gave the answer; a teacher's answers are passed on as they are.
        name: of the candidate, as people read it.
    """

    def __init__(self, asked: Completion, adapter: str, name: str, answer: Answer) -> None:
        self._asked, self._answer = asked, answer
        self._own = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": asked.model,
            "system_fingerprint": f"fw_{adapter}",
        }
        self._flywheel: dict[str, Any] = {"student": name, "adapter": adapter}
        if answer.label is not None:
            self._flywheel["label"] = answer.label
            self._flywheel["probability"] = round(answer.probabilities[answer.label], 6)

    def whole(self) -> dict[str, Any]:
        """Return the completion."""
        message, finish = self._message()
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(), "finish_reason": finish}
        return {
            **self._own,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage(),
            "flywheel": self._flywheel,
        }

    def chunks(self) -> Iterator[bytes]:
        """Give the events of a stream: a student's answer is there at once, and so is one piece."""
        message, finish = self._message()
        usage = bool(self._asked.stream_options and self._asked.stream_options.include_usage)
        calls = [{"index": place, **call} for place, call in enumerate(message.get("tool_calls", ()))]
        delta = {**message, **({"tool_calls": calls} if calls else {})}
        delta.pop("refusal", None)
        yield self._event([{"index": 0, "delta": delta, "logprobs": self._logprobs(), "finish_reason": None}])
        end = [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}]
        yield self._event(end, flywheel=self._flywheel)
        if usage:
            yield self._event([], usage=self._usage())
        yield b"data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        event = {**self._own, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + orjson.dumps(event) + b"\n\n"

    def _message(self) -> tuple[dict[str, Any], str]:
        from flywheel.tool_calls import parse_calls

        calls = parse_calls(self._answer.text) if self._asked.tools else ()
        if calls:
            made = []
            for call in calls:
                function = call.to_json()["function"]
                arguments = function["arguments"]
                text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
                own = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
                made.append({**own, "function": {**function, "arguments": text}})
            return {"role": "assistant", "content": None, "refusal": None, "tool_calls": made}, "tool_calls"
        message = {"role": "assistant", "content": self._answer.text, "refusal": None}
        return message, "length" if self._answer.cut else "stop"

    def _usage(self) -> dict[str, int]:
        asked, given = self._answer.prompt_tokens, self._answer.answer_tokens
        return {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}

    def _logprobs(self) -> dict[str, Any] | None:
        """Return the classes' probabilities in OpenAI's form: an answer counts as one token."""
        if not self._asked.logprobs or self._answer.label is None:
            return None
        ranked = sorted(self._answer.probabilities.items(), key=lambda item: -item[1])

        def one(label: str, probability: float) -> dict[str, Any]:
            text = answer_form(label)
            logprob = math.log(max(_SMALLEST, probability))
            return {"token": text, "logprob": round(logprob, 6), "bytes": list(text.encode())}

        given = one(self._answer.label, self._answer.probabilities[self._answer.label])
        top = [one(*pair) for pair in ranked[: self._asked.top_logprobs or 0]]
        return {"content": [{**given, "top_logprobs": top}], "refusal": None}
