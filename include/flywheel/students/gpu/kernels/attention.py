# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call"
# ruff: noqa: E501, N803
"""Attention of a row: the library for what is dense, Triton for each sample within itself.

The prefix within itself, and own tokens against the prefix, are products without ragged edges, which the library's
attention (cuDNN; flash attention where cuDNN cannot) computes at full speed. Each sample within itself is done by
the kernels here, which *continue* the library's softmax: they start from its output and log-sum-exp, so nothing is
joined in a pass of its own (the rule of flash and cascade attention; Hydragen, arXiv 2402.05099, uses it for
decoding). Backward, both parts get the joined output and log-sum-exp, which makes each part's gradients exact, and
the kernels add theirs to the library's.

Samples of up to 128 own tokens, one tile, have their whole backward pass in one kernel; longer ones in two.
Offsets below count queries and log-sum-exps from the first own query.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flywheel.students.gpu.kernels.library import prefix_attention, prefix_attention_backward
from flywheel.students.gpu.plan import TILE, AttentionPlan

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

# The forward pass: queries and keys that a program takes at once, its warps, its pipeline's stages. A short sample is
# few and small products between waits for memory, so many small programs at once pay: on an H200, 512 samples of 70
# tokens after a prefix, 32 heads of 64, in microseconds a layer, 299; 64 by 64 of four warps in two stages 540, in one
# 410; 32 by 32 of one warp 409. 1,427 samples of 36 tokens without a prefix: 369 for 624.
SHORT_BLOCKS = (16, 32, 1, 1)
LONG_BLOCKS = (64, 64, 4, 2)


@triton.jit
def _dot(left, right, IEEE: tl.constexpr):
    if IEEE:
        return tl.dot(left, right, input_precision="ieee")
    return tl.dot(left, right)


@triton.jit
def _forward(
    q, k, v, before, before_log_sum, out, log_sum, places, until, tiles, skipped, queries, sq, sk, sbt, sbh, so, scale,
    HAS_PREFIX: tl.constexpr, HAS_TREE: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    IEEE: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    first, count = tl.load(tiles + tile * 4), tl.load(tiles + tile * 4 + 1)
    key, keys = tl.load(tiles + tile * 4 + 2), tl.load(tiles + tile * 4 + 3)
    n, d = tl.arange(0, BN), tl.arange(0, D)
    for block in range(0, count, BM):
        m = block + tl.arange(0, BM)
        rows = (first + m).to(tl.int64)
        real = m < count
        place = tl.load(places + rows, mask=real, other=-1)
        query = tl.load(q + rows[:, None] * sq + head * D + d[None, :], mask=real[:, None], other=0.0)
        own = rows - skipped
        top = tl.full([BM], float("-inf"), tl.float32)
        total = tl.zeros([BM], tl.float32)
        acc = tl.zeros([BM, D], tl.float32)
        if HAS_PREFIX:
            top = tl.load(before_log_sum + head * queries + own, mask=real, other=0.0) * LOG2E
            total += 1.0
            at_before = own[:, None] * sbt + head * sbh + d[None, :]
            acc = tl.load(before + at_before, mask=real[:, None], other=0.0).to(tl.float32)
        # The last query's place, asked for by itself: a maximum over `place` would wait for all of it.
        end = tl.minimum(keys, tl.load(places + first + tl.minimum(block + BM, count) - 1) + 1)
        for start in range(0, end, BN):
            cols = start + n
            at = (key + cols).to(tl.int64)[:, None] * sk + (head // G) * D + d[None, :]
            inside = cols < keys
            right = tl.load(k + at, mask=inside[:, None], other=0.0)
            value = tl.load(v + at, mask=inside[:, None], other=0.0)
            scores = _dot(query, tl.trans(right), IEEE) * (scale * LOG2E)
            seen = inside[None, :] & (cols[None, :] <= place[:, None])
            if HAS_TREE:
                seen &= place[:, None] < tl.load(until + key + cols, mask=inside, other=0)[None, :]
            scores = tl.where(seen, scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            safe = tl.where(higher == float("-inf"), 0.0, higher)
            p = tl.exp2(scores - safe[:, None])
            shrink = tl.exp2(top - safe)
            total = total * shrink + tl.sum(p, 1)
            acc = acc * shrink[:, None] + _dot(p.to(value.dtype), value, IEEE)
            top = higher
        some = total > 0
        acc = acc / tl.where(some, total, 1.0)[:, None]
        at_out = rows[:, None] * so + head * D + d[None, :]
        tl.store(out + at_out, acc.to(out.dtype.element_ty), mask=real[:, None])
        lse = tl.where(some, (top + tl.log2(tl.where(some, total, 1.0))) * LN2, 0.0)
        tl.store(log_sum + head * queries + own, lse, mask=real)


@triton.jit
def _query_gradient(
    grad, q, k, v, out, log_sum, delta, before, dq, places, tiles, skipped, queries, sg, sq, sk, so, sbt, sbh, sdq,
    scale, HAS_PREFIX: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    IEEE: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    first, count = tl.load(tiles + tile * 4), tl.load(tiles + tile * 4 + 1)
    key, keys = tl.load(tiles + tile * 4 + 2), tl.load(tiles + tile * 4 + 3)
    n, d = tl.arange(0, BN), tl.arange(0, D)
    for block in range(0, count, BM):
        m = block + tl.arange(0, BM)
        rows = (first + m).to(tl.int64)
        real = m < count
        place = tl.load(places + rows, mask=real, other=-1)
        query = tl.load(q + rows[:, None] * sq + head * D + d[None, :], mask=real[:, None], other=0.0)
        d_out = tl.load(grad + rows[:, None] * sg + head * D + d[None, :], mask=real[:, None], other=0.0)
        o = tl.load(out + rows[:, None] * so + head * D + d[None, :], mask=real[:, None], other=0.0)
        inner = tl.sum(d_out.to(tl.float32) * o.to(tl.float32), 1)
        where = head * queries + rows - skipped
        tl.store(delta + where, inner, mask=real)
        lse = tl.load(log_sum + where, mask=real, other=0.0) * LOG2E
        acc = tl.zeros([BM, D], tl.float32)
        end = tl.minimum(keys, tl.max(place, 0) + 1)
        for start in range(0, end, BN):
            cols = start + n
            at = (key + cols).to(tl.int64)[:, None] * sk + (head // G) * D + d[None, :]
            inside = cols < keys
            right = tl.load(k + at, mask=inside[:, None], other=0.0)
            value = tl.load(v + at, mask=inside[:, None], other=0.0)
            scores = _dot(query, tl.trans(right), IEEE) * (scale * LOG2E)
            seen = inside[None, :] & (cols[None, :] <= place[:, None])
            p = tl.where(seen, tl.exp2(scores - lse[:, None]), 0.0)
            ds = p * (_dot(d_out, tl.trans(value), IEEE) - inner[:, None])
            acc += _dot(ds.to(right.dtype), right, IEEE)
        acc *= scale
        if HAS_PREFIX:
            at_before = (rows - skipped)[:, None] * sbt + head * sbh + d[None, :]
            acc += tl.load(before + at_before, mask=real[:, None], other=0.0).to(tl.float32)
        at_dq = rows[:, None] * sdq + head * D + d[None, :]
        tl.store(dq + at_dq, acc.to(dq.dtype.element_ty), mask=real[:, None])


@triton.jit
def _key_gradient(
    grad, q, k, v, out, log_sum, delta, before, dq, dk, dv, places, tiles, skipped, queries, sg, sq, sk, so, sbt, sbh,
    sdq, sdk, scale, WHOLE: tl.constexpr, HAS_PREFIX: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, IEEE: tl.constexpr,
):  # fmt: skip
    # WHOLE: the tile is a whole sample, so its queries' gradients are complete here too.
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    first, count = tl.load(tiles + tile * 5), tl.load(tiles + tile * 5 + 1)
    sample = tl.load(tiles + tile * 5 + 2)
    query_first, query_end = tl.load(tiles + tile * 5 + 3), tl.load(tiles + tile * 5 + 4)
    m, n, d = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, D)
    cols = (first + n).to(tl.int64)
    inside = n < count
    key_place = first + n - sample
    at = cols[:, None] * sk + kv_head * D + d[None, :]
    right = tl.load(k + at, mask=inside[:, None], other=0.0)
    value = tl.load(v + at, mask=inside[:, None], other=0.0)
    acc_k, acc_v = tl.zeros([BN, D], tl.float32), tl.zeros([BN, D], tl.float32)
    for start in range(query_first, query_end, BM):
        rows = (start + m).to(tl.int64)
        real = rows < query_end
        place = tl.load(places + rows, mask=real, other=-1)
        seen = inside[:, None] & (key_place[:, None] <= place[None, :])
        for g in range(G):
            head = kv_head * G + g
            query = tl.load(q + rows[:, None] * sq + head * D + d[None, :], mask=real[:, None], other=0.0)
            d_out = tl.load(grad + rows[:, None] * sg + head * D + d[None, :], mask=real[:, None], other=0.0)
            where = head * queries + rows - skipped
            lse = tl.load(log_sum + where, mask=real, other=0.0) * LOG2E
            if WHOLE:
                o = tl.load(out + rows[:, None] * so + head * D + d[None, :], mask=real[:, None], other=0.0)
                inner = tl.sum(d_out.to(tl.float32) * o.to(tl.float32), 1)
            else:
                inner = tl.load(delta + where, mask=real, other=0.0)
            scores = _dot(right, tl.trans(query), IEEE) * (scale * LOG2E)  # [BN, BM]
            p = tl.where(seen, tl.exp2(scores - lse[None, :]), 0.0)
            acc_v += _dot(p.to(d_out.dtype), d_out, IEEE)
            ds = (p * (_dot(value, tl.trans(d_out), IEEE) - inner[None, :])).to(query.dtype)
            acc_k += _dot(ds, query, IEEE)
            if WHOLE:
                change = _dot(tl.trans(ds), right, IEEE) * scale
                if HAS_PREFIX:
                    at_before = (rows - skipped)[:, None] * sbt + head * sbh + d[None, :]
                    change += tl.load(before + at_before, mask=real[:, None], other=0.0).to(tl.float32)
                at_dq = rows[:, None] * sdq + head * D + d[None, :]
                tl.store(dq + at_dq, change.to(dq.dtype.element_ty), mask=real[:, None])
    at_dk = cols[:, None] * sdk + kv_head * D + d[None, :]
    tl.store(dk + at_dk, (acc_k * scale).to(dk.dtype.element_ty), mask=inside[:, None])
    tl.store(dv + at_dk, acc_v.to(dv.dtype.element_ty), mask=inside[:, None])


def attention(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, scale: float, out: Tensor) -> Tensor:
    """See `reference.attention`; the log-sum-exp is flat: [H, P] of the prefix, then [H, own queries]."""
    rows, heads, d = q.shape
    skipped, prefix = plan.prefix_queries, plan.prefix
    log_sum = torch.empty(heads * rows, dtype=torch.float32, device=q.device)
    own_log_sum = log_sum[heads * skipped :]
    before, before_log_sum = q, log_sum
    if skipped:
        own_out, own_sum = prefix_attention(q[:skipped], k[:skipped], v[:skipped], scale, causal=True)
        out[:skipped].copy_(own_out)
        log_sum[: heads * skipped].copy_(own_sum.reshape(-1))
    if prefix:
        before, before_log_sum = prefix_attention(q[skipped:], k[:prefix], v[:prefix], scale)
    ieee = q.dtype == torch.float32
    block, columns, warps, stages = SHORT_BLOCKS if plan.is_short and not ieee else LONG_BLOCKS
    _forward[(plan.query_tiles.shape[0], heads)](
        q, k, v, before, before_log_sum, out, own_log_sum, plan.places,
        plan.places if plan.until is None else plan.until, plan.query_tiles, skipped, plan.own_queries,
        q.stride(0), k.stride(0), before.stride(0), before.stride(1), out.stride(0), scale, HAS_PREFIX=prefix > 0,
        HAS_TREE=plan.until is not None, G=heads // k.shape[1], D=d, BM=block, BN=32 if ieee and d == 128 else columns,
        IEEE=ieee, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return log_sum


def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sum: Tensor,
    plan: AttentionPlan,
    scale: float,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """See `reference.attention_backward`."""
    heads, d = q.shape[1:]
    skipped, prefix, ieee = plan.prefix_queries, plan.prefix, q.dtype == torch.float32
    own_log_sum = log_sum[heads * skipped :]
    before = dq
    if prefix:
        before, prefix_dk, prefix_dv = prefix_attention_backward(
            grad[skipped:],
            q[skipped:],
            k[:prefix],
            v[:prefix],
            out[skipped:],
            own_log_sum.view(heads, -1),
            scale,
        )
        dk[:prefix].copy_(prefix_dk)
        dv[:prefix].copy_(prefix_dv)
    if skipped:
        within = prefix_attention_backward(
            grad[:skipped], q[:skipped], k[:skipped], v[:skipped], out[:skipped],
            log_sum[: heads * skipped].view(heads, -1), scale, causal=True,
        )  # fmt: skip
        dq[:skipped].copy_(within[0])
        dk[:skipped].add_(within[1])
        dv[:skipped].add_(within[2])
    whole = plan.is_short
    delta = own_log_sum
    common = {
        "HAS_PREFIX": prefix > 0, "G": heads // k.shape[1], "D": d, "IEEE": ieee, "num_stages": 1 if ieee else 2,
    }  # fmt: skip
    strides = (grad.stride(0), q.stride(0), k.stride(0), out.stride(0), before.stride(0), before.stride(1))
    if not whole:
        delta = torch.empty_like(own_log_sum)
        _query_gradient[(plan.query_tiles.shape[0], heads)](
            grad, q, k, v, out, own_log_sum, delta, before, dq, plan.places, plan.query_tiles, skipped,
            plan.own_queries, *strides, dq.stride(0), scale, BM=64, BN=32 if ieee else 64, num_warps=4, **common,
        )  # fmt: skip
    _key_gradient[(plan.key_tiles.shape[0], k.shape[1])](
        grad, q, k, v, out, own_log_sum, delta, before, dq, dk, dv, plan.places, plan.key_tiles, skipped,
        plan.own_queries, *strides, dq.stride(0), dk.stride(0), scale, WHOLE=whole, BM=16 if ieee else 64 if d <= 64 else 32, BN=TILE,
        num_warps=8, **common,
    )  # fmt: skip
