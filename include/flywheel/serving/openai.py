"""OpenAI's chat completions: what is asked, what is answered, and how errors are said.

Fields and forms are those of OpenAI's API reference. What has no meaning for a classification (temperature,
top_p, seed, penalties, stop) is taken and changes nothing: the answer is the likeliest class.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import ValidationError

from flywheel.serving.answered import TEACHER, Answered, Completion
from flywheel.workloads.labels import answer_form

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


class EndpointReply:
    """The answer to one request, whole or as a stream.

    Args:
        answered: the request with its answer.
    """

    def __init__(self, answered: Answered) -> None:
        self._asked, self._answer = answered.asked, answered.answer
        self._teachers = answered.completion
        self._own = {
            "id": answered.id,
            "created": int(answered.at),
            "model": answered.asked.model,
            "system_fingerprint": f"fw_{answered.adapter or TEACHER}",
        }
        self._flywheel: dict[str, Any] = {"student": answered.by, "adapter": answered.adapter}
        if self._answer.label is not None:
            self._flywheel["label"] = self._answer.label
            if self._answer.label in self._answer.probabilities:
                self._flywheel["probability"] = round(self._answer.probabilities[self._answer.label], 6)
        if (escalation := answered.escalation) is not None:
            # Why the student did not answer by itself, or why the teacher did not in its place.
            self._flywheel["unsure"] = {"teacher_answered": escalation.is_answer, "why": escalation.why}

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
        calls = [{"index": place, **call} for place, call in enumerate(message.get("tool_calls") or ())]
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

    def _message(self) -> tuple[dict[str, Any], str | None]:
        from flywheel.workloads.tool_calls import parse_calls

        if self._teachers is not None:
            choice = self._teachers["choices"][0]
            return choice["message"], choice.get("finish_reason")
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
        if self._teachers is not None:
            usage: dict[str, int] = self._teachers.get("usage") or {}
            return usage
        asked, given = self._answer.prompt_tokens, self._answer.answer_tokens
        return {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}

    def _logprobs(self) -> dict[str, Any] | None:
        """Return the classes' probabilities in OpenAI's form: an answer counts as one token."""
        if self._teachers is not None:
            given: dict[str, Any] | None = self._teachers["choices"][0].get("logprobs")
            return given
        if not self._asked.logprobs or self._answer.label is None:
            return None
        ranked = sorted(self._answer.probabilities.items(), key=lambda item: -item[1])

        def one(label: str, probability: float) -> dict[str, Any]:
            text = answer_form(label)
            logprob = math.log(max(_SMALLEST, probability))
            return {"token": text, "logprob": round(logprob, 6), "bytes": list(text.encode())}

        own = one(self._answer.label, self._answer.probabilities[self._answer.label])
        top = [one(*pair) for pair in ranked[: self._asked.top_logprobs or 0]]
        return {"content": [{**own, "top_logprobs": top}], "refusal": None}
