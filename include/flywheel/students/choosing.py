"""Answers out of a closed set of labels: for each prompt the one that constrained greedy decoding gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from flywheel.students.decoder import Decoder
from flywheel.students.engine import row_states
from flywheel.students.generation import Answers
from flywheel.students.label_trie import LabelTrie
from flywheel.students.rows import Row, Tokens, common_prefix

# Told after each batch how many prompts are answered.
Told = Callable[[int], None]


def choose(
    decoder: Decoder,
    prompts: Sequence[Tokens],
    trie: LabelTrie,
    *,
    batch_size: int,
    progress: Told | None = None,
) -> Answers:
    """Answer prompts by the labels of a tree, one forward pass a batch.

    Args:
        decoder: a student; with its adapter merged it answers faster.
        prompts: token ids with the generation prompt, each [p].
        trie: the answers.
        batch_size: prompts answered at once, of similar length.
        progress: told after each batch.
    """

    def states(row: Row) -> Tensor:
        return row_states(decoder, row.to(decoder.device))

    return choose_by(states, decoder.output, prompts, trie, batch_size=batch_size, progress=progress)


@torch.inference_mode()
def choose_by(
    states: Callable[[Row], Tensor],
    head: Tensor,
    prompts: Sequence[Tokens],
    trie: LabelTrie,
    *,
    batch_size: int,
    progress: Told | None = None,
) -> Answers:
    """Answer prompts by the labels of a tree, given what computes a row; see `choose`.

    Args:
        states: of a row, the normalised last hidden states at its `predicting`: [N, d] at least.
        head: the output layer's weights, [V, d].
    """
    shared = common_prefix(prompts)
    prefix = prompts[0][:shared] if prompts else np.empty(0, np.int32)
    chosen_head = head.index_select(0, torch.from_numpy(trie.choices).to(head.device))  # [c, d]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    tokens: list[list[int]] = [[] for _ in prompts]
    batch_of, seconds = [0] * len(prompts), []
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        started = time.perf_counter()
        row = trie.row(prefix, [prompts[index] for index in batch])
        hidden = states(row)[: len(row.predicting)]
        logits = torch.nn.functional.linear(hidden, chosen_head).float().cpu().numpy()
        answers = trie.choose(logits.reshape(len(batch), -1, len(trie.choices)))
        seconds.append(time.perf_counter() - started)
        for index, answer in zip(batch, answers, strict=True):
            tokens[index], batch_of[index] = trie.answers[answer][:-1], len(seconds) - 1
        if progress is not None:
            progress(start + len(batch))
    return Answers(tokens, batch_of, seconds, 0.0, shared)
