"""A student that is loaded once and asked again and again: answers out of a closed set, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flywheel.students.answering import PLAIN_BATCH
from flywheel.students.choosing import LabelChoice, ask_batch
from flywheel.students.decoder import answering_decoder
from flywheel.students.gpu.backend import fitting, gpu_states
from flywheel.students.label_trie import LabelTrie
from flywheel.students.prefix import RowStates
from flywheel.students.rows import Row, Tokens


class Chooser:
    """Answers batches of prompts by the fastest path of the device.

    Args:
        model: a student with its adapter; its weights are changed (merged) on a CPU.
        trie: the answers.
        prefix: token ids with which nearly all prompts begin; computed once: [P].
    """

    def __init__(self, model: Any, trie: LabelTrie, prefix: Tokens) -> None:
        self.trie, self.prefix = trie, prefix
        self._states, head = states_of(model)
        self._chosen = trie.part_of(head)

    @torch.inference_mode()
    def choose(self, prompts: Sequence[Tokens]) -> list[LabelChoice]:
        """Return the answers to prompts, each [p], in their order."""
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        begin = len(self.prefix)
        fits = not begin or all(
            len(prompt) > begin and np.array_equal(prompt[:begin], self.prefix) for prompt in prompts
        )
        prefix = self.prefix if fits else self.prefix[:0]
        batch = [prompts[index] for index in order]
        found = dict(zip(order, ask_batch(self._states, self._chosen, self.trie, prefix, batch), strict=True))
        return [found[index] for index in range(len(prompts))]

    def choose_all(self, prompts: Sequence[Tokens], batch_size: int | None = None) -> list[LabelChoice]:
        """Return the answers to any number of prompts, each [p], in their order.

        Args:
            batch_size: prompts of one pass, of similar length; None: on a GPU as many as fit and are worth
                it, else `PLAIN_BATCH`.
        """
        size = batch_size or fitting(self._states, prompts, beside=len(self.trie.tokens)) or PLAIN_BATCH
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        found: dict[int, LabelChoice] = {}
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            found.update(zip(batch, self.choose([prompts[index] for index in batch]), strict=True))
        return [found[index] for index in range(len(prompts))]


def states_of(model: Any) -> tuple[Callable[[Row], Tensor], Tensor]:
    """Return what computes the last hidden states of a row, and the output layer's weights [V, d]."""
    decoder = answering_decoder(model)
    if decoder.device.type != "cpu":
        fast = gpu_states(model)
        if fast is not None:
            return fast
    return RowStates(decoder), decoder.output
