"""Rows: many samples after one copy of the tokens that they all begin with.

Every prompt of a workload begins with the same instructions and examples. A row holds that prefix once and
the samples' own tokens after it, one sample after another. Each own token sees the prefix and the tokens of
its own sample up to itself; its position continues from the prefix. So each sample is computed as if it stood
alone, and the prefix is computed once for all of them. Without a prefix a row is an ordinary packed one.

    row:        [ prefix 0..P-1 | sample a | sample b | ... ]
    positions:  [ 0..P-1        | P, P+1.. | P, P+1.. | ... ]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

# Below so many common tokens, attention in two parts costs more than the shared tokens save.
SHORTEST_PREFIX = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One training example as token ids: the loss is on `answer` alone.

    Attributes:
        prompt: the rendered request, with the generation prompt: [p], p >= 1.
        answer: the teacher's answer and the end of the turn: [a], a >= 1.
    """

    prompt: Tokens
    answer: Tokens

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def common_prefix(prompts: Sequence[Tokens]) -> int:
    """Return how many leading tokens all prompts share, leaving each at least one token of its own.

    Returns:
        The length in tokens; 0 when it is below `SHORTEST_PREFIX`, or when there are no prompts.
    """
    if not prompts:
        return 0
    first, length = prompts[0], min(len(prompt) for prompt in prompts) - 1
    for prompt in prompts:
        differs = np.flatnonzero(first[:length] != prompt[:length])
        if len(differs):
            length = int(differs[0])
    return length if length >= SHORTEST_PREFIX else 0


@dataclass(frozen=True)
class Spans:
    """Which queries see which keys: the queries of span i see the keys of span i, and no others.

    A causal span is aligned at its end: its last query sees all its keys, the one before all but the last.

    Attributes:
        queries: ends of the spans among the queries, with a leading 0: [n + 1].
        keys: the same among the keys: [n + 1].
        causal: whether a query is blind to keys after its own place.
        until: for each key, the place in its span from which on queries do not see it: [keys]; None: all do.
    """

    queries: NDArray[np.int64]
    keys: NDArray[np.int64]
    causal: bool
    until: NDArray[np.int64] | None = None

    @classmethod
    def one(cls, queries: int, keys: int, causal: bool) -> Spans:
        """Return a single span of so many queries and keys."""
        return cls(np.array([0, queries]), np.array([0, keys]), causal)

    @property
    def is_one_block(self) -> bool:
        """Whether there is one span, which needs no mask but causal order from the start."""
        in_order = not self.causal or self.queries[1] == self.keys[1]
        return len(self.queries) == 2 and in_order and self.until is None

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The spans in groups of similar length, each group padded to one batch."""
        counts, lengths = np.diff(self.queries), np.diff(self.keys)
        groups, start = [], 0
        while start < len(counts):
            end, longest, shortest = start + 1, lengths[start], lengths[start]
            while end < len(counts):
                longest, shortest = max(longest, lengths[end]), min(shortest, lengths[end])
                if shortest < 0.75 * longest:  # padding would waste more than a quarter of a span
                    break
                end += 1
            groups.append(Group.of(self, start, end))
            start = end
        return tuple(groups)


@dataclass(frozen=True)
class Group:
    """Consecutive spans as a batch [B, longest], padded at the end.

    Attributes:
        queries: the group's range among all queries.
        keys: the group's range among all keys.
        batch: B.
        longest_query: Lq.
        longest_key: Lk.
        query_cells: cell of the flattened [B, Lq] batch that each query takes: [queries].
        key_cells: the same among [B, Lk]: [keys].
        query_of_cell: the query in each cell, counted from the start of the range; 0 in padding: [B * Lq].
        key_of_cell: the same for keys: [B * Lk].
        visible: which keys a query sees, [B, 1, Lq, Lk], where that is not plain causal order from the start.
    """

    queries: slice
    keys: slice
    batch: int
    longest_query: int
    longest_key: int
    query_cells: torch.Tensor
    key_cells: torch.Tensor
    query_of_cell: torch.Tensor
    key_of_cell: torch.Tensor
    visible: torch.Tensor | None

    @classmethod
    def of(cls, spans: Spans, start: int, end: int) -> Group:
        """Return the group of the spans from `start` to `end`."""
        queries, keys = spans.queries[start : end + 1], spans.keys[start : end + 1]
        query_cells, query_of_cell, counts = _cells(queries)
        key_cells, key_of_cell, lengths = _cells(keys)
        longest_query, longest_key = int(counts.max()), int(lengths.max())
        visible = None
        if not (spans.causal and np.array_equal(counts, lengths)) or spans.until is not None:
            column = np.arange(longest_key)[None, None, :]
            # Aligned at the end: query j of c is at place l - c + j.
            place = (lengths - counts)[:, None, None] + np.arange(longest_query)[None, :, None]
            seen = np.broadcast_to(lengths[:, None, None], (len(counts), longest_query, longest_key))
            if spans.causal:
                seen = place + 1
            # Queries in padding see the first key, so that no row of the softmax is empty.
            mask = column < np.maximum(np.minimum(seen, lengths[:, None, None]), 1)
            if spans.until is not None:
                until = spans.until[keys[0] : keys[-1]][key_of_cell].reshape(len(counts), 1, longest_key)
                mask &= (place < until) | (column == 0)
            visible = torch.from_numpy(mask)[:, None]
        return cls(
            queries=slice(int(queries[0]), int(queries[-1])),
            keys=slice(int(keys[0]), int(keys[-1])),
            batch=end - start,
            longest_query=longest_query,
            longest_key=longest_key,
            query_cells=torch.from_numpy(query_cells),
            key_cells=torch.from_numpy(key_cells),
            query_of_cell=torch.from_numpy(query_of_cell),
            key_of_cell=torch.from_numpy(key_of_cell),
            visible=visible,
        )


def _cells(ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (cell of each token, token of each cell, lengths) of spans padded to the longest."""
    lengths = np.diff(ends)
    longest = int(lengths.max())
    offset = np.arange(longest)[None, :]
    cells = np.flatnonzero(offset < lengths[:, None])
    token_of_cell = np.zeros(len(lengths) * longest, np.int64)
    token_of_cell[cells] = np.arange(len(cells))
    return cells, token_of_cell, lengths


@dataclass(frozen=True)
class Row:
    """A row, ready for the decoder.

    Attributes:
        tokens: prefix, then the samples' own tokens: [T].
        positions: [T].
        prefix: P, the tokens of the prefix.
        samples: ends of the samples among the own tokens, with a leading 0: [n + 1].
        predicting: places in the row whose next token is of an answer: [N].
        predicted: ends of the samples among `predicting`, with a leading 0: [n + 1].
        targets: the answers' tokens: [N].
        until: for each own token, the place in its sample from which on tokens do not see it; None: all do.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    prefix: int
    samples: NDArray[np.int64]
    predicting: torch.Tensor
    predicted: NDArray[np.int64]
    targets: torch.Tensor
    until: NDArray[np.int64] | None = None

    def to(self, device: torch.device) -> Row:
        """Return the row with its tensors on a device."""
        if self.tokens.device == device:
            return self
        names = ("tokens", "positions", "predicting", "targets")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})

    @property
    def end(self) -> int:
        """The position after the longest sample's last."""
        return self.prefix + int(np.diff(self.samples).max())

    @cached_property
    def within_samples(self) -> Spans:
        """All own tokens, each to its own sample."""
        return Spans(self.samples, self.samples, causal=True, until=self.until)

    @cached_property
    def answers_within_samples(self) -> Spans:
        """The places that predict, each to its own sample: they are the last of their sample."""
        return Spans(self.predicted, self.samples, causal=True, until=self.until)


def build_row(prefix: Tokens, samples: Sequence[Sample]) -> Row:
    """Return the row of `samples`, which all begin with `prefix`.

    The samples are put in order of length, longest first, so that neighbours can be padded to one batch. The
    last token of an answer predicts nothing and is left out.
    """
    own = sorted(
        ((sample.prompt[len(prefix) :], sample.answer) for sample in samples),
        key=lambda parts: -(len(parts[0]) + len(parts[1])),
    )
    pieces = [prefix]
    for prompt, answer in own:
        pieces += [prompt, answer[:-1]]
    prompts = np.array([len(prompt) for prompt, _ in own])
    answers = np.array([len(answer) for _, answer in own])
    lengths, begin = prompts + answers - 1, len(prefix)
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)  # each in its sample
    return Row(
        tokens=torch.from_numpy(np.concatenate(pieces).astype(np.int64)),
        positions=torch.from_numpy(np.concatenate([np.arange(begin), begin + places])),
        prefix=begin,
        samples=np.concatenate([[0], ends]),
        predicting=torch.from_numpy(begin + np.flatnonzero(places >= np.repeat(prompts - 1, lengths))),
        predicted=np.cumsum([0, *answers]),
        targets=torch.from_numpy(np.concatenate([answer for _, answer in own]).astype(np.int64)),
    )


def fill_rows(prefix: int, samples: Sequence[Sample], most_tokens: int) -> Iterator[list[Sample]]:
    """Split a batch into as few rows as hold it, each of at most `most_tokens` tokens with its prefix.

    A sample that is longer than that has a row of its own.
    """
    row: list[Sample] = []
    room = most_tokens - prefix
    for sample in samples:
        length = len(sample) - prefix
        if row and length > room:
            yield row
            row, room = [], most_tokens - prefix
        row.append(sample)
        room -= length
    if row:
        yield row
