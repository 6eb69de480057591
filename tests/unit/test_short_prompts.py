"""Short prompts: what a training set's prompts share is found and left out, in training and evaluation alike."""

from __future__ import annotations

from typing import Any

import pytest

from flywheel.workloads.short_prompts import ShortPrompt
from flywheel.workloads.workload import Workload

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
RULES = "You sort what customers write. Answer with one word, and with none but those that you were given. "


def records(requests: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{"messages": [*request, {"role": "assistant", "content": "x"}]} for request in requests]


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_of_a_workloads_prompts_the_headline_alone_is_left() -> None:
    headlines = ["Acme rises", "Bolt cuts its dividend", "Acme sees more"]
    requests = [WORKLOAD.messages(text) for text in headlines]
    short = ShortPrompt.of(records(requests))
    assert short is not None
    assert [short.shorten(request) for request in requests] == [user(text) for text in headlines]


@pytest.mark.parametrize("system", [True, False])
def test_of_a_log_with_an_unknown_template_what_is_around_the_text_is_found(system: bool) -> None:
    texts = ["the lamp is broken", "the bill is wrong", "when will it come?"]
    if system:
        requests = [[{"role": "system", "content": RULES}, *user(f"{text} /now")] for text in texts]
    else:
        requests = [user(f"{RULES}It says: {text} /now") for text in texts]
    short = ShortPrompt.of(records(requests))
    assert short is not None
    assert [short.shorten(request) for request in requests] == [user(text) for text in texts]


def test_the_answer_and_what_follows_in_the_conversation_stay() -> None:
    start = [{"role": "system", "content": RULES}]
    chats = [
        [*start, *user(f"{text}?"), {"role": "assistant", "content": "which one?"}, *user(f"the {text}")]
        for text in ("lamp", "bill")
    ]
    short = ShortPrompt.of(records(chats))
    assert short is not None
    assert short.shorten(chats[0]) == chats[0][1:]


def test_a_prompt_of_another_form_stays_whole() -> None:
    short = ShortPrompt.of(records([user(f"{RULES}{text}") for text in ("the lamp", "a bill")]))
    assert short is not None
    for other in ("Something else", RULES[:40], ""):
        assert short.shorten(user(other)) == user(other)


def test_what_may_be_shared_by_chance_stays() -> None:
    assert ShortPrompt.of(records([user("Acme rises today"), user("Acme falls today")])) is None
    assert ShortPrompt.of(records([user(RULES)])) is None


def test_no_word_is_cut_where_texts_happen_to_begin_alike() -> None:
    requests = [user(f"{RULES}{text}") for text in ("Acme rises", "Acorn falls")]
    short = ShortPrompt.of(records(requests))
    assert short is not None
    assert [short.shorten(request)[0]["content"] for request in requests] == ["Acme rises", "Acorn falls"]
