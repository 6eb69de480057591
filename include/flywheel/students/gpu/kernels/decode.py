# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call"
# ruff: noqa: E501, N803
"""One query a sample: attention over its prompt's own tokens and the tokens made so far, after the prefix's part.

The prompt's keys and values are read where the prefill left them, inside its q, k, v rows: nothing is copied
into a cache. A program serves all query heads that share a key head (padded to the matrix unit's 16 rows).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flywheel.students.gpu.kernels.attention import LOG2E, _dot


@triton.jit
def _decode(
    q, k, v, starts, lengths, new, step, before, before_log_sum, out, samples,
    sq, sk, sn, sns, sb, so, scale, HAS_BEFORE: tl.constexpr, G: tl.constexpr, KV: tl.constexpr,
    D: tl.constexpr, BN: tl.constexpr, IEEE: tl.constexpr,
):  # fmt: skip
    s, kv_head = tl.program_id(0), tl.program_id(1)
    g, n, d = tl.arange(0, 16), tl.arange(0, BN), tl.arange(0, D)
    head = kv_head * G + g
    real = g < G
    at = head[:, None] * D + d[None, :]
    query = tl.load(q + s.to(tl.int64) * sq + at, mask=real[:, None], other=0.0)
    top = tl.full([16], float("-inf"), tl.float32)
    total = tl.zeros([16], tl.float32)
    acc = tl.zeros([16, D], tl.float32)
    if HAS_BEFORE:
        top = tl.load(before_log_sum + head * samples + s, mask=real, other=0.0) * LOG2E
        total += 1.0
        acc = tl.load(before + s.to(tl.int64) * sb + at, mask=real[:, None], other=0.0).to(tl.float32)
    first, prompt = tl.load(starts + s), tl.load(lengths + s)
    made = tl.load(step).to(tl.int32) + 1
    for start in range(0, prompt + made, BN):
        place = start + n
        own, made_here = place < prompt, (place >= prompt) & (place < prompt + made)
        column = kv_head * D + d[None, :]
        own_at = (first + place).to(tl.int64)[:, None] * sk + column
        new_at = s.to(tl.int64) * sn + (place - prompt).to(tl.int64)[:, None] * sns + column
        right = tl.load(k + own_at, mask=own[:, None], other=0.0)
        right += tl.load(new + new_at, mask=made_here[:, None], other=0.0)
        value = tl.load(v + own_at, mask=own[:, None], other=0.0)
        value += tl.load(new + KV * D + new_at, mask=made_here[:, None], other=0.0)
        scores = _dot(query, tl.trans(right), IEEE) * (scale * LOG2E)
        scores = tl.where((own | made_here)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + _dot(p.to(value.dtype), value, IEEE)
        top = higher
    acc = acc / total[:, None]
    tl.store(out + s.to(tl.int64) * so + at, acc.to(out.dtype.element_ty), mask=real[:, None])


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    lengths: Tensor,
    new: Tensor,
    step: Tensor,
    before: tuple[Tensor, Tensor] | None,
    scale: float,
    out: Tensor,
) -> None:
    """See `reference.decode_attention`."""
    samples, heads, d = q.shape
    kv_heads = k.shape[1]
    part, log_sum = before if before is not None else (q, q)
    _decode[(samples, kv_heads)](
        q, k, v, starts, lengths, new, step, part, log_sum, out, samples, q.stride(0), k.stride(0),
        new.stride(0), new.stride(1), part.stride(0), out.stride(0), scale, HAS_BEFORE=before is not None,
        G=heads // kv_heads, KV=kv_heads, D=d, BN=32, IEEE=q.dtype == torch.float32, num_warps=2,
    )  # fmt: skip
