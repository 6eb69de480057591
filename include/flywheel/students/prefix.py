"""What all prompts begin with, where the clear path answers: its keys and values are computed once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from flywheel.students.attention import Part, attend_parts, join
from flywheel.students.decoder import Decoder
from flywheel.students.engine import row_states
from flywheel.students.kernels import kernel_for
from flywheel.students.rows import Row, Spans, Tokens


class Prefix:
    """A prefix's keys and values: `layers[i]` is (k, v), each [P, Hkv, D].

    Args:
        decoder: the student.
        tokens: [P]; may be empty.
    """

    def __init__(self, decoder: Decoder, tokens: Tokens) -> None:
        self.tokens, self.length = tokens, len(tokens)
        self.layers: list[tuple[Tensor, Tensor]] = []
        self._kernel, self._scale = kernel_for(decoder.embedding), decoder.scale
        length = self.length
        if not length:
            return

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.layers.append((k, v))
            # The last layer is asked for one place alone, and its output is not used.
            spans = Spans.one(len(q), length, causal=len(q) == length)
            return self._kernel.forward(q, k, v, spans, decoder.scale)[0]

        ids = torch.from_numpy(tokens.astype(np.int64)).to(decoder.device)
        last = torch.tensor([length - 1], device=decoder.device)
        decoder.hidden(ids, torch.arange(length, device=decoder.device), attend, end=length, at=last)

    def joined(self, layer: int, q: Tensor, out: Tensor, lse: Tensor) -> Tensor:
        """Return the attention of q [Tq, H, D] over the prefix and what `out`, `lse` are of: [Tq, H, D]."""
        if not self.length:
            return out
        k, v = self.layers[layer]
        spans = Spans.one(len(q), self.length, causal=False)
        seen, seen_lse = self._kernel.forward(q, k, v, spans, self._scale)
        return join(out, lse, seen, seen_lse)[0]


class RowStates:
    """Computes the last hidden states of rows, a prefix once for all rows in a line that begin with it.

    Args:
        decoder: the student; with its adapter merged it answers faster.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._prefix = Prefix(decoder, np.empty(0, np.int32))

    def __call__(self, row: Row) -> Tensor:
        """Return the normalised last hidden states at a row's `predicting`: [N, d]."""
        decoder, begin = self._decoder, row.prefix
        if not begin:
            return row_states(decoder, row.to(decoder.device))
        tokens = row.tokens[:begin].numpy()
        if not np.array_equal(tokens, self._prefix.tokens):
            self._prefix = Prefix(decoder, tokens)
        prefix, kernel, last = self._prefix, kernel_for(decoder.embedding), len(decoder.layers) - 1

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            spans = row.answers_within_samples if layer == last else row.within_samples
            own = [Part(slice(0, len(q)), slice(0, len(k)), spans)]
            return prefix.joined(layer, q, *attend_parts(q, k, v, own, decoder.scale, kernel))

        placed = row.to(decoder.device)
        at = placed.predicting - begin
        return decoder.hidden(placed.tokens[begin:], placed.positions[begin:], attention, end=row.end, at=at)
