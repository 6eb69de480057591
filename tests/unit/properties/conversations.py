"""Log records as hypothesis makes them: good ones, and good ones in which something is another than expected."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.unit.properties.inputs import JSON_TEXTS, JSON_VALUES, STRINGS

_ODD = [
    "Acme raises its outlook",
    "<think>no</think>[[[other]]]",
    "<|eot|>",
    "a<|eot|>b",
    "{{ x }}",
    " x ",
    "\n",
    "İ",
]
TEXTS = st.one_of(STRINGS, st.sampled_from(_ODD)).filter(
    lambda text: not any("\ud800" <= character <= "\udfff" for character in text)
)
PARTS = st.lists(
    st.one_of(
        TEXTS.map(lambda text: {"type": "text", "text": text}),
        st.just({"type": "image_url", "image_url": {"url": "data:,"}}),
        JSON_VALUES,
    ),
    max_size=3,
)
_NAMES = st.sampled_from(["get_quote", "buy"])
_OBJECTS = st.dictionaries(st.sampled_from(["ticker", "n", "a"]), JSON_VALUES, max_size=3)


def _calls(names: st.SearchStrategy[Any], arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def call(name: Any, arguments: Any, id: Any) -> dict[str, Any]:
        return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}

    return st.lists(
        st.builds(call, names, arguments, st.sampled_from(["call_1", "", None])), min_size=1, max_size=2
    )


_GOOD_CALLS = _calls(_NAMES, st.one_of(_OBJECTS, _OBJECTS.map(json.dumps), st.sampled_from(["", None])))
CALLS = _calls(st.one_of(_NAMES, TEXTS), st.one_of(JSON_TEXTS, JSON_VALUES))
_EXTRAS = st.sampled_from([{}, {}, {"name": "desk"}, {"refusal": None}, {"reasoning_content": "hm"}])


def _message(role: str, content: Any, calls: list[Any] | None, extra: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": content, **({} if calls is None else {"tool_calls": calls}), **extra}


_ROLES = st.sampled_from(["system", "developer", "user", "user", "user", "assistant", "tool"])
_GOOD_MESSAGES = st.one_of(
    st.builds(_message, _ROLES, TEXTS, st.none(), _EXTRAS),
    st.builds(_message, st.just("assistant"), st.one_of(st.none(), TEXTS), _GOOD_CALLS, _EXTRAS),
)
_ANY_MESSAGES = st.builds(
    _message,
    st.one_of(_ROLES, st.just("function")),
    st.one_of(TEXTS, st.none(), PARTS, JSON_VALUES),
    st.one_of(st.none(), CALLS),
    _EXTRAS,
)
_CLASSES = st.sampled_from(["[[[earnings]]]", "Other", "<think>price targets</think>[[[Earnings]]]"])
_SAID = st.one_of(_CLASSES, TEXTS.filter(str.strip))
_GOOD_ANSWERS = st.one_of(
    st.builds(_message, st.just("assistant"), _SAID, st.none(), st.just({})),
    st.builds(_message, st.just("assistant"), st.one_of(st.none(), TEXTS), _GOOD_CALLS, st.just({})),
)


def _tools(schemas: list[Any]) -> list[Any] | None:
    names = ["get_quote", "buy"]
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in zip(names, schemas, strict=False)
    ]
    return tools or None


def _record(messages: list[Any], answer: Any, tools: Any, timestamp: Any, client: str) -> dict[str, Any]:
    return {
        "request": {"model": "m", "messages": messages, **({} if tools is None else {"tools": tools})},
        "response": {"choices": [{"message": answer, "finish_reason": "stop"}], "usage": {"total_tokens": 9}},
        "workload_id": "news_classifier",
        "client_id": client,
        "timestamp": timestamp,
    }


def _records(
    messages: st.SearchStrategy[Any], answers: st.SearchStrategy[Any], most: int
) -> st.SearchStrategy[Any]:
    # An earlier turn's call without a text is not the last message.
    last = st.builds(_message, st.just("user"), TEXTS, st.none(), st.just({}))
    return st.builds(
        _record,
        st.builds(lambda before, one: [*before, one], st.lists(messages, max_size=most), last),
        answers,
        st.one_of(
            st.none(),
            st.sampled_from([0, 2, 2])
            .flatmap(lambda n: st.lists(_OBJECTS, min_size=n, max_size=n))
            .map(_tools),
        ),
        st.one_of(st.integers(1, 1_800_000_000), st.sampled_from([1.5, 1760845128.25])),
        st.sampled_from(["desk", "desk", "app"]),
    )


GOOD_RECORDS = _records(_GOOD_MESSAGES, _GOOD_ANSWERS, 3)
CLASSIFIED = _records(
    _GOOD_MESSAGES, st.builds(_message, st.just("assistant"), _CLASSES, st.none(), st.just({})), 1
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all that a value holds."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from paths(inner, (*at, key))


@st.composite
def _broken(draw: st.DrawFn) -> dict[str, Any]:
    """Return a record in which something is missing, or another thing."""
    record = copy.deepcopy(draw(GOOD_RECORDS))
    *parents, last = draw(st.sampled_from(list(paths(record))))
    target: Any = record
    for key in parents:
        target = target[key]
    if draw(st.booleans()) and isinstance(target, dict):
        del target[last]
    else:
        target[last] = draw(JSON_VALUES)
    return record


RECORDS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    CLASSIFIED, GOOD_RECORDS, GOOD_RECORDS, _broken(), _records(_ANY_MESSAGES, _GOOD_ANSWERS, 2)
)


def texts_of(content: Any) -> list[str]:
    """Return the texts of a message's content, whether it is one or a list of parts."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
