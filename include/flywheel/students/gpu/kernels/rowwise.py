# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call"
# ruff: noqa: N803
"""Triton kernels that go over a matrix once: norms, RoPE, cross-entropy. See `reference`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_norm(
    x, y, weight, total, out, rstd, width, sx, sy, st, so, eps, HAS_Y: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < width
    raw = tl.load(x + row * sx + cols, mask=mask, other=0.0)
    if HAS_Y:
        raw = raw + tl.load(y + row * sy + cols, mask=mask, other=0.0)
    tl.store(total + row * st + cols, raw, mask=mask)
    value = raw.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    tl.store(rstd + row, scale)
    w = tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * so + cols, (value * scale * w).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _norm_backward(grad, x, rstd, weight, total, width, sg, sx, st, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < width
    scale = tl.load(rstd + row)
    inner = tl.load(grad + row * sg + cols, mask=mask, other=0.0).to(tl.float32)
    inner *= tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
    normed = tl.load(x + row * sx + cols, mask=mask, other=0.0).to(tl.float32) * scale
    change = scale * (inner - normed * (tl.sum(inner * normed, 0) / width))
    before = tl.load(total + row * st + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(total + row * st + cols, (before + change).to(total.dtype.element_ty), mask=mask)


@triton.jit
def _rotate(x, positions, cos, sin, heads, sx, sign, HALF: tl.constexpr, HEADS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, HALF)
    head = tl.arange(0, HEADS)
    place = tl.load(positions + row).to(tl.int64) * HALF
    c = tl.load(cos + place + cols)[None, :]
    s = tl.load(sin + place + cols)[None, :] * sign
    at = x + row * sx + head[:, None] * (2 * HALF) + cols[None, :]
    mask = (head < heads)[:, None] & (cols < HALF)[None, :]
    left = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    right = tl.load(at + HALF, mask=mask, other=0.0).to(tl.float32)
    tl.store(at, (left * c - right * s).to(x.dtype.element_ty), mask=mask)
    tl.store(at + HALF, (right * c + left * s).to(x.dtype.element_ty), mask=mask)


@triton.jit
def _cross_entropy(logits, targets, losses, scale, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = logits + row * stride
    target = tl.load(targets + row)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        value = tl.load(at + cols, mask=cols < width, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, value)
        # A lane that has seen only -inf keeps a sum of 0.
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - safe) + tl.exp(value - safe)
        top = higher
    most = tl.max(top, 0)
    log_sum = most + tl.log(tl.sum(total * tl.exp(top - most), 0))
    counts = target >= 0
    picked = tl.load(at + tl.maximum(target, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(counts, log_sum - picked, 0.0))
    factor = tl.where(counts, tl.load(scale), 0.0)
    tl.debug_barrier()  # the target's logit is read before its place is written
    for start in range(0, width, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        value = tl.load(at + cols, mask=cols < width, other=float("-inf")).to(tl.float32)
        gradient = tl.exp(value - log_sum) - tl.where(cols == target, 1.0, 0.0)
        tl.store(at + cols, (gradient * factor).to(logits.dtype.element_ty), mask=cols < width)


def _block(width: int) -> tuple[int, int]:
    """Return (block that holds a row, warps)."""
    block = triton.next_power_of_2(width)
    return block, min(max(block // 512, 1), 16)


def add_norm(
    x: Tensor, y: Tensor | None, weight: Tensor, eps: float, total: Tensor, out: Tensor, rstd: Tensor
) -> None:
    """See `reference.add_norm`: one read of each input, one write of each output."""
    block, warps = _block(x.shape[1])
    other = x if y is None else y
    _add_norm[(x.shape[0],)](
        x, other, weight, total, out, rstd, x.shape[1], x.stride(0), other.stride(0), total.stride(0),
        out.stride(0), eps, HAS_Y=y is not None, BLOCK=block, num_warps=warps,
    )  # fmt: skip


def norm_backward(grad: Tensor, x: Tensor, rstd: Tensor, weight: Tensor, total: Tensor) -> None:
    """See `reference.norm_backward`."""
    block, warps = _block(x.shape[1])
    _norm_backward[(x.shape[0],)](
        grad, x, rstd, weight, total, x.shape[1], grad.stride(0), x.stride(0), total.stride(0),
        BLOCK=block, num_warps=warps,
    )  # fmt: skip


def rotate(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, head_dim: int, sign: int) -> None:
    """See `reference.rotate`; angles and products in fp32."""
    heads = x.shape[1] // head_dim
    _rotate[(x.shape[0],)](
        x, positions, cos, sin, heads, x.stride(0), float(sign), HALF=head_dim // 2,
        HEADS=triton.next_power_of_2(heads), num_warps=4,
    )  # fmt: skip


def cross_entropy(logits: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """See `reference.cross_entropy`: two passes over a row, the second mostly from cache."""
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    block = min(4096, triton.next_power_of_2(logits.shape[1]))
    _cross_entropy[(logits.shape[0],)](
        logits, targets, losses, scale, logits.shape[1], logits.stride(0), BLOCK=block, num_warps=8
    )
    return losses
