"""The answers of a closed set of labels as a tree of tokens, and the greedy walk down that tree.

Constrained greedy decoding takes, token by token, the likeliest of those with which an allowed answer goes
on. Where the answers are few, all tokens that matter can be computed at once, after the prompt: those on the
way to a place where answers part. Each sees the prompt and the tokens above it in the tree (tree attention:
SpecInfer, Miao et al. 2024, arXiv 2305.09781). One forward pass gives what the steps would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from flywheel.common.errors import StudentError
from flywheel.students.rows import Row, Sample, Tokens, build_row

# A key that all later queries of its sample see.
NEVER = np.iinfo(np.int32).max


@dataclass(slots=True)
class _Node:
    """Where an answer's beginning ends.

    Attributes:
        children: by token, lowest first; the order of a vocabulary's argmax.
        answer: the number of the answer that ends here, or -1.
        state: place of its hidden state among those computed: 0 is the prompt's end; -1 if not computed.
    """

    children: dict[int, _Node] = field(default_factory=dict)
    answer: int = -1
    state: int = -1


class LabelTrie:
    """The tree of some answers.

    Args:
        answers: each answer's token ids with the token that ends it, all different.

    Attributes:
        tokens: those computed beside a prompt, in depth-first order: [n].
        depths: of each, 1 right after the prompt: [n].
        ends: of each, the place after the last one below it: [n].
        choices: the tokens between which is chosen somewhere, ascending: [c].

    Raises:
        StudentError: two answers have the same tokens, or one begins another.
    """

    def __init__(self, answers: Sequence[Tokens]) -> None:
        self.answers = [[int(token) for token in answer] for answer in answers]
        self._root = _Node()
        for index, answer in enumerate(self.answers):
            node = self._root
            for token in answer:
                if node.answer >= 0:
                    raise StudentError(f"the tokens of answer {node.answer} begin those of answer {index}")
                node = node.children.setdefault(token, _Node())
            if node.answer >= 0 or node.children:
                raise StudentError(f"the tokens of answer {index} are, or begin, those of another")
            node.answer = index
        self._root.state = 0
        rows: list[list[int]] = []
        choices: set[int] = set()
        self._place(self._root, 0, rows, choices)
        table = np.array(rows, np.int64).reshape(-1, 3)
        self.tokens: Tokens = table[:, 0].astype(np.int32)
        self.depths: NDArray[np.int64] = table[:, 1]
        self.ends: NDArray[np.int64] = table[:, 2]
        self.choices: NDArray[np.int64] = np.array(sorted(choices), np.int64)
        self._column = {token: column for column, token in enumerate(self.choices.tolist())}

    def _place(self, node: _Node, depth: int, rows: list[list[int]], choices: set[int]) -> None:
        node.children = dict(sorted(node.children.items()))
        if len(node.children) > 1:
            choices.update(node.children)
        for token, child in node.children.items():
            if _parts(child):
                child.state = len(rows) + 1
                rows.append([token, depth + 1, 0])
                self._place(child, depth + 1, rows, choices)
                rows[child.state - 1][2] = len(rows)

    def row(self, prefix: Tokens, prompts: Sequence[Tokens]) -> Row:
        """Return the row of prompts, longest first, each followed by the tree's tokens.

        Its `predicting` are, for each prompt, its last place and the tree's: [S (1 + n)].
        """
        unseen = np.zeros(1, np.int32)  # a row leaves each answer's last token out
        after = np.concatenate([self.tokens, unseen])
        row = build_row(prefix, [Sample(prompt, after) for prompt in prompts])
        if not len(self.tokens):
            return row
        until = np.full(int(row.samples[-1]), NEVER, np.int64)
        count = len(self.tokens)
        own = np.diff(row.samples)[:, None] - count  # of each prompt
        tree = row.samples[1:, None] - count + np.arange(count)
        until[tree] = own + self.ends
        positions = row.positions.numpy().copy()
        positions[len(prefix) + tree] = len(prefix) + own - 1 + self.depths
        return replace(row, positions=torch.from_numpy(positions), until=until)

    def choose(self, logits: NDArray[np.float32]) -> list[int]:
        """Walk down the tree for each prompt.

        Args:
            logits: of the tokens in `choices`, at a prompt's last place and at the tree's: [S, 1 + n, c].

        Returns:
            The number of the answer, for each prompt.
        """
        chosen = np.empty(len(logits), np.int64)

        def descend(node: _Node, here: NDArray[np.int64]) -> None:
            if node.answer >= 0:
                chosen[here] = node.answer
            elif len(node.children) == 1:
                (only,) = node.children.values()
                descend(only, here)
            elif len(here):
                columns = [self._column[token] for token in node.children]
                best = logits[here, node.state][:, columns].argmax(1)
                for place, child in enumerate(node.children.values()):
                    descend(child, here[best == place])

        descend(self._root, np.arange(len(logits)))
        return [int(answer) for answer in chosen]

    def log_probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return how likely each answer is, given that it is one of them.

        The product of the conditional probabilities on the way down the tree, each a softmax over the tokens
        with which an answer goes on. The answer that `choose` gives is nearly always the likeliest.

        Args:
            logits: as for `choose`: [S, 1 + n, c].

        Returns:
            Natural logarithms, which sum to one as probabilities: [S, A].
        """
        found = np.zeros((len(logits), len(self.answers)))

        def descend(node: _Node, so_far: NDArray[np.float64]) -> None:
            if node.answer >= 0:
                found[:, node.answer] = so_far
                return
            if len(node.children) == 1:
                (only,) = node.children.values()
                descend(only, so_far)
                return
            columns = [self._column[token] for token in node.children]
            steps = log_softmax(logits[:, node.state, columns].astype(np.float64), axis=1)
            for place, child in enumerate(node.children.values()):
                descend(child, so_far + steps[:, place])

        descend(self._root, np.zeros(len(logits)))
        return found


def _parts(node: _Node) -> bool:
    """Whether answers part at a node or below it."""
    return len(node.children) > 1 or any(_parts(child) for child in node.children.values())
