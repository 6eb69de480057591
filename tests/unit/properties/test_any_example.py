"""Whatever a record says, its line of a dataset, its chat and its comparison say it too, or count it."""

import json
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from tiny_students import TEMPLATE, make_tokenizer

from flywheel.common import exact_json
from flywheel.common.errors import RecordError
from flywheel.stages.curate import line_of
from flywheel.students.chat import Chat
from flywheel.workloads.labels import without_thinking
from flywheel.workloads.markers import in_conversation, in_tools, without_tokens
from flywheel.workloads.records import Record
from tests.unit.news_records import WORKLOAD
from tests.unit.properties.conversations import RECORDS
from tests.unit.properties.inputs import bounded

CALLS = "{% for c in message.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
TOOL_TEMPLATE = "{{ tools | tojson }}" + TEMPLATE.replace("<|eot|>", CALLS + "<|eot|>")
# As Mistral's and Gemma's: users and assistants take turns; as Qwen's: what it does not know it passes over.
STRICT_TEMPLATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}" + TEMPLATE
)
PASSING_TEMPLATE = TEMPLATE.replace(
    "<|head|>{{ m", "{% if message.role in ['system', 'user', 'assistant'] %}<|head|>{{ m"
).replace("<|eot|>{% endfor", "<|eot|>{% endif %}{% endfor")
PLAIN = [{"role": "user", "content": "Acme?"}, {"role": "assistant", "content": "Sell."}]
LONGEST = 1 << 20


@cache
def chat_of(template: str) -> Chat:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return Chat(tokenizer, frozenset({tokenizer.eos_token_id}))


def validated(data: dict[str, Any], *, classes: bool, parse: bool) -> Record | None:
    """Return the record of a log's line; None if it is set aside."""
    names = WORKLOAD.classes if classes else ()
    try:
        return Record.from_json(exact_json.loads(orjson.dumps(data)), names, {}, parse_arguments=parse)
    except (RecordError, ValueError):
        return None


def same_arguments(line: Any, logged: Any) -> bool:
    """Return whether a line has a call's arguments as they were logged, or the object that their text is."""
    if line == (logged or {}) or line == logged:
        return True
    return isinstance(logged, str) and line == json.loads(logged or "{}")


@given(data=RECORDS, classes=st.booleans(), parse=st.booleans())
@bounded(150)
def test_a_line_of_a_dataset_holds_the_conversation(data: dict[str, Any], classes: bool, parse: bool) -> None:
    record = validated(data, classes=classes, parse=parse)
    event("kept" if record else "set aside")
    if record is None:
        return
    line = exact_json.loads(line_of(record, record.id, parse_arguments=parse))
    answer = record.response["choices"][0]["message"]
    for written, logged in zip(line["messages"], [*record.messages, answer], strict=True):
        assert logged is answer or written["role"] == logged["role"]
        content = record.answer if logged is answer else logged.get("content") or ""
        is_thought_out = written["role"] == "assistant"
        expected = without_thinking(content) if is_thought_out else content
        # Nothing in a request is a special token; the answer to learn stays as it is.
        assert written["content"] == (expected if logged is answer else without_tokens(expected))
        calls = (logged if logged is answer else in_conversation([logged])[0]).get("tool_calls") or []
        assert len(written.get("tool_calls") or []) == len(calls)
        for one, other in zip(written.get("tool_calls") or [], calls, strict=True):
            assert one["function"]["name"] == other["function"]["name"]
            assert same_arguments(one["function"].get("arguments"), other["function"].get("arguments"))
    assert line.get("tools", []) == in_tools(record.tools)
    assert line["label"] == record.label


@given(
    data=st.lists(RECORDS, min_size=1, max_size=6),
    template=st.sampled_from([TEMPLATE, TOOL_TEMPLATE, STRICT_TEMPLATE, PASSING_TEMPLATE]),
    parse=st.booleans(),
)
@bounded(60)
def test_a_chat_holds_the_texts_of_its_record_or_is_counted(
    data: list[dict[str, Any]], template: str, parse: bool
) -> None:
    records = [record for one in data if (record := validated(one, classes=False, parse=parse))]
    lines = [exact_json.loads(line_of(record, record.id, parse_arguments=parse)) for record in records]
    chat = chat_of(template)
    chats, tools = (
        [PLAIN, *(line["messages"] for line in lines)],
        [None, *(line.get("tools") for line in lines)],
    )
    samples, dropped = chat.samples(chats, LONGEST, tools)
    event(f"{len(samples) > 1}, {dropped}")
    assert len(samples) + dropped.count == len(chats)
    prompts, refused = chat.prompts([messages[:-1] for messages in chats], tools)
    assert [place for place, prompt in enumerate(prompts) if prompt is None] == sorted(refused.places)
    assert all(dropped.said([str(place) for place in range(len(chats))], "are left out")) or not dropped.count
    if dropped.count:
        return
    assert [prompt.tolist() for prompt in prompts if prompt is not None] == [
        s.prompt.tolist() for s in samples
    ]
    for messages, sample in zip(chats, samples, strict=True):
        prompt = chat.tokenizer.decode(sample.prompt.tolist())
        assert all(message["content"].strip() in prompt for message in messages[:-1])
        answer = chat.tokenizer.decode(sample.answer.tolist())
        assert answer.startswith(messages[-1]["content"].strip())
        assert answer.endswith("<|eot|>")


@pytest.mark.parametrize("parse", [True, False])
def test_a_call_of_an_earlier_turn_has_an_empty_text_though_no_tools_are_offered(parse: bool) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_quote", "arguments": '{"n": 1}'}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": "And now?"},
    ]
    data = {
        "request": {"model": "m", "messages": turns},
        "response": {"choices": [{"message": {"role": "assistant", "content": "Sell."}}]},
        "workload_id": "w",
        "client_id": "desk",
        "timestamp": 1,
    }
    record = Record.from_json(data, (), {})
    called = json.loads(line_of(record, record.id, parse_arguments=parse))["messages"][0]
    assert called["content"] == ""
    assert called["tool_calls"][0]["function"]["arguments"] == ({"n": 1} if parse else '{"n": 1}')
