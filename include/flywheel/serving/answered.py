"""A request with its answer, before the answer is sent: what a listener keeps, or answers better.

    serving.listeners.append(keep)        # async def keep(answered: Answered) -> Answered

Listeners are called in order, each with what the one before it returned. One that returns the record as it
came has only read it; one that returns another changes who answers. The answer is sent when the last one
has returned, so what must be durable before that is awaited there. An `ApiError` that one raises is the
answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flywheel.serving.student import Answer

TEACHER = "teacher"
# The most alternatives that `top_logprobs` may ask for, as at OpenAI.
MOST_ALTERNATIVES = 20


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


@dataclass(frozen=True)
class Escalation:
    """What became of an answer that a student was not sure enough of.

    Attributes:
        adapter, label, confidence: of the student, and what it would have answered; None: there is none yet.
        is_answer: the teacher's answer is sent.
        why: why it is not; empty where it is.
        key: of the teacher's answer in the store; `usage` its tokens, `cost` by teacher.prices; `found`: it
            was paid for before.
    """

    adapter: str | None = None
    label: str | None = None
    confidence: float | None = None
    is_answer: bool = False
    why: str = ""
    key: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    cost: float = 0.0
    found: bool = False


@dataclass(frozen=True)
class Answered:
    """A request with its answer.

    Attributes:
        id: of the completion, as the caller sees it.
        at: when the request came, in seconds since 1970.
        seconds: that the answer has taken so far.
        caller: name of the key that asked; None: the endpoint has no keys.
        trace: the request's `traceparent`, of W3C's trace context; None: it had none.
        asked: the request as it came, its messages' contents as plain texts.
        by: who answered: a student's name as people read it (`large @ 2500`), or `teacher`.
        adapter: the key of its adapter; None: the teacher answered.
        answer: the answer; of the teacher's its text alone.
        completion: the teacher's whole completion, as it gave it; None: a student answered.
        escalation: of an answer that a student was not sure enough of.
    """

    id: str
    at: float
    seconds: float
    caller: str | None
    trace: str | None
    asked: Completion
    by: str
    adapter: str | None
    answer: Answer
    completion: dict[str, Any] | None = None
    escalation: Escalation | None = None


Listener = Callable[[Answered], Awaitable[Answered]]
