"""Tool calls: what a teacher or a student wants to have called, and with which arguments.

A teacher's calls stand in `message.tool_calls`, as OpenAI's chat API has them, the arguments as a JSON text
or, in many logs, as an object. A student writes its calls as its chat template does, in its answer's text:

    {"name": "f", "parameters": {...}}                          Llama 3
    <tool_call>{"name": "f", "arguments": {...}}</tool_call>    Qwen and Hermes, one after the other
    [TOOL_CALLS] [{"name": "f", "arguments": {...}}]            Mistral

All of them are JSON objects with a name and arguments, and that is what is looked for, whatever stands
around. Two answers agree when they call the same functions equally often, in any order: calls of one answer
are made at once. Arguments are compared as JSON values: the order of keys is none, 1 is 1.0 and not true or
"1".
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from flywheel.common import exact_json
from flywheel.common.errors import RecordError

# Stands for the functions of an answer that calls none, where such answers are counted by function.
NO_CALL = "no call"
# A student that has lost its way may write braces without end.
MAX_TEXT = 100_000
# Braces that begin no call may be so many: each is read up to where it breaks off, which may be the end.
MAX_BROKEN = 100
# Calls of one message, and functions that a request offers.
MAX_CALLS = 1000
_DECODER = json.JSONDecoder()
_OBJECT = re.compile(r'\{\s*"')


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call.

    Attributes:
        name: of the function.
        arguments: a JSON object; a text where the log has one that is no JSON object, or is not to be read.
    """

    name: str
    arguments: dict[str, Any] | str

    def to_json(self) -> dict[str, Any]:
        """Return the call as it stands in a message: without an id, which is another in each log."""
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def read_calls(calls: Any, where: str, *, parse_arguments: bool = True) -> tuple[ToolCall, ...]:
    """Return the calls of a message's `tool_calls`.

    Args:
        where: the key, for messages.
        parse_arguments: arguments that are a text must be a JSON object, and are read; else they stay a text.

    Raises:
        RecordError: the message names the key that is wrong and what was expected.
    """
    if not isinstance(calls, list) or not calls:
        raise RecordError(f"{where}: expected a list of at least one call")
    if len(calls) > MAX_CALLS:
        raise RecordError(f"{where}: {len(calls)} calls, at most {MAX_CALLS} are allowed")
    return tuple(_call(call, f"{where}.{index}", parse_arguments) for index, call in enumerate(calls))


def check_tools(tools: Any, where: str) -> list[str]:
    """Check a request's `tools` and return the names of its functions.

    Raises:
        RecordError: the message names the key that is wrong and what was expected.
    """
    if not isinstance(tools, list):
        raise RecordError(f"{where}: expected a list of tools, got {type(tools).__name__}")
    if len(tools) > MAX_CALLS:
        raise RecordError(f"{where}: {len(tools)} functions, at most {MAX_CALLS} are allowed")
    names = []
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            raise RecordError(f"{where}.{index}: expected an object with type and function")
        names.append(_name(function, f"{where}.{index}.function"))
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise RecordError(f"{where}.{index}.function.parameters: expected a JSON schema, an object")
    return names


def parse_calls(text: str) -> tuple[ToolCall, ...]:
    """Return the calls that a student's answer holds, in its order; a call that is not whole is none."""
    found: list[ToolCall] = []
    place = broken = 0
    text = text[:MAX_TEXT]
    # Lists are not looked for, only what they hold: an answer of brackets would be read at each of them.
    while broken < MAX_BROKEN and (start := _OBJECT.search(text, place)):
        place = start.start()
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            place, broken = place + 1, broken + 1
            continue
        call = _written(value)
        if call is not None:
            found.append(call)
    return tuple(found)


def functions(calls: Sequence[ToolCall]) -> str:
    """Return the functions of an answer as one label: `get_quote()`, `buy() + get_quote()`, `no call`."""
    return " + ".join(f"{name}()" for name in sorted({call.name for call in calls})) or NO_CALL


def is_functions(label: str) -> bool:
    """Return whether a label is one that `functions` gives for calls."""
    return label.endswith("()")


def same_functions(one: Sequence[ToolCall], other: Sequence[ToolCall]) -> bool:
    """Return whether two answers call the same functions equally often."""
    return Counter(call.name for call in one) == Counter(call.name for call in other)


def same_calls(one: Sequence[ToolCall], other: Sequence[ToolCall]) -> bool:
    """Return whether two answers make the same calls with the same arguments."""
    return Counter(map(_normal_call, one)) == Counter(map(_normal_call, other))


def calls_text(calls: Sequence[ToolCall]) -> str:
    """Return calls as text, in the form that `parse_calls` reads: a JSON object a line."""
    return "\n".join(
        orjson.dumps({"name": call.name, "arguments": call.arguments}).decode() for call in calls
    )


def normal_text(calls: Sequence[ToolCall]) -> str:
    """Return calls as a text that is the same for answers that agree; `no call` for none."""
    return "\n".join(sorted(f"{name} {arguments}" for name, arguments in map(_normal_call, calls))) or NO_CALL


def with_arguments(messages: Sequence[dict[str, Any]], *, as_text: bool) -> list[dict[str, Any]]:
    """Return messages whose calls have their arguments as texts, or as objects where they are JSON objects.

    Chat templates want objects, OpenAI's API wants texts. A content of null becomes an empty text, which
    templates and services that know no null can take.
    """
    return [_with_arguments(message, as_text) for message in messages]


def _with_arguments(message: dict[str, Any], as_text: bool) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    changed = []
    for call in calls:
        function = call["function"]
        given = function.get("arguments")
        arguments: Any = _text_of(given) if as_text else _value_of(given)
        changed.append({**call, "function": {**function, "arguments": arguments}})
    return {**message, "content": message.get("content") or "", "tool_calls": changed}


def _text_of(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()


def _value_of(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        value = exact_json.loads(arguments or "{}")
    except ValueError:
        return arguments
    return value if isinstance(value, dict) else arguments


def _call(call: Any, where: str, parse_arguments: bool) -> ToolCall:
    if not isinstance(call, dict) or call.get("type", "function") != "function":
        raise RecordError(f"{where}: expected an object with type 'function' and function")
    function = call.get("function")
    if not isinstance(function, dict):
        raise RecordError(f"{where}.function: expected an object with name and arguments")
    name, arguments = _name(function, f"{where}.function"), function.get("arguments")
    if arguments is None:
        arguments = {}
    if isinstance(arguments, str) and parse_arguments:
        arguments = _parsed(arguments, f"{where}.function.arguments")
    if not isinstance(arguments, dict | str):
        raise RecordError(
            f"{where}.function.arguments: expected an object, or one as JSON text, got "
            f"{type(arguments).__name__}"
        )
    return ToolCall(name, arguments)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = exact_json.loads(text or "{}")
    except ValueError as error:
        raise RecordError(
            f"{where}: {error}; got {text!r:.120}; with "
            "data_split_config.parse_function_arguments false it would be kept as text"
        ) from None
    if not isinstance(value, dict):
        raise RecordError(f"{where}: expected a JSON object, got {text!r:.120}")
    return value


def _name(function: Mapping[str, Any], where: str) -> str:
    name = function.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > 128:
        raise RecordError(f"{where}.name: expected the name of a function, got {name!r:.80}")
    return name


def _written(value: Any) -> ToolCall | None:
    """Return the call that a JSON value in an answer is; None if it is none."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    value = inner if isinstance(inner, dict) else value
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if not isinstance(name, str) or not isinstance(arguments, dict | str):
        return None
    try:
        name.encode()
        try:
            exact_json.loads(orjson.dumps(arguments))
        except (TypeError, ValueError):
            # No teacher's call holds lone surrogates, numbers beyond 64 bits or hundreds of levels: the
            # function may be right, such arguments are not, and are kept as a text.
            arguments = json.dumps(arguments)
    except (UnicodeEncodeError, RecursionError):
        return None
    return ToolCall(name, arguments)


def _normal_call(call: ToolCall) -> tuple[str, str]:
    return call.name, orjson.dumps(_normal(_value_of(call.arguments)), option=orjson.OPT_SORT_KEYS).decode()


def _normal(value: Any) -> Any:
    """Return a JSON value in which equal numbers are written equally."""
    if isinstance(value, dict):
        return {str(key): _normal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normal(inner) for inner in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        # As text, since JSON has integers of any size.
        whole = isinstance(value, int) or (math.isfinite(value) and value.is_integer())
        return {"number": str(int(value) if whole else value)}
    return value
