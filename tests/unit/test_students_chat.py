"""Messages become the ids that the student meets at inference, and the answer's ids up to the end of the turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_students import TEMPLATE, conversation, conversations, make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flywheel.common.errors import StudentError
from flywheel.students.chat import Chat, common_text

STOP = frozenset({4})


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def plain_ids(tokenizer: Any, messages: Any, *, prompt: bool) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def test_ids_with_the_shared_beginning_done_once_are_those_of_whole_texts(tokenizer: Any) -> None:
    chats = conversations(60)
    samples, dropped = Chat(tokenizer, STOP).samples(chats, 10_000)
    assert dropped.count == 0
    for chat, sample in zip(chats, samples, strict=True):
        assert sample.prompt.tolist() == plain_ids(tokenizer, chat[:-1], prompt=True)
        assert [*sample.prompt, *sample.answer] == plain_ids(tokenizer, chat, prompt=False)
        assert sample.answer[-1] == 4


def test_after_a_kept_beginning_one_request_has_the_same_ids_from_what_follows_alone(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [chat[:-1] for chat in conversations(12)]
    chat, tokenised = Chat(tokenizer, STOP), 0
    kept = chat.keep_beginning(requests[:4])
    assert kept > 300
    whole = chat._encode_whole

    def counted(texts: Any) -> Any:
        nonlocal tokenised
        tokenised += sum(map(len, texts))
        return whole(texts)

    monkeypatch.setattr(chat, "_encode_whole", counted)
    for request in requests:
        ((prompt,), _) = chat.prompts([request])
        assert prompt is not None
        assert prompt.tolist() == plain_ids(tokenizer, request, prompt=True)
        text = tokenizer.apply_chat_template(request, tokenize=False, add_generation_prompt=True)
        tokenised -= len(text) - kept
    assert tokenised == 0
    other = [{"role": "user", "content": "one of another kind"}]
    ((prompt,), _) = chat.prompts([other])
    assert prompt is not None
    assert prompt.tolist() == plain_ids(tokenizer, other, prompt=True)


def test_no_beginning_is_kept_where_prompts_share_little(tokenizer: Any) -> None:
    chat = Chat(tokenizer, STOP)
    assert chat.keep_beginning([[{"role": "user", "content": text}] for text in "abcd"]) == 0


def test_a_tokenizer_that_needs_whole_texts_gets_them() -> None:
    """Pieces that reach over spaces: what is cut off would be tokenised otherwise."""
    backend = Tokenizer(models.BPE(unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    specials = ["?", "<|begin|>", "<|end|>", "<|head|>", "<|/head|>", "<|eot|>"]
    texts = [message["content"] for chat in conversations(30) for message in chat]
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, special_tokens=specials))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|eot|>")
    tokenizer.chat_template = TEMPLATE
    chats = conversations(30)
    samples, _ = Chat(tokenizer, frozenset({5})).samples(chats, 10_000)
    for chat, sample in zip(chats, samples, strict=True):
        assert sample.prompt.tolist() == plain_ids(tokenizer, chat[:-1], prompt=True)
        assert [*sample.prompt, *sample.answer] == plain_ids(tokenizer, chat, prompt=False)


def test_what_a_tokenizer_was_saved_to_cut_or_pad_is_neither(tokenizer: Any) -> None:
    saved = make_tokenizer()
    saved.backend_tokenizer.enable_truncation(8)
    saved.backend_tokenizer.enable_padding(length=4000)
    requests = [chat[:-1] for chat in conversations(3)]
    found, _ = Chat(saved, STOP).prompts(requests)
    expected = [plain_ids(tokenizer, request, prompt=True) for request in requests]
    assert [one.tolist() for one in found if one is not None] == expected


def test_an_answer_that_grows_together_with_its_prompt_is_taken_on_its_own(tokenizer: Any) -> None:
    other = make_tokenizer()
    other.chat_template = (
        "{% for m in messages if m['role'] != 'assistant' %}{{ m['content'] }} {% endfor %}Class: [["
        "{% for m in messages if m['role'] == 'assistant' %}{{ m['content'][2:] }}<|eot|>{% endfor %}"
    )
    chat = conversation("profit", "earnings")
    ((sample,), _) = Chat(other, STOP).samples([chat], 1000)
    assert sample.prompt.tolist() == plain_ids(other, chat[:-1], prompt=True)
    assert [*sample.prompt, *sample.answer] != plain_ids(other, chat, prompt=False)
    assert other.decode(sample.answer.tolist()) == "[earnings]]]<|eot|>"


def test_examples_that_are_too_long_are_dropped_and_counted(tokenizer: Any) -> None:
    chats = [conversation("profit", "other"), conversation("profit " * 200, "other")]
    samples, dropped = Chat(tokenizer, STOP).samples(chats, 200)
    assert len(samples) == 1
    assert dropped.count == 1 and str(dropped) == "1 longer than 200 tokens"


def test_the_limit_counts_prompt_and_answer(tokenizer: Any) -> None:
    chat = [conversation("profit", "other")]
    ((sample,), _) = Chat(tokenizer, STOP).samples(chat, 1000)
    assert len(Chat(tokenizer, STOP).samples(chat, len(sample))[0]) == 1
    assert len(Chat(tokenizer, STOP).samples(chat, len(sample) - 1)[0]) == 0


def test_no_chats_are_no_samples(tokenizer: Any) -> None:
    assert Chat(tokenizer, STOP).samples([], 1000)[0] == []


def test_what_a_template_writes_after_the_end_of_the_turn_is_not_learned(tokenizer: Any) -> None:
    other = make_tokenizer()
    other.chat_template = TEMPLATE.replace("<|eot|>", "<|eot|>\n")
    ((sample,), _) = Chat(other, STOP).samples([conversation("profit", "other")], 1000)
    assert sample.answer[-1] == 4 and 4 not in sample.answer[:-1]


def test_a_template_without_an_end_of_turn_gets_one() -> None:
    other = make_tokenizer()
    other.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    ((sample,), _) = Chat(other, STOP).samples([conversation("profit", "other")], 1000)
    assert sample.answer[-1] == 4


def test_a_template_that_does_not_continue_the_prompt_is_an_error() -> None:
    other = make_tokenizer()
    other.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(StudentError, match="does not continue a prompt by its answer"):
        Chat(other, STOP).samples([conversation("profit", "other")], 1000)


def test_a_template_that_refuses_the_messages_is_an_error() -> None:
    other = make_tokenizer()
    other.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(StudentError, match="System role not supported"):
        Chat(other, STOP).prompts([conversation("profit", "other")[:-1]])


def test_a_tokenizer_without_template_or_stop_is_an_error(tokenizer: Any) -> None:
    other = make_tokenizer()
    other.chat_template = None
    with pytest.raises(StudentError, match="no chat template"):
        Chat(other, STOP)
    with pytest.raises(StudentError, match="no end-of-turn token"):
        Chat(tokenizer, frozenset())


def test_the_prompt_does_not_change_with_the_day() -> None:
    other = make_tokenizer()
    other.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ date_string }}" + TEMPLATE
    )
    ((prompt,), _) = Chat(other, STOP).prompts([conversation("profit", "other")[:-1]])
    assert prompt is not None
    assert other.decode(prompt.tolist()).startswith("26 Jul 2024")


def test_text_of_an_answer_has_no_special_tokens(tokenizer: Any) -> None:
    ids = tokenizer("[[[earnings]]]<|eot|>", add_special_tokens=False)["input_ids"]
    assert Chat(tokenizer, STOP).text(np.array(ids).tolist()) == "[[[earnings]]]"


def test_common_text() -> None:
    assert common_text(["abcd", "abxy", "abc"]) == "ab"
    assert common_text(["ab", "abc"]) == "ab"
    assert common_text(["x", "y"]) == ""


TOOL_TEMPLATE = (
    "<|begin|>{% if tools %}<|head|>{{ tools | tojson }}<|/head|>{% endif %}"
    "{% for m in messages %}<|head|>{{ m['role'] }}<|/head|>{{ m['content'] }}"
    "{% if m['tool_calls'] and m['tool_calls'] | length > 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    "{% for c in m['tool_calls'] or [] %}{{ c.function | tojson }}{% endfor %}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>{% endif %}"
)


def call_chat(number: int, calls: int = 1) -> list[dict[str, Any]]:
    function = {"name": "file", "arguments": {"company": f"Acme {number}", "n": number}}
    answer = {"role": "assistant", "content": "", "tool_calls": [{"function": function}] * calls}
    return [
        {"role": "system", "content": "Rules. " * 80},
        {"role": "user", "content": f"No. {number}"},
        answer,
    ]


def test_chats_with_tools_are_those_of_the_template_whatever_each_offers() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TOOL_TEMPLATE
    offered = [
        [{"type": "function", "function": {"name": name, "parameters": {}}}] for name in ("file", "send")
    ]
    chats = [call_chat(number) for number in range(12)]
    tools = [offered[number % 3] if number % 3 < 2 else None for number in range(12)]
    chat = Chat(tokenizer, STOP)
    samples, dropped = chat.samples(chats, 10_000, tools)
    assert dropped.count == 0
    for messages, given, sample in zip(chats, tools, samples, strict=True):
        text = tokenizer.apply_chat_template(messages, tools=given, tokenize=False)
        assert [*sample.prompt, *sample.answer] == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert '"Acme' in tokenizer.decode(sample.answer.tolist())
    prompts, _ = chat.prompts([messages[:-1] for messages in chats], tools)
    assert [prompt.tolist() for prompt in prompts if prompt is not None] == [
        sample.prompt.tolist() for sample in samples
    ]


def test_calls_that_the_template_cannot_write_are_left_out_and_counted() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TOOL_TEMPLATE
    samples, dropped = Chat(tokenizer, STOP).samples(
        [call_chat(1), call_chat(2, calls=2), call_chat(3)], 10_000
    )
    assert len(samples) == 2
    assert dict(dropped.reasons) == {"refused by the chat template: one call at once": 1}


def test_an_answer_that_holds_the_end_of_a_turn_is_left_out_and_counted(tokenizer: Any) -> None:
    texts = ["[[[other]]]", "It ends.<|eot|>It does not.", "[[[guidance]]]"]
    chats = [
        [{"role": "user", "content": "profit"}, {"role": "assistant", "content": text}] for text in texts
    ]
    samples, dropped = Chat(tokenizer, STOP).samples(chats, 1000)
    assert [tokenizer.decode(sample.answer.tolist()) for sample in samples] == [
        "[[[other]]]<|eot|>",
        "[[[guidance]]]<|eot|>",
    ]
    assert dict(dropped.reasons) == {"with the end of a turn within the answer": 1}
