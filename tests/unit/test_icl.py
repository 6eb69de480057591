"""Prompts with examples: similar or spread ones, as many as have room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flywheel.common.errors import ConfigError
from flywheel.config.icl import IclConfig
from flywheel.config.loading import validate_config
from flywheel.evaluation.icl import estimate, with_examples

RULES = "Sort the headline by these rules, please, and be brief about it. " * 3


def record(text: str, label: str, **more: Any) -> dict[str, Any]:
    question = {"role": "user", "content": f"{RULES}Headline: {text}\nClass:"}
    return {
        "id": text,
        "label": label,
        "messages": [{"role": "system", "content": "s"}, question, {"role": "assistant", "content": label}],
        **more,
    }


TRAIN = [
    record("Acme raises dividend", "Dividends"),
    record("Acme raises dividend again this year", "Dividends"),
    record("Acme raises outlook", "Guidance"),
    record("Beta cuts jobs", "Labour"),
    record("Gamma cuts jobs in Leeds", "Labour"),
    record("Rain", "OTHER"),
]
EVAL = [record("Acme raises dividend once more", "?"), record("Delta cuts jobs", "?")]


def words(prompts: Sequence[Any], tools: Sequence[Any]) -> list[int]:
    return [sum(len(message["content"].split()) for message in prompt) for prompt in prompts]


def prompts_of(context_length: int = 10_000, **settings: Any) -> tuple[list[Any], float]:
    config = IclConfig.model_validate({"reserved_tokens": 0, **settings})
    return with_examples(EVAL, TRAIN, config, context_length=context_length, answer_tokens=10, measure=words)


def shown(prompt: Any) -> list[str]:
    return [message["content"] for message in prompt if message["role"] == "assistant"]


def test_the_most_similar_examples_stand_nearest_to_the_question() -> None:
    (dividend, jobs), average = prompts_of(max_examples=2, similarity_config={"relevance_ratio": 1.0})
    assert average == 2
    assert shown(dividend) == ["Dividends", "Dividends"]
    assert dividend[-2]["content"] == "Dividends"
    assert dividend[3]["content"] == "Acme raises dividend"  # without the instructions that all share
    assert shown(jobs) == ["Labour", "Labour"]
    assert [message["role"] for message in jobs] == ["system", *["user", "assistant"] * 2, "user"]
    assert jobs[-1] == EVAL[1]["messages"][1]


def test_a_share_of_the_examples_is_of_other_classes() -> None:
    (dividend, _), _ = prompts_of(max_examples=2, similarity_config={"relevance_ratio": 0.5})
    assert shown(dividend) == ["Guidance", "Dividends"]


def test_evenly_chosen_examples_are_the_same_for_all_and_of_all_classes() -> None:
    prompts, _ = prompts_of(max_examples=4, example_selection="uniform_distribution")
    assert (
        sorted(shown(prompts[0])) == sorted(shown(prompts[1])) == ["Dividends", "Guidance", "Labour", "OTHER"]
    )
    assert "Beta cuts jobs" in [message["content"] for message in prompts[0]]  # the shorter one


def test_examples_without_room_are_left_out_the_least_similar_first() -> None:
    own = words([EVAL[0]["messages"][:-1]], [None])[0]
    (dividend, _), average = prompts_of(own + 10 + 12, max_examples=3)
    assert 1 <= len(shown(dividend)) < 3
    assert dividend[-2]["content"] == "Dividends"
    assert words([dividend], [None])[0] + 10 <= own + 10 + 12
    assert 1 <= average < 3


def test_a_prompt_with_room_for_fewer_than_the_least_has_none() -> None:
    own = words([EVAL[0]["messages"][:-1]], [None])[0]
    (dividend, _), _ = prompts_of(own + 10 + 8, max_examples=3, min_examples=3)
    assert shown(dividend) == []
    assert dividend == EVAL[0]["messages"][:-1]


def test_reserved_tokens_are_not_for_examples() -> None:
    prompts, average = prompts_of(1000, max_examples=3, reserved_tokens=1000)
    assert average == 0
    assert prompts == [record["messages"][:-1] for record in EVAL]


def test_an_example_of_a_call_keeps_its_call() -> None:
    call = {"type": "function", "function": {"name": "file", "arguments": {"a": 1}}}
    train = [record("Acme raises dividend", "file()")]
    train[0]["messages"][-1] = {"role": "assistant", "content": "", "tool_calls": [call]}
    prompts, _ = with_examples(
        EVAL, train, IclConfig(reserved_tokens=0), context_length=9999, answer_tokens=1, measure=estimate
    )
    assert prompts[0][2]["tool_calls"] == [call]


def test_a_prompt_s_estimated_tokens_grow_with_its_text_and_its_tools() -> None:
    prompt = [{"role": "user", "content": "a" * 300}]
    plain, more, tooled = estimate([prompt, prompt * 2, prompt], [None, None, [{"x": "y" * 300}]])
    assert plain >= 100 and more >= 2 * plain - 1 and tooled > plain + 90


def test_more_at_least_than_at_most_is_a_wrong_config() -> None:
    with pytest.raises(ConfigError, match="min_examples of at most max_examples"):
        validate_config(
            {"nims": [{"model_name": "a/b"}], "icl_config": {"min_examples": 4, "max_examples": 3}}, "test"
        )


def test_an_example_shows_its_text_in_the_line_of_its_prompt() -> None:
    rules = "Sort by these rules.\n" * 5
    train, asked = (
        [
            {
                "label": label,
                "messages": [
                    {"role": "user", "content": f"{rules}Ticket: '{text}'\nClass:"},
                    {"role": "assistant", "content": label},
                ],
            }
            for text, label in texts
        ]
        for texts in ([("It broke", "Bug"), ("It is slow", "Bug")], [("It hangs", "?"), ("It is late", "?")])
    )
    (prompt, _), _ = with_examples(
        asked, train, IclConfig(reserved_tokens=0), context_length=9999, answer_tokens=1, measure=estimate
    )
    assert {message["content"] for message in prompt[:-1:2]} == {"Ticket: 'It broke'", "Ticket: 'It is slow'"}
