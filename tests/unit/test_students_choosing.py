"""Answers out of a closed set are those of greedy decoding that may only go on with an allowed answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_students_generation import make_prompts
from tiny_students import make_model, with_adapter

from flywheel.common.errors import StudentError
from flywheel.students.choosing import choose
from flywheel.students.decoder import Decoder
from flywheel.students.gpu.backend import gpu_choices
from flywheel.students.label_trie import LabelTrie
from flywheel.students.rows import Sample, Tokens, build_row

END = 4


def answers_of(rows: list[list[int]]) -> list[Tokens]:
    return [np.array([*row, END], np.int32) for row in rows]


# All begin with 9 9; they part after it, and again further down; 11 ends where others go on.
FORKED = answers_of([[9, 9, 11], [9, 9, 11, 12], [9, 9, 20, 21, 22], [9, 9, 20, 21, 23], [9, 9, 20, 24]])
FLAT = answers_of([[11], [12], [13]])


def decode_step_by_step(model: Any, prompt: Tokens, answers: list[Tokens]) -> list[int]:
    """Constrained greedy decoding, one whole forward pass a token."""
    made: list[int] = []
    allowed = [answer.tolist() for answer in answers]
    while True:
        ids = torch.from_numpy(np.concatenate([prompt, made]).astype(np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1]
        following = sorted({answer[len(made)] for answer in allowed if answer[: len(made)] == made})
        token = following[int(logits[following].argmax())]
        if token == END:
            return made
        made.append(token)


@pytest.mark.parametrize("prefix", [0, 20])
@pytest.mark.parametrize("answers", [FORKED, FLAT], ids=["forked", "flat"])
def test_choices_are_those_of_constrained_steps(prefix: int, answers: list[Tokens]) -> None:
    model = with_adapter(make_model(60, num_key_value_heads=2, num_hidden_layers=3)).eval()
    prompts = make_prompts(prefix, 30)
    found = choose(Decoder(model).merge(), prompts, LabelTrie(answers), batch_size=7)
    expected = [decode_step_by_step(model, prompt, answers) for prompt in prompts]
    assert [choice.tokens for choice in found.given] == expected
    assert len({tuple(tokens) for tokens in expected}) > 1
    assert found.prefix == prefix


@pytest.mark.parametrize("prefix", [0, 20])
def test_the_gpu_path_chooses_alike(prefix: int) -> None:
    model = with_adapter(make_model(60, num_key_value_heads=2, head_dim=16)).eval()
    prompts = make_prompts(prefix, 30)
    trie = LabelTrie(FORKED)
    found = gpu_choices(model, prompts, trie, batch_size=7, force=True)
    assert found is not None
    clear = choose(Decoder(model), prompts, trie, batch_size=7)
    assert [choice.tokens for choice in found.given] == [choice.tokens for choice in clear.given]
    for one, other in zip(found.given, clear.given, strict=True):
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, atol=1e-4)


def test_only_what_leads_to_a_choice_is_computed() -> None:
    assert LabelTrie(FLAT).tokens.tolist() == []
    trie = LabelTrie(FORKED)
    assert trie.tokens.tolist() == [9, 9, 11, 20, 21]
    assert trie.depths.tolist() == [1, 2, 3, 3, 4]
    assert trie.ends.tolist() == [5, 5, 3, 5, 5]
    assert LabelTrie(answers_of([[7, 8]])).choices.tolist() == []


def test_an_answer_that_begins_another_is_refused() -> None:
    with pytest.raises(StudentError, match="answer 1 are, or begin"):
        LabelTrie([np.array([5, 6, END]), np.array([5, 6])])
    with pytest.raises(StudentError, match="answer 0 begin those of answer 1"):
        LabelTrie([np.array([5, 6]), np.array([5, 6, END])])


@pytest.mark.parametrize("answers", [FORKED, FLAT], ids=["forked", "flat"])
def test_an_answers_probability_is_the_product_along_its_tokens(answers: list[Tokens]) -> None:
    model = with_adapter(make_model(60, num_key_value_heads=2)).eval()
    prompts = make_prompts(4, 5)
    found = choose(Decoder(model).merge(), prompts, LabelTrie(answers), batch_size=5)
    allowed = [answer.tolist() for answer in answers]
    for prompt, choice in zip(prompts, found.given, strict=True):
        assert np.exp(choice.log_probabilities).sum() == pytest.approx(1)
        for answer, log_probability in zip(allowed, choice.log_probabilities, strict=True):
            expected = 0.0
            for place, token in enumerate(answer):
                following = sorted({other[place] for other in allowed if other[:place] == answer[:place]})
                ids = torch.from_numpy(np.concatenate([prompt, answer[:place]]).astype(np.int64))[None]
                with torch.no_grad():
                    logits = model(input_ids=ids).logits[0, -1, following]
                expected += float(torch.log_softmax(logits, -1)[following.index(token)])
            assert log_probability == pytest.approx(expected, abs=1e-4)


def test_the_clear_path_computes_a_prefix_once_for_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(with_adapter(make_model(60, num_key_value_heads=2, num_hidden_layers=3)).eval()).merge()
    computed: list[int] = []
    hidden = decoder.hidden

    def counted(tokens: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        computed.append(len(tokens))
        return hidden(tokens, *arguments, **options)

    monkeypatch.setattr(decoder, "hidden", counted)
    prompts, trie = make_prompts(20, 30), LabelTrie(FORKED)
    choose(decoder, prompts, trie, batch_size=10)
    own = sum(len(prompt) - 20 + len(trie.tokens) for prompt in prompts)
    assert computed[0] == 20
    assert sum(computed[2:5]) == own  # after a warm-up, three batches of what is their own


@pytest.mark.parametrize("answers", [FORKED, FLAT], ids=["forked", "flat"])
def test_a_trees_row_is_that_of_samples_whose_answers_are_the_tree(answers: list[Tokens]) -> None:
    trie, prompts = LabelTrie(answers), sorted(make_prompts(20, 6), key=len, reverse=True)
    prefix = prompts[0][:20]
    row = trie.row(prefix, prompts)
    after = np.concatenate([trie.tokens, np.zeros(1, np.int32)])
    wanted = build_row(prefix, [Sample(prompt, after) for prompt in prompts])
    for name in ("tokens", "predicting", "predicted", "samples", "prefix"):
        np.testing.assert_array_equal(getattr(row, name), getattr(wanted, name), err_msg=name)
    # A token of the tree stands where its depth puts it, whatever stands beside it.
    ends = row.prefix + row.samples[1:]
    tree = row.positions.numpy()[ends[:, None] - len(trie.tokens) + np.arange(len(trie.tokens))]
    last = np.array([len(prompt) for prompt in prompts]) - 1
    np.testing.assert_array_equal(tree, last[:, None] + trie.depths)
    assert (row.until is None) == (not len(trie.tokens))
