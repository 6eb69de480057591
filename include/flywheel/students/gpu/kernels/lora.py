# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call"
# ruff: noqa: E501, N803, SIM108
"""Triton kernels of LoRA's dropout: masks are drawn anew wherever they are needed, never stored.

Each linear layer of a group has its own mask, as PEFT's layers do. Without dropout the engine uses plain matmuls
and none of this.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flywheel.students.gpu.reference import Mask, threshold


@triton.jit
def _kept(rows, columns, width, seed, limit):
    """Which elements dropout keeps: `reference.keep_mask` in 32-bit arithmetic."""
    index = rows[:, None].to(tl.uint32) * width.to(tl.uint32) + columns[None, :].to(tl.uint32)
    x = (index * 0x9E3779B1) ^ seed
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    x = x ^ (x >> 16)
    return x >= limit.to(tl.uint32)


@triton.jit(do_not_specialize=["place"])
def _down(
    x, a, out, seed, rows, width, place, limit, keep_scale, sx, sa, so,
    R: tl.constexpr, RP: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, IEEE: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0)  # neighbouring programs share x: it is read from cache
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    r = tl.arange(0, RP)
    drawn = tl.load(seed).to(tl.uint32) ^ (place + j).to(tl.uint32)
    acc = tl.zeros([BT, RP], tl.float32)
    for start in range(0, width, BK):
        k = start + tl.arange(0, BK)
        inside = (t < rows)[:, None] & (k < width)[None, :]
        value = tl.load(x + t.to(tl.int64)[:, None] * sx + k[None, :], mask=inside, other=0.0)
        value = tl.where(_kept(t, k, width, drawn, limit), value, 0.0)
        real = (r < R)[None, :] & (k < width)[:, None]
        right = tl.load(a + (j * R + r)[None, :] * sa + k[:, None], mask=real, other=0.0)
        if IEEE:
            acc = tl.dot(value, right, acc, input_precision="ieee")
        else:
            acc = tl.dot(value, right, acc)
    at = out + t.to(tl.int64)[:, None] * so + (j * R + r)[None, :]
    tl.store(at, (acc * keep_scale).to(out.dtype.element_ty), mask=(t < rows)[:, None] & (r < R)[None, :])


@triton.jit(do_not_specialize=["place"])
def _a_gradient(
    v, x, partial, seed, rows, width, place, limit, keep_scale, sv, sx, chunk, modules,
    R: tl.constexpr, RP: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, IEEE: tl.constexpr,
):  # fmt: skip
    j, part = tl.program_id(0), tl.program_id(2)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    r = tl.arange(0, RP)
    drawn = tl.load(seed).to(tl.uint32) ^ (place + j).to(tl.uint32)
    acc = tl.zeros([RP, BK], tl.float32)
    for start in range(part * chunk, tl.minimum(part * chunk + chunk, rows), BT):
        t = start + tl.arange(0, BT)
        inside = (t < rows)[:, None] & (k < width)[None, :]
        value = tl.load(x + t.to(tl.int64)[:, None] * sx + k[None, :], mask=inside, other=0.0)
        value = tl.where(_kept(t, k, width, drawn, limit), value, 0.0)
        real = (r < R)[:, None] & (t < rows)[None, :]
        left = tl.load(v + t.to(tl.int64)[None, :] * sv + (j * R + r)[:, None], mask=real, other=0.0)
        if IEEE:
            acc = tl.dot(left, value, acc, input_precision="ieee")
        else:
            acc = tl.dot(left, value, acc)
    at = partial + ((part * modules + j) * R + r)[:, None].to(tl.int64) * width + k[None, :]
    tl.store(at, acc * keep_scale, mask=(r < R)[:, None] & (k < width)[None, :])


@triton.jit(do_not_specialize=["place"])
def _input_gradient(
    v, a, total, seed, rows, width, place, limit, keep_scale, sv, sa, st, J: tl.constexpr,
    R: tl.constexpr, RP: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, IEEE: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    r = tl.arange(0, RP)
    inside = (t < rows)[:, None] & (k < width)[None, :]
    at = total + t.to(tl.int64)[:, None] * st + k[None, :]
    change = tl.zeros([BT, BK], tl.float32)
    for j in tl.static_range(J):
        drawn = tl.load(seed).to(tl.uint32) ^ (place + j).to(tl.uint32)
        real = (t < rows)[:, None] & (r < R)[None, :]
        left = tl.load(v + t.to(tl.int64)[:, None] * sv + (j * R + r)[None, :], mask=real, other=0.0)
        real = (r < R)[:, None] & (k < width)[None, :]
        right = tl.load(a + (j * R + r)[:, None] * sa + k[None, :], mask=real, other=0.0)
        if IEEE:
            product = tl.dot(left, right, input_precision="ieee")
        else:
            product = tl.dot(left, right)
        change += tl.where(_kept(t, k, width, drawn, limit), product, 0.0)
    before = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(at, (before + change * keep_scale).to(total.dtype.element_ty), mask=inside)


def lora_down(x: Tensor, a: Tensor, out: Tensor, rank: int, mask: Mask) -> None:
    """See `reference.lora_down`."""
    rows, width = x.shape
    p = mask.probability
    _down[(a.shape[0] // rank, triton.cdiv(rows, 32))](
        x, a, out, mask.seed, rows, width, mask.place, threshold(p), 1 / (1 - p), x.stride(0), a.stride(0),
        out.stride(0), R=rank, RP=padded_rank(rank), BT=32, BK=128, IEEE=x.dtype == torch.float32,
        num_warps=4, num_stages=3,
    )  # fmt: skip


def lora_a_gradient(v: Tensor, x: Tensor, out: Tensor, rank: int, mask: Mask) -> None:
    """See `reference.lora_a_gradient`: the sum over T is split among programs and added up after."""
    rows, width = x.shape
    p, modules, block = mask.probability, out.shape[0] // rank, 128
    parts = max(1, min(16, 528 // (triton.cdiv(width, block) * modules), triton.cdiv(rows, 256)))
    chunk = triton.cdiv(triton.cdiv(rows, parts), 64) * 64
    partial = torch.empty(parts, *out.shape, dtype=torch.float32, device=out.device)
    _a_gradient[(modules, triton.cdiv(width, block), parts)](
        v, x, partial, mask.seed, rows, width, mask.place, threshold(p), 1 / (1 - p), v.stride(0), x.stride(0),
        chunk, modules, R=rank, RP=padded_rank(rank), BT=64, BK=block, IEEE=x.dtype == torch.float32,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    out.add_(partial.sum(0))


def lora_input_gradient(v: Tensor, a: Tensor, total: Tensor, rank: int, mask: Mask) -> None:
    """See `reference.lora_input_gradient`."""
    rows, width = total.shape
    p = mask.probability
    _input_gradient[(triton.cdiv(rows, 64), triton.cdiv(width, 128))](
        v, a, total, mask.seed, rows, width, mask.place, threshold(p), 1 / (1 - p), v.stride(0), a.stride(0),
        total.stride(0), J=a.shape[0] // rank, R=rank, RP=padded_rank(rank), BT=64, BK=128,
        IEEE=total.dtype == torch.float32, num_warps=8,
    )  # fmt: skip


def padded_rank(rank: int) -> int:
    """Return the rank as the matrix units take it."""
    return max(16, int(triton.next_power_of_2(rank)))
