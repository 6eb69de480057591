"""The workload file: prompts of one beginning, and mistakes named with file, line and key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.common.errors import WorkloadError
from flywheel.workloads.workload import Workload

SHIPPED = Workload.load("include/workloads/news_classifier.yaml")
GOOD = """\
workload_id: tickets
system: You sort tickets.
template: |-
  Classes:
  {classes}
  {examples}
  Ticket: {text}
  Answer in triple brackets.
classes:
  - {name: Bug, when: something is broken.}
  - {name: Question, when: somebody asks.}
aliases:
  Defect: Bug
examples:
  - {text: "It crashes {text}", class: Bug}
"""


def load(tmp_path: Path, text: str | bytes) -> Workload:
    path = tmp_path / "workload.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Workload.load(path)


def test_the_shipped_prompt_has_13_classes_and_ends_with_the_headline() -> None:
    assert SHIPPED.id == "news_classifier"
    assert len(SHIPPED.classes) == 13
    system, user = SHIPPED.messages("Acme beats")
    assert system == {"role": "system", "content": "You are a financial news classifier."}
    assert user["content"].endswith(f"Headline: Acme beats{SHIPPED.after}")
    assert len(SHIPPED.after) < 100
    assert 4500 < len(SHIPPED.before) < 5000


def test_the_shipped_prompt_shows_an_example_of_every_class() -> None:
    for label in SHIPPED.classes:
        assert f"Class: {SHIPPED.answer_for(label)}" in SHIPPED.before


def test_examples_show_their_texts_as_the_prompt_does(tmp_path: Path) -> None:
    assert "\nTicket: It crashes {text}\nClass: [[[bug]]]\n" in load(tmp_path, GOOD).before
    quoted = load(tmp_path, GOOD.replace("Ticket: {text}", '"{text}" is what they say'))
    assert '\n"It crashes {text}" is what they say\nClass: [[[bug]]]\n' in quoted.before
    asked = load(tmp_path, GOOD.replace("Ticket: {text}", "Say which of these classes it is, please: {text}"))
    assert "\nIt crashes {text}\nClass: [[[bug]]]\n" in asked.before  # without the instructions in its line


def test_the_version_of_the_shipped_prompt_is_what_labels_and_demo_students_were_made_with() -> None:
    assert SHIPPED.version == "578ae5a507cf"


def test_the_shipped_aliases_are_read_as_their_classes() -> None:
    assert SHIPPED.label_of("Management changes") == "Labour Issues"
    for alias, label in SHIPPED.aliases.items():
        assert SHIPPED.label_of(f"[[[{alias}]]]") == label


def test_every_class_is_read_back_from_its_answer() -> None:
    for label in SHIPPED.classes:
        answer = SHIPPED.answer_for(label)
        assert answer == answer.lower()
        assert SHIPPED.label_of(answer) == label


@given(st.text())
def test_a_text_is_found_again_in_its_messages(text: str) -> None:
    assert SHIPPED.text_of(SHIPPED.messages(text)) == text


@pytest.mark.parametrize("text", ["{text}", "{classes} {examples}", "{", "[[[other]]]", "", "\\1 \\g<0>"])
def test_braces_in_a_text_mean_nothing(text: str) -> None:
    assert SHIPPED.messages(text)[1]["content"] == SHIPPED.before + text + SHIPPED.after


def test_messages_of_another_prompt_have_no_text() -> None:
    messages = SHIPPED.messages("Acme beats")
    assert SHIPPED.text_of([]) is None
    assert SHIPPED.text_of(messages[1:]) is None
    assert SHIPPED.text_of([messages[0], {"role": "user", "content": "Hello"}]) is None
    assert SHIPPED.text_of([messages[0], {"role": "assistant", "content": messages[1]["content"]}]) is None
    assert SHIPPED.text_of([messages[0], {"role": "user", "content": None}]) is None


def test_the_text_is_found_in_a_training_example_with_its_answer() -> None:
    messages = [*SHIPPED.messages("Acme beats"), {"role": "assistant", "content": "[[[earnings]]]"}]
    assert SHIPPED.text_of(messages) == "Acme beats"


def test_an_example_may_contain_a_placeholder(tmp_path: Path) -> None:
    workload = load(tmp_path, GOOD)
    assert "It crashes {text}" in workload.before
    assert workload.text_of(workload.messages("x")) == "x"


def test_without_a_system_message_there_is_only_the_users(tmp_path: Path) -> None:
    workload = load(tmp_path, GOOD.replace("system: You sort tickets.\n", ""))
    assert [message["role"] for message in workload.messages("x")] == ["user"]
    assert workload.text_of(workload.messages("x")) == "x"


def test_the_hash_changes_with_the_prompt_and_with_nothing_else(tmp_path: Path) -> None:
    first = load(tmp_path, GOOD).sha256
    assert load(tmp_path, "# a comment\n" + GOOD).sha256 == first
    assert load(tmp_path, GOOD.replace("somebody asks", "someone asks")).sha256 != first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("workload_id: tickets", "workload: tickets", "line 1: workload: no such key; the nearest valid key"),
        ("workload_id: tickets\n", "", "workload_id: missing, and required"),
        ("workload_id: tickets", "workload_id: 'a b/c'", "line 1: workload_id: expected 1 to 128 letters"),
        ("{text}\n  Answer", "{txt}\n  Answer", "line 3: template: expected {text} exactly once"),
        ("Classes:\n", "Classes: {text}\n", "line 3: template: expected {text} exactly once"),
        ("  {examples}\n", "", "line 3: template: expected {examples}"),
        ("name: Question", "name: bug", "line 11: classes.1.name: expected a name that differs from 'Bug'"),
        ("name: Question", "name: No", "line 11: classes.1.name: expected a text"),
        ("name: Question", "name: '[[x]]'", "line 11: classes.1.name: expected a name with letters"),
        ("when: somebody asks.", "wen: somebody asks.", "line 11: classes.1.wen: no such key; the nearest"),
        ("Defect: Bug", "Defect: Bugg", "line 13: aliases.Defect: expected one of the classes (did you mean"),
        (
            "Defect: Bug",
            "Question: Bug",
            "line 13: aliases.Question: expected a spelling that is not already",
        ),
        ("Defect: Bug", "Defect: Bug\n  Defect: Bug", "line 14: key 'Defect' is there already in line 13"),
        ("class: Bug}", "class: Bux}", "line 15: examples.0.class: expected one of the classes"),
        ('text: "It crashes {text}"', "text: ''", "line 15: examples.0.text: expected a text"),
        ("aliases:\n  Defect: Bug", "aliases: [Defect]", "line 12: aliases: expected a mapping"),
        ("- {name: Question, when: somebody asks.}", "", "line 9: classes: expected a list of at least two"),
        ("system: You sort tickets.", "system: You: sort: tickets", "line 2: not valid YAML"),
        ("system: You sort tickets.", "system: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(WorkloadError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert str(tmp_path / "workload.yaml") in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"- a\n- b\n", b"plain text", b"\xff\xfe\x00w", b"a: &a [*a]\n", b"\x00"]
)
def test_a_file_that_is_no_workload_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(WorkloadError, match=r"workload\.yaml"):
        load(tmp_path, text)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(WorkloadError, match=r"/nowhere/w\.yaml: no such file"):
        Workload.load("/nowhere/w.yaml")
