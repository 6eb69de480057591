"""Greedy answers to many prompts that begin alike: the prefix's keys and values are computed once.

Each batch goes through the decoder once as a flat row of own tokens, then token by token. The prefix is never
copied: the queries of all prompts see it as one block, beside their own keys, and the two parts are joined by
their log-sum-exp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flywheel.students.answering import Answers, answer_in_batches
from flywheel.students.attention import Part, attend_parts
from flywheel.students.decoder import Decoder
from flywheel.students.kernels import PlainKernel, kernel_for
from flywheel.students.prefix import Prefix
from flywheel.students.rows import Spans, Tokens, common_prefix

_PLAIN = PlainKernel()


@torch.inference_mode()
def generate(
    decoder: Decoder,
    prompts: Sequence[Tokens],
    stops: frozenset[int],
    *,
    max_new_tokens: int,
    batch_size: int | None,
    progress: Callable[[int], None] | None = None,
) -> Answers[list[int]]:
    """Answer prompts greedily.

    Args:
        decoder: a student; with its adapter merged it answers faster.
        prompts: token ids with the generation prompt, each [p].
        stops: ids of tokens that end an answer.
        max_new_tokens: longest answer.
        batch_size: prompts answered at once, of similar length.
        progress: told after each batch how many prompts are answered.
    """
    shared = common_prefix(prompts)
    started = time.perf_counter()
    prefix = Prefix(decoder, prompts[0][:shared] if prompts else np.empty(0, np.int32))
    _synchronize(decoder)
    prefix_seconds = time.perf_counter() - started

    def ask(batch: Sequence[Tokens]) -> list[list[int]]:
        return _answer_batch(decoder, prefix, [prompt[shared:] for prompt in batch], stops, max_new_tokens)

    return answer_in_batches(
        prompts,
        ask,
        batch_size=batch_size,
        device=decoder.device.type,
        prefix_seconds=prefix_seconds,
        prefix=shared,
        progress=progress,
    )


@torch.inference_mode()
def answer_batch(
    decoder: Decoder, prompts: Sequence[Tokens], stops: frozenset[int], *, max_new_tokens: int
) -> list[list[int]]:
    """Answer one batch of prompts greedily; see `generate`. Their shared prefix is computed for the batch."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    shared = common_prefix(prompts)
    prefix = Prefix(decoder, prompts[0][:shared] if prompts else np.empty(0, np.int32))
    own = [prompts[index][shared:] for index in order]
    found = dict(zip(order, _answer_batch(decoder, prefix, own, stops, max_new_tokens), strict=True))
    return [found[index] for index in range(len(prompts))]


def _answer_batch(
    decoder: Decoder, prefix: Prefix, prompts: Sequence[Tokens], stops: frozenset[int], max_new_tokens: int
) -> list[list[int]]:
    """Return the answers to prompts (own tokens alone), which are in order of length, longest first."""
    device, batch = decoder.device, len(prompts)
    lengths = np.array([len(prompt) for prompt in prompts])
    cache = _OwnKeys(decoder, prefix, lengths, max_new_tokens)
    ids = torch.from_numpy(np.concatenate(prompts).astype(np.int64)).to(device)  # [S]
    own_places = np.concatenate([np.arange(length) for length in lengths])
    positions = torch.from_numpy(prefix.length + own_places).to(device)
    at = torch.from_numpy(np.cumsum(lengths) - 1).to(device)
    end = prefix.length + int(lengths.max()) + max_new_tokens
    hidden = decoder.hidden(ids, positions, cache.attend_prompts, end=end, at=at)  # [B, d]
    stop_ids = torch.tensor(sorted(stops), device=device)
    place = torch.from_numpy(prefix.length + lengths).to(device)  # position of the next token, [B]
    finished = torch.zeros(batch, dtype=torch.bool, device=device)
    written: list[Tensor] = []
    for count in range(max_new_tokens):
        token = decoder.logits(hidden).argmax(-1)  # [B]
        finished |= torch.isin(token, stop_ids)
        written.append(torch.where(finished, -1, token))
        if count == max_new_tokens - 1 or bool(finished.all()):
            break
        cache.advance()
        hidden = decoder.hidden(token, place + count, cache.attend_token, end=end)
    rows = torch.stack(written, 1).tolist()
    return [[token for token in row if token >= 0] for row in rows]


class _OwnKeys:
    """The own keys and values of a batch, padded at the end: for each layer two [B, longest, Hkv, D].

    The new tokens of all prompts go to the same columns, after the longest prompt.
    """

    def __init__(
        self, decoder: Decoder, prefix: Prefix, lengths: NDArray[np.int64], max_new_tokens: int
    ) -> None:
        self._decoder, self._prefix = decoder, prefix
        self._kernel = kernel_for(decoder.embedding)
        self._ends = np.cumsum([0, *lengths])
        self._batch, self._longest = len(lengths), int(lengths.max())
        self._new = 0
        columns = torch.arange(self._longest + max_new_tokens)
        in_prompt = columns[None, :] < torch.from_numpy(lengths)[:, None]
        self._cells = torch.nonzero(in_prompt[:, : self._longest].flatten()).squeeze(1).to(decoder.device)
        # Columns after the longest prompt hold new tokens, which their own prompt sees once they are there.
        self._visible = (in_prompt | (columns >= self._longest)).to(decoder.device)  # [B, longest + new]
        self._layers: list[tuple[Tensor, Tensor]] = []

    def attend_prompts(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend the prompts' own tokens, all of them or in the last layer the last of each; keep k and v."""
        shape = (self._batch * self._longest, *k.shape[1:])
        kept = []
        for tensor in (k, v):
            # Room for the new tokens is made when they come, as answers are short.
            padded = tensor.new_zeros(shape).index_copy_(0, self._cells, tensor)
            kept.append(padded.view(self._batch, self._longest, *k.shape[1:]))
        self._layers.append((kept[0], kept[1]))
        all_queries = len(q) == len(k)
        query_ends = self._ends if all_queries else np.arange(self._batch + 1)
        everything = slice(0, len(q))
        parts = [Part(everything, slice(0, len(k)), Spans(query_ends, self._ends, causal=True))]
        out, lse = attend_parts(q, k, v, parts, self._decoder.scale, self._kernel)
        return self._prefix.joined(layer, q, out, lse)

    def advance(self) -> None:
        """Make room for one more token of each prompt."""
        self._new += 1
        self._layers = [(_one_more_column(k), _one_more_column(v)) for k, v in self._layers]

    def attend_token(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend the newest token of each prompt: q [B, H, D]; k, v [B, Hkv, D]."""
        keys, values = self._layers[layer]
        keys[:, -1], values[:, -1] = k, v
        repeats = q.shape[1] // k.shape[1]
        # The heads that share keys are the rows of one small matrix: [B, Hkv, repeats, D].
        grouped = q.view(len(q), -1, repeats, q.shape[-1])
        visible = self._visible[:, None, None, : keys.shape[1]]
        out, lse = _PLAIN.attend(
            grouped, keys.transpose(1, 2), values.transpose(1, 2), visible, self._decoder.scale
        )
        return self._prefix.joined(layer, q, out.flatten(1, 2), lse.flatten(1, 2))


def _one_more_column(tensor: Tensor) -> Tensor:
    """[B, L, Hkv, D] -> [B, L + 1, Hkv, D], the new column zero."""
    return torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, 1))


def _synchronize(decoder: Decoder) -> None:
    if decoder.device.type == "cuda":
        torch.cuda.synchronize()
