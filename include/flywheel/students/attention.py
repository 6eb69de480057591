"""Attention over a row: each token sees the prefix and its own sample; exact, forward and backward.

Three parts instead of one masked square of T x T scores, of which most would be masked:

    prefix tokens -> prefix, causal           P x P / 2
    own tokens    -> prefix, all of it        S x P
    own tokens    -> own sample, causal       sum of L x L / 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flywheel.students.kernels import Kernel, kernel_for
from flywheel.students.rows import Row, Spans


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the queries see some of the keys.

    Attributes:
        queries: their range among all queries; those of two parts are the same or apart.
        keys: their range among all keys.
        spans: which of those queries see which of those keys.
    """

    queries: slice
    keys: slice
    spans: Spans


def parts_of(row: Row) -> list[Part]:
    """Return the attention of all tokens of a row."""
    total, prefix = len(row.tokens), row.prefix
    own = slice(prefix, total)
    parts = [Part(own, own, row.within_samples)]
    if prefix:
        parts.append(Part(own, slice(0, prefix), Spans.one(total - prefix, prefix, causal=False)))
        parts.append(Part(slice(0, prefix), slice(0, prefix), Spans.one(prefix, prefix, causal=True)))
    return parts


def answer_parts_of(row: Row) -> list[Part]:
    """Return the attention of the places alone that predict an answer's token; the keys are all tokens."""
    total, prefix, queries = len(row.tokens), row.prefix, slice(0, len(row.predicting))
    parts = [Part(queries, slice(prefix, total), row.answers_within_samples)]
    if prefix:
        parts.append(Part(queries, slice(0, prefix), Spans.one(len(row.predicting), prefix, causal=False)))
    return parts


def attend(q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], scale: float) -> Tensor:
    """Return the attention of queries to the keys that the parts show them.

    Args:
        q: [Tq, H, D].
        k: [T, Hkv, D], H a multiple of Hkv.
        v: [T, Hkv, D].
        scale: factor of the scores.

    Returns:
        [Tq, H, D].
    """
    out: Tensor = _Attention.apply(q, k, v, parts, scale, kernel_for(q))  # type: ignore[no-untyped-call]
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], scale: float, kernel: Kernel
    ) -> Tensor:
        out, lse = attend_parts(q, k, v, parts, scale, kernel)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.parts, ctx.scale, ctx.kernel = parts, scale, kernel
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        d_q, d_k, d_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for part in ctx.parts:
            at, to = part.queries, part.keys
            shares = ctx.kernel.backward(
                d_out[at], q[at], k[to], v[to], out[at], lse[at], part.spans, ctx.scale
            )
            d_q[at] += shares[0]
            d_k[to] += shares[1]
            d_v[to] += shares[2]
        return d_q, d_k, d_v, None, None, None


def attend_parts(
    q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], scale: float, kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """Return (out [Tq, H, D], lse [Tq, H] fp32) of all parts joined; as `attend`, without a gradient."""
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
    begun = set()
    for part in parts:
        at = part.queries
        out_part, lse_part = kernel.forward(q[at], k[part.keys], v[part.keys], part.spans, scale)
        if at.start in begun:
            out[at], lse[at] = join(out[at], lse[at], out_part, lse_part)
        else:
            out[at], lse[at] = out_part, lse_part
            begun.add(at.start)
    return out, lse


def join(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention over the keys of both parts: out [..., H, D], lse [..., H]."""
    lse = torch.logaddexp(lse_a, lse_b)
    share_a, share_b = (lse_a - lse).exp().unsqueeze(-1), (lse_b - lse).exp().unsqueeze(-1)
    return (out_a * share_a + out_b * share_b).to(out_a.dtype), lse
