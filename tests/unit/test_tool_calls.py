"""Tool calls: read from logs, parsed from students' answers, and compared."""

import json
from typing import Any

import pytest

from flywheel.common.errors import RecordError
from flywheel.workloads.tool_calls import (
    NO_CALL,
    ToolCall,
    calls_text,
    functions,
    is_functions,
    parse_calls,
    read_calls,
    same_calls,
    same_functions,
    with_arguments,
)

QUOTE = ToolCall("get_quote", {"ticker": "ACME", "days": 3})


def logged(arguments: Any, name: str = "get_quote") -> list[dict[str, Any]]:
    return [{"id": "call_9", "type": "function", "function": {"name": name, "arguments": arguments}}]


@pytest.mark.parametrize("arguments", ['{"ticker": "ACME", "days": 3}', {"days": 3, "ticker": "ACME"}])
def test_arguments_are_read_as_text_or_as_object(arguments: Any) -> None:
    assert read_calls(logged(arguments), "x") == (QUOTE,)


@pytest.mark.parametrize(
    "calls, expected",
    [
        (
            logged("{'ticker': 'ACME'}"),
            r"x\.0\.function\.arguments: not valid JSON: .*parse_function_arguments",
        ),
        (logged("[1]"), r"x\.0\.function\.arguments: expected a JSON object"),
        (logged(7), r"x\.0\.function\.arguments: expected an object, or one as JSON text, got int"),
        (logged("{}", name=""), r"x\.0\.function\.name: expected the name of a function"),
        ([{"type": "retrieval"}], r"x\.0: expected an object with type 'function'"),
        ([], "x: expected a list of at least one call"),
        ("get_quote()", "x: expected a list of at least one call"),
    ],
)
def test_a_wrong_call_is_an_error_that_names_its_key(calls: Any, expected: str) -> None:
    with pytest.raises(RecordError, match=expected):
        read_calls(calls, "x")


def test_arguments_that_are_not_to_be_parsed_stay_a_text() -> None:
    assert read_calls(logged("{'a': 1}"), "x", parse_arguments=False) == (ToolCall("get_quote", "{'a': 1}"),)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get_quote", "parameters": {"ticker": "ACME", "days": 3}}',  # Llama 3
        '<tool_call>\n{"name": "get_quote", "arguments": {"ticker": "ACME", "days": 3}}\n</tool_call>',  # Qwen
        '[TOOL_CALLS] [{"name": "get_quote", "arguments": {"ticker": "ACME", "days": 3}}]',  # Mistral
        'Sure: {"type": "function", "function": {"name": "get_quote", '
        '"arguments": "{\\"ticker\\": \\"ACME\\", \\"days\\": 3}"}} (done}',
    ],
)
def test_calls_are_found_in_the_forms_that_models_write(text: str) -> None:
    assert same_calls(parse_calls(text), [QUOTE])


@pytest.mark.parametrize(
    "text",
    ["", "Nothing to call.", '{"name": "get_quote", "arguments": {"ticker": "AC', '{"a": 1}', "{" * 5000],
)
def test_an_answer_without_a_whole_call_has_none(text: str) -> None:
    assert parse_calls(text) == ()


@pytest.mark.parametrize(
    "arguments",
    ['{"x": "\\ud800"}', '{"x": %s}' % ("7" * 4000), '{"x": %s}' % ("[" * 300 + "]" * 300)],
    ids=["lone surrogate", "number beyond 64 bits", "300 levels"],
)
def test_arguments_that_no_record_can_hold_are_a_text_and_can_be_shown(arguments: str) -> None:
    (call,) = parse_calls(f'{{"name": "get_quote", "arguments": {arguments}}}')
    assert functions([call]) == "get_quote()" and call.arguments == arguments
    assert json.loads(calls_text([call]))["arguments"] == arguments
    assert not same_calls([call], [QUOTE]) and same_calls([call], [call])


def test_a_function_whose_name_cannot_be_written_is_no_call() -> None:
    assert parse_calls('{"name": "\\ud800", "arguments": {}}') == ()


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": %s}' % ("[" * 300 + "]" * 300), '{"a": %s}' % ("7" * 30)]
)
def test_arguments_that_cannot_be_kept_as_they_are_stay_a_text(text: str) -> None:
    with pytest.raises(RecordError, match=r"x\.0\.function\.arguments: .*parse_function_arguments"):
        read_calls(logged(text), "x")
    (message,) = with_arguments([{"role": "assistant", "tool_calls": logged(text)}], as_text=False)
    assert message["tool_calls"][0]["function"]["arguments"] == text


def test_calls_agree_by_value_and_in_any_order() -> None:
    other = ToolCall("buy", {"price": 1.0, "limit": {"b": [1, 2], "a": None}})
    same = ToolCall("buy", {"limit": {"a": None, "b": [1.0, 2]}, "price": 1})
    assert same_calls([QUOTE, other], [same, QUOTE])
    assert not same_calls([QUOTE], [QUOTE, QUOTE])
    assert not same_calls([QUOTE], [])
    assert same_calls([], [])


@pytest.mark.parametrize("one, other", [(1, True), (1, "1"), (None, {}), ("acme", "ACME"), ([1, 2], [2, 1])])
def test_values_of_another_kind_or_order_are_other_arguments(one: Any, other: Any) -> None:
    assert not same_calls([ToolCall("f", {"x": one})], [ToolCall("f", {"x": other})])
    assert same_functions([ToolCall("f", {"x": one})], [ToolCall("f", {"x": other})])


def test_answers_are_counted_by_their_functions() -> None:
    assert functions([QUOTE]) == "get_quote()"
    assert functions([QUOTE, ToolCall("buy", {}), QUOTE]) == "buy() + get_quote()"
    assert functions([]) == NO_CALL
    assert is_functions("buy() + get_quote()")
    assert not is_functions(NO_CALL)


def test_messages_get_their_arguments_as_objects_or_as_texts() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": logged('{"a": 1}')}
    (objects,) = with_arguments([message], as_text=False)
    assert objects["content"] == ""
    assert objects["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    (texts,) = with_arguments([objects], as_text=True)
    assert texts["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
    assert message["content"] is None
