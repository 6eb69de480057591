"""The log record: one request to the teacher and its answer, in OpenAI chat format, as applications do."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import orjson

from flywheel.common.errors import RecordError
from flywheel.config.evaluation import WorkloadType
from flywheel.workloads.contents import PartError, text_of_parts
from flywheel.workloads.labels import parse_label, without_thinking
from flywheel.workloads.tool_calls import ToolCall, check_tools, functions, read_calls

Message = dict[str, Any]
# Who gave a record its label: flywheel's teacher, an application whose log holds the call, or whoever posted
# it to the API. The first is the strongest word.
LabelledBy = Literal["teacher", "application", "posted"]
STRENGTH: tuple[LabelledBy, ...] = get_args(LabelledBy)

MAX_CONTENT_CHARACTERS = 1_000_000
MAX_NAME_CHARACTERS = 256
MAX_MESSAGES = 10_000
# Unix seconds of the year 3000: beyond it, a log gave milliseconds or nonsense.
_LATEST_TIMESTAMP = 32_503_680_000
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
# Before the workload of records that are production's requests with their answers, and train nothing.
TRAFFIC = "production:"
# The label of answers that are neither of a class nor of a function.
FREE_TEXT = "text"


@dataclass(frozen=True, slots=True)
class Record:
    """A validated log record.

    Attributes:
        id: 32 hex digits made from the content, so that the same record written twice is one record.
        timestamp: unix seconds.
        request: `{"model": ..., "messages": [...], ...}` as logged, but for contents in parts, which are the
            text that they are; `tools` are the functions it offers.
        response: `{"choices": [{"message": {...}}], ...}` as logged.
        label: the class named by the answer; of calls, the functions: `get_quote()`; else `text`.
        known_at: unix seconds from which the text counts as known, with its label; None: nobody knows when
            (undated), so no dated run may use it. No part of the id.
        labelled_by: who gave the label; no part of the id.
        origin: file and line that it was read from, where known; no part of the record.
    """

    id: str
    workload_id: str
    client_id: str
    timestamp: int
    request: dict[str, Any]
    response: dict[str, Any]
    label: str
    known_at: int | None = None
    labelled_by: LabelledBy = "application"
    origin: tuple[str, int] | None = field(default=None, compare=False, repr=False)

    @property
    def messages(self) -> list[Message]:
        """The request's messages."""
        messages: list[Message] = self.request["messages"]
        return messages

    @property
    def answer(self) -> str:
        """The teacher's answer, as text; empty where it only calls functions."""
        content: str | list[Any] | None = self.response["choices"][0]["message"].get("content")
        return text_of_parts(content) if isinstance(content, list) else content or ""

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls of the teacher's answer, as logged."""
        return self.response["choices"][0]["message"].get("tool_calls") or []

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The functions that the request offers."""
        return self.request.get("tools") or []

    def to_json(self) -> dict[str, Any]:
        """Return the record in the log format."""
        return {
            "request": self.request,
            "response": self.response,
            "workload_id": self.workload_id,
            "client_id": self.client_id,
            "timestamp": self.timestamp,
        }

    @classmethod
    def from_json(
        cls,
        data: Any,
        classes: Sequence[str],
        aliases: Mapping[str, str],
        origin: tuple[str, int] | None = None,
        *,
        workload_type: WorkloadType = "auto",
        parse_arguments: bool = True,
        known_at: int | None = None,
        labelled_by: LabelledBy = "application",
    ) -> Record:
        """Validate a log record.

        Args:
            data: the decoded JSON of one record.
            classes: the workload's classes; the answer must name one of them, unless there are none.
            aliases: other spellings of classes.
            origin: file and line that it was read from.
            workload_type: what answers may be; auto: calls of functions, and texts that name a class if
                there are classes.
            parse_arguments: the arguments of the answer's calls must be JSON objects.
            known_at: unix seconds; None: its timestamp, or nothing where that is 0.
            labelled_by: never read from `data`, which may be anybody's.

        Raises:
            RecordError: the message names the key that is wrong and what was expected.
        """
        if not isinstance(data, dict):
            raise RecordError(f"expected a JSON object, got {type(data).__name__}")
        workload_id = _text(data, "workload_id")
        if workload_id.startswith(TRAFFIC):
            raise RecordError(
                f"workload_id: expected none that begins with {TRAFFIC!r}: that is production's"
            )
        client_id = _text(data, "client_id")
        timestamp = data.get("timestamp")
        if isinstance(timestamp, bool) or not isinstance(timestamp, int | float) or timestamp != timestamp:
            raise RecordError(f"timestamp: expected unix seconds, got {repr(timestamp)[:80]}")
        if not 0 <= timestamp <= _LATEST_TIMESTAMP:
            raise RecordError(f"timestamp: expected unix seconds, got {timestamp} (milliseconds?)")
        request, response = data.get("request"), data.get("response")
        if not isinstance(request, dict):
            raise RecordError("request: expected an object with model and messages")
        _check_model(request, "request")
        messages = _check_messages(request.get("messages"))
        if messages is not request["messages"]:
            request = {**request, "messages": messages}
        tools = check_tools(request.get("tools") or [], "request.tools")
        answer, calls = _check_answer(response, tools, parse_arguments)
        label = _label(answer, calls, bool(tools), classes, aliases, workload_type)
        assert isinstance(response, dict)
        return cls(
            id=record_id(
                workload_id,
                client_id,
                int(timestamp),
                request.get("model"),
                messages,
                answer,
                offered=request.get("tools") or None,
                calls=calls,
            ),
            workload_id=workload_id,
            client_id=client_id,
            timestamp=int(timestamp),
            request=request,
            response=response,
            label=label,
            known_at=known_by(int(timestamp)) if known_at is None else known_at,
            labelled_by=labelled_by,
            origin=origin,
        )


def check_no_student(record: Record, students: Collection[str]) -> None:
    """Refuse a record whose answer a student gave: students' answers never train.

    Args:
        students: names of models, as requests and responses say them.

    Raises:
        RecordError: the request's or the response's `model` is one of them, or the fine-tuned form of one,
            which the API names MODEL@ADAPTER.
    """
    for where, part in (("request", record.request), ("response", record.response)):
        model = part.get("model")
        if isinstance(model, str) and (model in students or model.partition("@")[0] in students):
            raise RecordError(
                f"{where}.model: a student answered ({model:.80}); students' answers never train"
            )


def known_by(timestamp: int) -> int | None:
    """Return when a record with that timestamp counts as known; None of one without a time (0)."""
    return timestamp if timestamp > 0 else None


def record_id(
    workload_id: str,
    client_id: str,
    timestamp: int,
    model: Any,
    messages: list[Message],
    answer: str,
    *,
    offered: list[Any] | None = None,
    calls: Sequence[ToolCall] = (),
) -> str:
    """Return the id of a record with that content: 32 hex digits of a SHA-256.

    What varies between two logs of one call (ids, usage, finish reasons) takes no part in it.

    Args:
        offered: the tools of the request.
        calls: of the answer.
    """
    content = [workload_id, client_id, timestamp, model, messages, answer]
    if offered or calls:
        content += [offered, [call.to_json() for call in calls]]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def make_record(
    *,
    workload_id: str,
    client_id: str,
    timestamp: int,
    model: str,
    messages: list[Message],
    answer: str,
    label: str,
    confidence: float | None = None,
    known_at: int | None = None,
    labelled_by: LabelledBy = "teacher",
) -> Record:
    """Return the record of a call that flywheel itself made.

    Args:
        confidence: how probable the answer was, where the teacher told; kept in the response.
        known_at: unix seconds; None: its timestamp, or nothing where that is 0.
    """
    response: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": answer}}]}
    if confidence is not None:
        response["confidence"] = confidence
    return Record(
        id=record_id(workload_id, client_id, timestamp, model, messages, answer),
        workload_id=workload_id,
        client_id=client_id,
        timestamp=timestamp,
        request={"model": model, "messages": messages},
        response=response,
        label=label,
        known_at=known_by(timestamp) if known_at is None else known_at,
        labelled_by=labelled_by,
    )


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if isinstance(value, str) and len(value) > MAX_NAME_CHARACTERS:
        raise RecordError(f"{key}: expected at most {MAX_NAME_CHARACTERS} characters, got {len(value)}")
    if not isinstance(value, str) or not value.strip():
        raise RecordError(f"{key}: expected a text that is not empty, got {repr(value)[:80]}")
    return value


def _check_model(part: Mapping[str, Any], where: str) -> None:
    model = part.get("model")
    if isinstance(model, str) and len(model) > MAX_NAME_CHARACTERS:
        raise RecordError(
            f"{where}.model: expected at most {MAX_NAME_CHARACTERS} characters, got {len(model)}"
        )


def _check_messages(messages: Any) -> list[Message]:
    """Return the messages, with a text for each content that comes in parts."""
    if not isinstance(messages, list) or not messages:
        raise RecordError("request.messages: expected a list of at least one message")
    if len(messages) > MAX_MESSAGES:
        raise RecordError(f"request.messages: {len(messages)}, at most {MAX_MESSAGES} are allowed")
    in_texts: list[Message] | None = None
    for index, message in enumerate(messages):
        where = f"request.messages.{index}"
        if not isinstance(message, dict):
            raise RecordError(f"{where}: expected an object with role and content")
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise RecordError(f"{where}.role: expected one of {', '.join(sorted(_ROLES))}")
        content = message.get("content")
        if message.get("tool_calls"):
            if role != "assistant":
                raise RecordError(f"{where}.tool_calls: only an assistant calls functions, not {role}")
            # Of an earlier turn: what it called was answered, whatever its arguments look like.
            read_calls(message["tool_calls"], f"{where}.tool_calls", parse_arguments=False)
            if content is None and index < len(messages) - 1:
                continue
        if isinstance(content, list):
            content = _text_of(content, f"{where}.content")
            in_texts = [*messages] if in_texts is None else in_texts
            in_texts[index] = {**message, "content": content}
        if not isinstance(content, str):
            raise RecordError(f"{where}.content: expected a text, got {type(content).__name__}")
        _check_content(content, f"{where}.content")
    return messages if in_texts is None else in_texts


def _text_of(parts: list[Any], where: str) -> str:
    try:
        return text_of_parts(parts)
    except PartError as error:
        raise RecordError(f"{where}.{error}") from None


def _check_answer(
    response: Any, tools: Sequence[str], parse_arguments: bool
) -> tuple[str, tuple[ToolCall, ...]]:
    """Return text and calls of an answer, of which there is at least one."""
    where = "response.choices.0.message"
    try:
        message = response["choices"][0]["message"]
        content, logged = message.get("content"), message.get("tool_calls")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise RecordError("response: expected an object with choices[0].message.content") from None
    if logged:
        calls = read_calls(logged, f"{where}.tool_calls", parse_arguments=parse_arguments)
        for index, call in enumerate(calls):
            if tools and call.name not in tools:
                raise RecordError(
                    f"{where}.tool_calls.{index}.function.name: {call.name!r:.80} is none of request.tools: "
                    f"{', '.join(tools):.200}"
                )
        if content is None:
            return "", calls
    elif "content" not in message:
        raise RecordError("response: expected an object with choices[0].message.content")
    else:
        calls = ()
    if isinstance(content, list):
        content = _text_of(content, f"{where}.content")
    if isinstance(content, str):
        _check_content(content, f"{where}.content")
    if not isinstance(content, str) or (not content.strip() and not calls):
        raise RecordError(f"{where}.content: expected a text that is not empty")
    if not calls and not without_thinking(content).strip():
        raise RecordError(f"{where}.content: expected an answer, got nothing but thoughts: {content[:80]!r}")
    return content, calls


def _label(
    answer: str,
    calls: Sequence[ToolCall],
    offers_tools: bool,
    classes: Sequence[str],
    aliases: Mapping[str, str],
    workload_type: WorkloadType,
) -> str:
    """Return what an answer is counted by."""
    where = "response.choices.0.message"
    if calls:
        if workload_type in ("classification", "generic"):
            raise RecordError(
                f"{where}.tool_calls: calls functions, but evaluation_config.workload_type is {workload_type}"
            )
        return functions(calls)
    if workload_type == "tool_calling" or (workload_type == "auto" and offers_tools):
        return functions(())
    if workload_type == "generic" or (workload_type == "auto" and not classes):
        return FREE_TEXT
    label = parse_label(answer, classes, aliases)
    if label is None:
        raise RecordError(f"{where}.content: names none of the classes: {answer[:200]!r}")
    return label


def _check_content(content: str, where: str) -> None:
    if len(content) > MAX_CONTENT_CHARACTERS:
        raise RecordError(f"{where}: {len(content)} characters, at most {MAX_CONTENT_CHARACTERS} are allowed")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate from a "\ud800" escape
        raise RecordError(f"{where}: not valid Unicode at character {error.start}") from None
