"""Reads what an endpoint answered: a chat completion, an error's message, how long to wait."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from flywheel.teacher.known import OWN_NOTES
from flywheel.workloads.contents import REFUSAL, PartError, text_of_parts

# What an answer without a class suffers from, and what mends it.
CUT_OFF = (
    "the teacher's answer was cut off (finish_reason length): raise teacher.max_tokens, or what "
    "teacher.request has in its place; a reasoning model needs hundreds of tokens for its thoughts"
)
REFUSED = (
    "the teacher refused to answer (refusal, or finish_reason content_filter): take another teacher.model, "
    "or a prompt (the key workload) that it does not refuse"
)
CALLED = (
    "the teacher called a function instead of answering (tool_calls): take another teacher.model, or an "
    "endpoint that offers it no functions"
)
EMPTY = (
    "the teacher's answer is empty, or nothing but thoughts: raise teacher.max_tokens, or take another "
    "teacher.model"
)
THOUGHTS = (
    "the teacher's answer is empty, its thoughts alone are there (reasoning): raise teacher.max_tokens, or, "
    "where the thoughts hold the answer, serve it without that reasoning parser"
)
# What servers call the end of an answer, in lower case.
_CUT_OFF = frozenset({"length", "max_tokens", "model_length", "max_output_tokens"})
_FILTERED = ("content_filter", "refusal", "safety", "prohibited", "blocklist", "guardrail")
_THOUGHTS = ("reasoning_content", "reasoning")
# Of one call; more is no count, nor is NaN.
_MOST_TOKENS = 1e9
# A message may have these instead of a content.
_INSTEAD = ("tool_calls", "function_call", "refusal", *_THOUGHTS)


class MalformedError(Exception):
    """An answer with status 200 that is no chat completion."""


class ErrorInAnswerError(Exception):
    """An error that came with status 200, as gateways do when a model behind them fails.

    Attributes:
        status: that it says it is; 502 where it says none.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Reply:
    """What the teacher answered.

    Attributes:
        model: that the endpoint says it is.
        usage: the tokens it counted.
        confidence: how probable this answer was: the product of its tokens' probabilities, from the logprobs;
            None without any.
        written: bytes of all that the model wrote, thoughts and calls too; it stands for tokens that are not
            told, and is 0 where they are.
        fault: why it may be of no use (`CUT_OFF`, `REFUSED`, `CALLED`, `EMPTY`); empty where nothing is known
            to be wrong. One that names a class all the same is an answer.
    """

    content: str
    model: str
    usage: dict[str, Any] = field(default_factory=dict)
    confidence: float | None = None
    fault: str = ""
    written: int = field(default=0, compare=False)


def read_reply(data: bytes) -> Reply:
    """Read a chat completion.

    Raises:
        MalformedError: it is none.
        ErrorInAnswerError: it is an error.
    """
    try:
        completion = orjson.loads(data)
        _check_error(data, completion)
        choice = completion["choices"][0]
        # Gemini's have no content where thoughts took all tokens, Azure's no message where a filter did.
        is_over = isinstance(choice.get("finish_reason"), str)
        message = (choice.get("message") or {}) if is_over else choice["message"]
        is_there = is_over or any(message.get(name) for name in _INSTEAD)
        content = message.get("content") if is_there else message["content"]
        written = _written(message)
    except RecursionError:
        raise MalformedError(f"malformed answer: nested too deeply: {data[:120]!r}") from None
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        raise MalformedError(f"malformed answer: {data[:200].decode('utf-8', 'replace')!r}") from None
    if content is None:  # nothing but reasoning, or stopped by a filter
        content = ""
    refused = bool(message.get("refusal"))
    if isinstance(content, list):
        refused = refused or any(isinstance(part, dict) and part.get("type") == REFUSAL for part in content)
        try:
            content = text_of_parts(content, frozenset({REFUSAL}))
        except PartError as error:
            raise MalformedError(f"malformed answer: content.{error}") from None
    if not isinstance(content, str):
        raise MalformedError(f"malformed answer: its content is no text but {type(content).__name__}")
    model, usage = completion.get("model"), completion.get("usage")
    return Reply(
        content,
        model if isinstance(model, str) else "",
        _counts(usage),
        _confidence(choice.get("logprobs")),
        _fault(choice.get("finish_reason"), message, content, refused=refused),
        written,
    )


def _check_error(data: bytes, completion: dict[str, Any]) -> None:
    """Raise the error that stands in an answer's place, beside it or in its first choice."""
    choices = completion.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    error = completion.get("error") or first.get("error")
    if not error and first.get("finish_reason") != "error":
        return
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int | str) and re.fullmatch("[45][0-9]{2}", str(code)) else 0
    body = data if completion.get("error") else orjson.dumps({"error": error or "finish_reason error"})
    raise ErrorInAnswerError(error_message(body), status or 502)


def _fault(reason: Any, message: dict[str, Any], content: str, *, refused: bool) -> str:
    reason = reason.lower() if isinstance(reason, str) else ""
    if reason in _CUT_OFF:
        return CUT_OFF
    if refused or reason.startswith(_FILTERED):  # also `content_filter: PROHIBITED_CONTENT`
        return REFUSED
    if message.get("tool_calls") or message.get("function_call"):
        return CALLED
    if content.strip():
        return ""
    return THOUGHTS if any(message.get(name) for name in _THOUGHTS) else EMPTY


def _written(value: Any) -> int:
    """Return the bytes of the texts in a message, at any depth."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return sum(_written(part) for name, part in value.items() if name != "role")
    return sum(map(_written, value)) if isinstance(value, list) else 0


def _counts(usage: Any) -> dict[str, Any]:
    """Return the counts of a usage, those one level below too; what else stands there is nobody's concern."""
    if not isinstance(usage, dict):
        return {}
    parts = {name: _numbers(value) if isinstance(value, dict) else value for name, value in usage.items()}
    return _numbers({name: value for name, value in parts.items() if name not in OWN_NOTES}, dict)


def _numbers(counts: dict[str, Any], *others: type) -> dict[str, Any]:
    return {name: value for name, value in counts.items() if isinstance(value, (int, float, *others))}


def _confidence(logprobs: Any) -> float | None:
    """Return the probability of an answer; None where the endpoint gave no usable logprobs."""
    try:
        total = math.fsum(float(token["logprob"]) for token in logprobs["content"])
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    return round(math.exp(min(total, 0.0)), 6) if logprobs["content"] and total == total else None


def tokens_of(usage: dict[str, Any], name: str) -> int:
    """Return a token count of an answer's usage: `prompt_tokens`, `completion_tokens` or `cached_tokens`.

    0 where it does not say, or says what is no count; what the prompt or the answer lacks is taken from
    `total_tokens`, if that is there.
    """
    if name == "cached_tokens":
        details = usage.get("prompt_tokens_details")
        return _count(details.get(name)) if isinstance(details, dict) else 0
    found = _count(usage.get(name))
    if found or "total_tokens" not in usage:
        return found
    other = _count(usage.get("completion_tokens" if name == "prompt_tokens" else "prompt_tokens"))
    return max(0, _count(usage["total_tokens"]) - other) if other else 0


def _count(value: Any) -> int:
    """Return a count that an endpoint told; some tell floats."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST_TOKENS:
        return 0
    return round(value)


def error_message(data: bytes) -> str:
    """Return the message inside an error body, in the forms that servers use, else its beginning."""
    try:
        found: Any = orjson.loads(data)
        field: Any = None
        for key in ("error", "message", "detail"):
            if isinstance(found, dict) and found.get(key):
                field = found.get("param", field)
                found = found[key]
        message = str(found)[:500]
        is_named = not isinstance(field, str) or field in message
        return message if is_named else f"{message} (field {field[:80]!r})"
    except (orjson.JSONDecodeError, RecursionError):
        return data[:200].decode("utf-8", "replace").strip() or "(no message)"


def advice_for(status: int, location: str | None) -> str:
    """Return what to do about a status that no other call will mend."""
    if status in (401, 403):
        return (
            "check the key: the connection's password or FLYWHEEL_TEACHER_API_KEY; teacher.key_header names "
            "the header that it goes into"
        )
    if status == 404:
        return "check the address (it usually ends in /v1) and teacher.model"
    if location:
        return f"it points to {location}: set that as the address"
    return "check the address and the teacher section of the config"
