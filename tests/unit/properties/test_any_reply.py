"""Whatever an endpoint answers, it is an answer, an error with its message, or malformed; and it can be kept."""

import math
import tempfile

import orjson
from hypothesis import event, example, given
from hypothesis import strategies as st

from flywheel.common.patience import seconds_to_wait
from flywheel.stores import PaidAnswer
from flywheel.stores.sqlite import SqliteStore
from flywheel.teacher.answers import (
    ErrorInAnswerError,
    MalformedError,
    Reply,
    error_message,
    read_reply,
    tokens_of,
)
from tests.unit.properties.conversations import CALLS, PARTS, TEXTS
from tests.unit.properties.inputs import JSON_TEXTS, JSON_VALUES, bounded

_NUMBERS = st.one_of(st.integers(-5, 5000), st.sampled_from([1.5, 1e308, -1e308, None, "7", {"logprob": 1}]))
_TOKENS = st.lists(
    st.one_of(_NUMBERS.map(lambda value: {"token": "a", "logprob": value}), JSON_VALUES), max_size=4
)
_USAGE = st.dictionaries(
    st.sampled_from(
        ["prompt_tokens", "completion_tokens", "total_tokens", "confidence", "fault", "night", "details"]
    ),
    st.one_of(_NUMBERS, JSON_VALUES),
    max_size=5,
)
_CONTENTS = st.one_of(st.sampled_from(["[[[earnings]]]", "", None]), TEXTS, PARTS, JSON_VALUES)
_REPLIES = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {
                    "message": st.fixed_dictionaries(
                        {"content": _CONTENTS},
                        optional={"tool_calls": CALLS, "refusal": JSON_VALUES, "reasoning": TEXTS},
                    )
                },
                optional={
                    "finish_reason": st.one_of(
                        st.sampled_from(["stop", "length", "content_filter", "error"]), JSON_VALUES
                    ),
                    "logprobs": st.one_of(
                        st.none(), st.fixed_dictionaries({"content": _TOKENS}), JSON_VALUES
                    ),
                    "error": JSON_VALUES,
                },
            ),
            max_size=2,
        )
    },
    optional={
        "model": st.one_of(TEXTS, JSON_VALUES),
        "usage": st.one_of(_USAGE, JSON_VALUES),
        "error": st.one_of(
            JSON_VALUES,
            st.fixed_dictionaries(
                {},
                optional={
                    "message": JSON_VALUES,
                    "code": st.one_of(st.sampled_from(["500", "7" * 5000, "²", 429]), JSON_VALUES),
                    "param": JSON_VALUES,
                },
            ),
        ),
    },
)
BODIES = st.one_of(
    _REPLIES.map(orjson.dumps),
    _REPLIES.map(orjson.dumps),
    JSON_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=30),
)


def deep(before: str, after: str, levels: int = 1000) -> bytes:
    return f"{before}{'[' * levels}{']' * levels}{after}".encode()


@given(body=BODIES)
@example(body=deep('{"error": {"message": ', "}}"))
@example(body=deep('{"choices": [{"message": {"content": "a", "reasoning": ', "}}]}", 990))
@example(body=deep('{"choices": [{"message": {"content": "a"}}], "usage": {"a": ', "}}", 990))
@example(body=b'{"error": {"code": "%s"}}' % (b"7" * 5000))
@bounded(250)
def test_a_body_is_an_answer_an_error_or_malformed_and_an_answer_can_be_kept(body: bytes) -> None:
    assert isinstance(error_message(body), str)
    try:
        reply = read_reply(body)
    except (MalformedError, ErrorInAnswerError) as error:
        event(type(error).__name__)
        str(error).encode()
        return
    event("answer")
    check(reply)
    with tempfile.TemporaryDirectory() as folder, SqliteStore(f"{folder}/records.sqlite") as store:
        store.put_answers([("k", PaidAnswer(reply.content, reply.model, 1, reply.usage))])
        (kept,) = store.get_answers(["k"]).values()
    assert (kept.content, kept.usage) == (reply.content, reply.usage)


def check(reply: Reply) -> None:
    assert isinstance(reply.content, str) and isinstance(reply.model, str)
    assert reply.confidence is None or 0 <= reply.confidence <= 1
    assert reply.written >= 0
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
        assert tokens_of(reply.usage, name) >= 0
    # What flywheel itself notes beside the counts is not taken from the endpoint.
    assert not {"confidence", "fault", "night"} & reply.usage.keys()


@given(
    header=st.one_of(
        st.none(),
        TEXTS,
        st.floats().map(str),
        st.integers().map(str),
        st.sampled_from(
            ["1e400", "nan", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 1 Jan 0001 00:00:00 +2359"]
        ),
    )
)
@bounded(150)
def test_any_retry_after_is_a_number_of_seconds_or_nothing(header: str | None) -> None:
    seconds = seconds_to_wait(header)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))
