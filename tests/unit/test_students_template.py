"""A chat template may refuse or pass over a conversation: only that one is left out, and nothing vanishes."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tiny_students import CLASSES, TEMPLATE, conversation, make_model, make_tokenizer

from flywheel.common.errors import StudentError
from flywheel.config import Student
from flywheel.config.evaluation import EvaluationConfig
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.stages.customize import customize
from flywheel.stages.evaluate import evaluate
from flywheel.students.chat import Chat
from flywheel.students.template import Template, with_short_ids

STOP = frozenset({4})
HEAD, END = "<|head|>{{ m['role'] }}<|/head|>", "<|eot|>"
# As Mistral's and Gemma's: after the instructions user and assistant take turns.
ALTERNATING = (
    "<|begin|>{% set ns = namespace(last='assistant') %}{% for m in messages %}"
    "{% if m['role'] != 'system' %}{% if m['role'] == ns.last %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% set ns.last = m['role'] %}{% endif %}" + HEAD + "{{ m['content'] }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>{% endif %}"
)
# As Qwen's: writes the roles that it knows, and no others.
KNOWN_ROLES = (
    "<|begin|>{% for m in messages %}{% if m['role'] in ['system', 'user', 'assistant', 'tool'] %}"
    + HEAD + "{{ m['content'] }}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>{% endif %}"
)  # fmt: skip
# As Mistral's: calls and answers have ids of nine letters, which are written.
NINE = (
    "<|begin|>{% for m in messages %}" + HEAD + "{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{% if c.id is not defined or c.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{{ c.function | tojson }}{{ c.id }}{% endfor %}"
    "{% if m['role'] == 'tool' %}{% if m.tool_call_id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{{ m.tool_call_id }}{% endif %}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>{% endif %}"
)


def tokenizer_with(template: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def text_of(template: str, *chats: list[dict[str, Any]], tools: Any = None) -> list[str | None]:
    return [one.text for one in Template(tokenizer_with(template)).ask(chats, tools)]


def twice(text: str) -> list[dict[str, str]]:
    """Return a conversation in which the user speaks twice."""
    chat = conversation(text, "other")
    return [chat[0], {"role": "user", "content": "Wait."}, *chat[1:]]


def calling(*, ids: bool = True, name: str = "file") -> list[dict[str, Any]]:
    """Return a conversation with two calls in turn; without ids, or with OpenAI's."""

    def call(number: int) -> dict[str, Any]:
        made = {"function": {"name": name, "arguments": {"n": number}}, "type": "function"}
        return {"id": f"call_4bEnV1Yjv{number}", **made} if ids else made

    answered = {"tool_call_id": "call_4bEnV1Yjv1"} if ids else {}
    return [
        {"role": "user", "content": "File them."},
        {"role": "assistant", "content": "", "tool_calls": [call(1)]},
        {"role": "tool", "content": "filed", **answered},
        {"role": "assistant", "content": "", "tool_calls": [call(2)]},
    ]


# Records that a template refuses.


def test_a_record_that_the_template_refuses_is_left_out_counted_and_named() -> None:
    chats = [conversation(f"profit {i}", "other") for i in range(41)]
    chats[7] = twice("profit 7")
    samples, dropped = Chat(tokenizer_with(ALTERNATING), STOP).samples(chats, 10_000)
    assert (len(samples), dropped.count, list(dropped.places)) == (40, 1, [7])
    assert dropped.said([f"r{i}" for i in range(41)], "training records are left out") == (
        "1 of 41 training records are left out: 1 refused by the chat template: Conversation roles must "
        "alternate user/assistant (record r7)",
    )


def test_a_request_that_the_template_refuses_has_no_prompt_and_the_others_keep_theirs() -> None:
    chats = [conversation(f"profit {i}", "other")[:-1] for i in range(6)]
    chat = Chat(tokenizer_with(ALTERNATING), STOP)
    (alone, _) = chat.prompts([chats[3]])
    prompts, dropped = chat.prompts([*chats[:2], twice("profit 2")[:-1], *chats[3:]])
    assert [prompt is None for prompt in prompts] == [False, False, True, False, False, False]
    assert prompts[3] is not None and alone[0] is not None
    assert prompts[3].tolist() == alone[0].tolist() and list(dropped.places) == [2]
    assert chat.lengths([twice("a")[:-1], chats[3]]) == [1 << 62, len(alone[0])]


def test_a_template_that_refuses_a_system_message_in_the_middle_refuses_that_record_alone() -> None:
    template = TEMPLATE.replace(
        "{% for message in messages %}",
        "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
        "{{ raise_exception('only the first') }}{% endif %}",
    )
    odd = conversation("profit", "other")
    odd.insert(2, {"role": "system", "content": "Be brief."})
    samples, dropped = Chat(tokenizer_with(template), STOP).samples([odd, conversation("a", "other")], 1000)
    assert len(samples) == 1
    assert dict(dropped.reasons) == {"refused by the chat template: only the first": 1}


def test_only_a_template_that_refuses_all_is_an_error() -> None:
    chat = Chat(tokenizer_with(ALTERNATING), STOP)
    with pytest.raises(StudentError, match="cannot render the records: Conversation roles must alternate"):
        chat.samples([twice("a"), twice("b")], 1000)


def test_where_records_may_be_missed_a_template_that_refuses_all_is_none() -> None:
    """As in validation: a training goes on without it."""
    samples, dropped = Chat(tokenizer_with(ALTERNATING), STOP).samples([twice("a")], 1000, some=False)
    assert (samples, dropped.count) == ([], 1)


# What a template passes over.


def test_a_developers_instruction_is_one_of_the_system_where_the_template_knows_no_developer() -> None:
    for content in ("Use one of the thirteen classes.", "ok"):
        chat = [{"role": "developer", "content": content}, {"role": "user", "content": "Acme beats. ok"}]
        as_system = [{**chat[0], "role": "system"}, chat[1]]
        assert text_of(KNOWN_ROLES, chat) == text_of(KNOWN_ROLES, as_system)
        assert text_of(TEMPLATE, chat) == text_of(TEMPLATE, as_system)


def test_a_template_that_knows_the_developer_gets_it() -> None:
    template = KNOWN_ROLES.replace("'system',", "'system', 'developer',")
    (text,) = text_of(
        template, [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "a"}]
    )
    assert text is not None and "<|head|>developer<|/head|>Be brief." in text


@pytest.mark.parametrize(
    "template, what",
    [
        (KNOWN_ROLES.replace("'tool'", "'function'"), "a message of role tool"),
        (KNOWN_ROLES.replace("'system',", ""), "a message of role system"),
        (KNOWN_ROLES, "a call"),
    ],
)
def test_a_record_of_which_the_template_would_pass_over_a_part_is_left_out(template: str, what: str) -> None:
    plain = [{"role": "user", "content": "filed"}, {"role": "assistant", "content": "yes"}]
    odd = {
        "a message of role tool": [plain[0], {"role": "tool", "content": "filed"}, plain[1]],
        "a message of role system": [{"role": "system", "content": "filed"}, *plain],
        "a call": calling(),
    }[what]
    samples, dropped = Chat(tokenizer_with(template), STOP).samples([plain, odd, plain], 1000)
    assert len(samples) == 2
    assert dict(dropped.reasons) == {f"refused by the chat template: it passes over {what}": 1}


def test_a_part_that_the_template_writes_in_another_form_is_there() -> None:
    template = KNOWN_ROLES.replace("{{ m['content'] }}", "{{ m['content'] | tojson | upper }}")
    chat = [{"role": "system", "content": 'Say "yes"\nor no.'}, {"role": "user", "content": "a\tb"}]
    (text,) = text_of(template, chat)
    assert text is not None and '"SAY \\"YES\\"\\NOR NO."' in text


def test_functions_that_the_template_does_not_write_are_told() -> None:
    offered = [{"type": "function", "function": {"name": "file", "parameters": {}}}]
    chats = [conversation(f"profit {i}", "other") for i in range(3)]
    samples, dropped = Chat(tokenizer_with(TEMPLATE), STOP).samples(chats, 1000, [offered, None, offered])
    assert len(samples) == 3
    assert dropped.said(["a", "b", "c"], "") == (
        "the chat template writes no functions: 2 records offer some, which the student does not see",
    )


# Dates.


@pytest.mark.parametrize(
    "date", ["{{ strftime_now('%Y-%m-%d') }}", "{{ strftime_now('%B %d, %Y') }}", "{{ date_string }}"]
)
def test_a_template_has_the_same_day_every_day(date: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils.chat_template_utils as utils

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2031, 2, 3)

    template = f"The current date is {date}. {TEMPLATE}"
    chat = conversation("profit", "other")[:-1]
    today = text_of(template, chat)
    monkeypatch.setattr(utils, "datetime", Tomorrow)
    assert text_of(template, chat) == today
    assert today[0] is not None and "2024" in today[0] and "26" in today[0]


# Ids and arguments of calls.


def test_calls_get_ids_of_nine_letters_where_the_template_wants_them() -> None:
    tokenizer = tokenizer_with(NINE)
    chats = [calling(), calling(ids=False), calling(name="send")]
    samples, dropped = Chat(tokenizer, STOP).samples(chats, 10_000)
    assert dropped.count == 0
    for sample in samples:
        assert "filedcall00001" in tokenizer.decode(sample.prompt.tolist())
        assert tokenizer.decode(sample.answer.tolist()).endswith("call00002<|eot|>")
    prompts, _ = Chat(tokenizer, STOP).prompts([chat[:-1] for chat in chats])
    assert [p.tolist() for p in prompts if p is not None] == [s.prompt.tolist() for s in samples]


def test_ids_that_the_template_takes_stay_as_they_are() -> None:
    chat = json.loads(json.dumps(calling()).replace("call_4bEnV1Yjv", "abcdefgh"))
    (text,) = text_of(NINE, chat)
    assert text is not None and "filedabcdefgh1" in text


def test_answers_of_functions_keep_to_their_calls() -> None:
    def answer(content: str, **ids: str) -> dict[str, Any]:
        return {"role": "tool", "content": content, **ids}

    calls = [{"id": f"long-id-{n}", "function": {"name": "f", "arguments": {}}} for n in "ab"]
    both: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": calls}
    turned = with_short_ids(
        [both, answer("b", tool_call_id="long-id-b"), answer("a", tool_call_id="long-id-a")]
    )
    assert [message["tool_call_id"] for message in turned[1:]] == ["call00002", "call00001"]
    turned = with_short_ids([both, answer("a"), answer("b")])
    assert [message["tool_call_id"] for message in turned[1:]] == ["call00001", "call00002"]


def test_a_template_that_joins_arguments_as_text_gets_text() -> None:
    template = NINE.split("{% for c in", 1)[0] + (
        "{% for c in m['tool_calls'] or [] %}{{ c['type'] + c.function.name + ':' + c.function.arguments }}"
        "{% endfor %}" + END + "{% endfor %}"
    )
    (text,) = text_of(template, calling())
    assert text is not None and 'functionfile:{"n":1}' in text


# The jobs.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A student with a template of alternating roles, and a dataset in which two records do not alternate."""
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")
    tokenizer = tokenizer_with(ALTERNATING)
    make_model(len(tokenizer)).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    folder = tmp_path / "artifacts/datasets/d1"
    folder.mkdir(parents=True)
    for part, count in (("train", 24), ("val", 4), ("eval", 12)):
        rows = []
        for at in range(count):
            label = CLASSES[at % len(CLASSES)]
            refused = part == "val" or (part, at) in (("train", 5), ("eval", 3))
            chat = twice(label) if refused else conversation(label, label)
            chat[-1]["content"] = f"[[[{label}]]]"
            rows.append({"id": f"{part}{at}", "timestamp": 1, "label": label, "messages": chat})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"files": sizes}))
    return tmp_path


def test_a_refused_record_ends_no_job_and_is_named_in_its_result(home: Path) -> None:
    student = Student(model_name="tiny-1m", weights=str(home / "student"))
    root = str(home / "artifacts")
    made = customize(
        CustomizeSpec(
            artifact_root=root,
            student=student,
            dataset="d1",
            size=24,
            training=TrainingConfig(epochs=1, batch_size=8, validations=1),
            lora=LoraConfig(adapter_dim=4),
        )
    )
    assert (made.train_records, made.dropped) == (23, 1)
    assert "(record train5)" in made.notes[0] and "must alternate" in made.notes[0]
    assert made.notes[1].startswith("4 of 4 validation records are left out") and made.val_loss is None
    evaluation = EvaluationConfig(batch_size=10, max_new_tokens=4)
    for answers in (None, tuple(f"[[[{label}]]]" for label in CLASSES)):
        spec = EvaluateSpec(
            artifact_root=root,
            student=student,
            dataset="d1",
            adapter=made.adapter,
            size=24,
            classes=CLASSES,
            answers=answers,
            evaluation=evaluation,
        )
        result = evaluate(spec)
        assert (result.records, result.unanswered) == (12, 1)
        assert (
            "1 of 12 prompts count as unanswered" in result.notes[0] and "(record eval3)" in result.notes[0]
        )
        lines = (home / "artifacts" / result.predictions).read_text().splitlines()
        assert json.loads(lines[3])["answer"] == ""
