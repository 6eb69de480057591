"""The answers of a closed set of labels as a tree of tokens, and the greedy walk down that tree.

Constrained greedy decoding takes, token by token, the likeliest of those with which an allowed answer goes
on. Where the answers are few, all tokens that matter can be computed at once, after the prompt: those on the
way to a place where answers part. Each sees the prompt and the tokens above it in the tree (tree attention:
SpecInfer, Miao et al. 2024, arXiv 2305.09781). One forward pass gives what the steps would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor

from flywheel.common.errors import StudentError
from flywheel.students.rows import Row, Tokens

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
        begin, count = len(prefix), len(self.tokens)
        pieces = [prefix]
        for prompt in prompts:
            pieces += [prompt[begin:], self.tokens] if count else [prompt[begin:]]
        own = np.array([len(prompt) for prompt in prompts]) - begin
        ends = np.cumsum(own + count)
        starts = ends - own - count
        places = np.arange(ends[-1]) - np.repeat(starts, own + count)  # each in its sample
        positions = np.concatenate([np.arange(begin), begin + places])
        until = None
        if count:
            until = np.full(len(places), NEVER, np.int64)
            tree = (starts + own)[:, None] + np.arange(count)
            until[tree] = own[:, None] + self.ends
            positions[begin + tree] = begin + own[:, None] - 1 + self.depths
        asked = 1 + count
        return Row(
            tokens=torch.from_numpy(np.concatenate(pieces).astype(np.int64)),
            positions=torch.from_numpy(positions),
            prefix=begin,
            samples=np.concatenate([[0], ends]),
            predicting=torch.from_numpy(((begin + starts + own - 1)[:, None] + np.arange(asked)).reshape(-1)),
            predicted=np.arange(len(prompts) + 1) * asked,
            targets=torch.zeros(len(prompts) * asked, dtype=torch.int64),  # there is no loss
            until=until,
        )

    def part_of(self, head: Tensor) -> Tensor:
        """Return the rows of an output layer [V, d] that belong to `choices`: [c, d]."""
        return head.index_select(0, torch.from_numpy(self.choices).to(head.device))

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
