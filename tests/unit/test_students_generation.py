"""Answers with a shared prefix are the answers of the model's own `generate`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_students import make_model, with_adapter

from flywheel.students.decoder import Decoder
from flywheel.students.generation import generate
from flywheel.students.rows import Tokens

STOPS = frozenset({4, *range(7, 32)})


def make_prompts(prefix: int, count: int, seed: int = 0) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    head = rng.integers(8, 60, prefix)
    return [
        np.concatenate([head, rng.integers(8, 60, rng.integers(1, 30))]).astype(np.int32)
        for _ in range(count)
    ]


def generate_plainly(model: object, prompt: Tokens, max_new_tokens: int) -> list[int]:
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    out = model.generate(  # type: ignore[attr-defined]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(STOPS),
        pad_token_id=1,
    )
    answer: list[int] = out[0, len(prompt) :].tolist()
    ends = [index for index, token in enumerate(answer) if token in STOPS]
    return answer[: ends[0]] if ends else answer


@pytest.mark.parametrize("prefix", [0, 100])
@pytest.mark.parametrize("key_heads", [4, 1])
@pytest.mark.parametrize("merged", [False, True])
def test_answers_are_those_of_plain_generation(prefix: int, key_heads: int, merged: bool) -> None:
    # A vocabulary so small that many answers end by themselves.
    model = with_adapter(make_model(60, num_key_value_heads=key_heads, num_hidden_layers=3)).eval()
    prompts = make_prompts(prefix, 11)
    decoder = Decoder(model)
    if merged:
        decoder.merge()
    answers = generate(decoder, prompts, STOPS, max_new_tokens=9, batch_size=4)
    expected = [generate_plainly(model, prompt, 9) for prompt in prompts]
    assert answers.given == expected
    assert answers.prefix == prefix
    lengths = {len(answer) for answer in expected}
    assert len(lengths) > 1 and max(lengths) == 9  # some ended by a stop, some by the limit


def test_each_prompt_knows_its_batch_and_batches_are_of_similar_length() -> None:
    prompts = make_prompts(40, 10)
    answers = generate(Decoder(make_model(60)), prompts, STOPS, max_new_tokens=3, batch_size=4)
    assert len(answers.batch_seconds) == 3
    longest_first = [
        min(len(p) for p, b in zip(prompts, answers.batch_of, strict=True) if b == n) for n in range(3)
    ]
    assert longest_first == sorted(longest_first, reverse=True)


def test_no_prompts_give_no_answers() -> None:
    assert generate(Decoder(make_model(60)), [], STOPS, max_new_tokens=3, batch_size=4).given == []
