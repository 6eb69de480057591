"""Answers out of a closed set of labels: for each prompt the one that constrained greedy decoding gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flywheel.students.answering import Answers, answer_in_batches
from flywheel.students.decoder import Decoder
from flywheel.students.label_trie import LabelTrie
from flywheel.students.prefix import RowStates
from flywheel.students.rows import Row, Tokens, common_prefix


@dataclass(frozen=True, slots=True)
class LabelChoice:
    """An answer out of a closed set.

    Attributes:
        answer: its number.
        tokens: its ids, without the end of the turn.
        log_probabilities: of all answers, natural logarithms: [A].
    """

    answer: int
    tokens: list[int]
    log_probabilities: NDArray[np.float64]


# Told after each batch how many prompts are answered.
Told = Callable[[int], None]


def choose(
    decoder: Decoder,
    prompts: Sequence[Tokens],
    trie: LabelTrie,
    *,
    batch_size: int | None,
    progress: Told | None = None,
) -> Answers[LabelChoice]:
    """Answer prompts by the labels of a tree, one forward pass a batch.

    Args:
        decoder: a student; with its adapter merged it answers faster.
        prompts: token ids with the generation prompt, each [p].
        trie: the answers.
        batch_size: prompts answered at once, of similar length.
        progress: told after each batch.
    """
    return choose_by(
        RowStates(decoder), decoder.output, prompts, trie, batch_size=batch_size, progress=progress
    )


@torch.inference_mode()
def choose_by(
    states: Callable[[Row], Tensor],
    head: Tensor,
    prompts: Sequence[Tokens],
    trie: LabelTrie,
    *,
    batch_size: int | None,
    progress: Told | None = None,
) -> Answers[LabelChoice]:
    """Answer prompts by the labels of a tree, given what computes a row; see `choose`.

    Args:
        states: of a row, the normalised last hidden states at its `predicting`: [N, d] at least.
        head: the output layer's weights, [V, d].
    """
    shared = common_prefix(prompts)
    prefix = prompts[0][:shared] if prompts else np.empty(0, np.int32)

    chosen = trie.part_of(head)

    def ask(batch: Sequence[Tokens]) -> list[LabelChoice]:
        return ask_batch(states, chosen, trie, prefix, batch)

    return answer_in_batches(
        prompts, ask, batch_size=batch_size, device=head.device.type, prefix=shared, progress=progress
    )


def ask_batch(
    states: Callable[[Row], Tensor], chosen: Tensor, trie: LabelTrie, prefix: Tokens, batch: Sequence[Tokens]
) -> list[LabelChoice]:
    """Answer one batch of prompts, longest first, in one forward pass; see `choose_by`.

    Args:
        chosen: the tree's part of the output layer (`LabelTrie.part_of`), which is the same for all batches.
        prefix: with which all of them begin; each has at least one token more.
    """
    row = trie.row(prefix, batch)
    hidden = states(row)[: len(row.predicting)]
    logits = torch.nn.functional.linear(hidden, chosen).float().cpu().numpy()
    logits = logits.reshape(len(batch), -1, len(trie.choices))
    return [
        LabelChoice(answer, trie.answers[answer][:-1], likely)
        for answer, likely in zip(trie.choose(logits), trie.log_probabilities(logits), strict=True)
    ]
