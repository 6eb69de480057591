# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call"
# ruff: noqa: E501, N803, SIM108
"""SwiGLU with the LoRA products of the layers around it.

The MLP's inner tensors are the widest of a layer. LoRA reads them twice more, for the next layer's x A^T going
forward and for dy B coming back; here both products are summed while the tensor passes through registers. The
columns are split among programs, whose partial sums are added up after.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flywheel.students.gpu.kernels.lora import _kept, padded_rank
from flywheel.students.gpu.reference import Mask, threshold


@triton.jit
def _pinned(x):
    """Return x as it is, bf16 pairs in registers.

    Without this the compiler computes x a second time in the layout that the matrix unit wants, from inputs read
    two bytes at a time: the backward kernel then took 608 microseconds a layer on an H100 instead of 209.
    """
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=x.dtype, is_pure=False, pack=2)


@triton.jit(do_not_specialize=["place"])
def _swiglu(
    gate_up, out, a, partial, seed, rows, width, part, place, limit, keep_scale, sg, so, sa,
    DROPS: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, IEEE: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    first = tl.program_id(1) * part
    r = tl.arange(0, RP)
    wide = t.to(tl.int64)[:, None]
    acc = tl.zeros([BT, RP], tl.float32)
    drawn = tl.load(seed).to(tl.uint32) ^ place.to(tl.uint32)
    for start in range(first, tl.minimum(first + part, width), BK):
        k = start + tl.arange(0, BK)
        inside = (t < rows)[:, None] & (k < width)[None, :]
        gate = tl.load(gate_up + wide * sg + k[None, :], mask=inside, other=0.0).to(tl.float32)
        up = tl.load(gate_up + wide * sg + width + k[None, :], mask=inside, other=0.0).to(tl.float32)
        value = (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty)
        if not IEEE:
            value = _pinned(value)
        tl.store(out + wide * so + k[None, :], value, mask=inside)
        right = tl.load(
            a + r[None, :] * sa + k[:, None], mask=(r < R)[None, :] & (k < width)[:, None], other=0.0
        )
        if DROPS:
            value = tl.where(_kept(t, k, width, drawn, limit), value, 0.0)
        if IEEE:
            acc = tl.dot(value, right, acc, input_precision="ieee")
        else:
            acc = tl.dot(value, right, acc)
    at = partial + (tl.program_id(1).to(tl.int64) * rows + wide) * R + r[None, :]
    tl.store(at, acc * keep_scale, mask=(t < rows)[:, None] & (r < R)[None, :])


@triton.jit
def _swiglu_backward(
    gate_up, grad, b, partial, rows, width, part, sg, sd, sb,
    R: tl.constexpr, RP: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, IEEE: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    first = tl.program_id(1) * part
    r = tl.arange(0, RP)
    wide = t.to(tl.int64)[:, None]
    acc_gate, acc_up = tl.zeros([BT, RP], tl.float32), tl.zeros([BT, RP], tl.float32)
    for start in range(first, tl.minimum(first + part, width), BK):
        k = start + tl.arange(0, BK)
        inside = (t < rows)[:, None] & (k < width)[None, :]
        at = gate_up + wide * sg + k[None, :]
        gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(grad + wide * sd + k[None, :], mask=inside, other=0.0).to(tl.float32)
        sigmoid = tl.sigmoid(gate)
        d_gate = (d * up * sigmoid * (1 + gate * (1 - sigmoid))).to(gate_up.dtype.element_ty)
        d_up = (d * gate * sigmoid).to(gate_up.dtype.element_ty)
        if not IEEE:
            d_gate, d_up = _pinned(d_gate), _pinned(d_up)
        tl.store(at, d_gate, mask=inside)
        tl.store(at + width, d_up, mask=inside)
        # s*B is block-diagonal: gate's rows have their ranks in the first R columns, up's in the next.
        real = (k < width)[:, None] & (r < R)[None, :]
        b_gate = tl.load(b + k[:, None].to(tl.int64) * sb + r[None, :], mask=real, other=0.0)
        b_up = tl.load(b + (width + k)[:, None].to(tl.int64) * sb + R + r[None, :], mask=real, other=0.0)
        if IEEE:
            acc_gate = tl.dot(d_gate, b_gate, acc_gate, input_precision="ieee")
            acc_up = tl.dot(d_up, b_up, acc_up, input_precision="ieee")
        else:
            acc_gate = tl.dot(d_gate, b_gate, acc_gate)
            acc_up = tl.dot(d_up, b_up, acc_up)
    real = (t < rows)[:, None] & (r < R)[None, :]
    at_v = partial + (tl.program_id(1).to(tl.int64) * rows + wide) * (2 * R) + r[None, :]
    tl.store(at_v, acc_gate, mask=real)
    tl.store(at_v + R, acc_up, mask=real)


@triton.jit
def _plain(gate_up, out, width, sg, so, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < width
    gate = tl.load(gate_up + row * sg + cols, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * sg + width + cols, mask=mask, other=0.0).to(tl.float32)
    value = gate * tl.sigmoid(gate) * up
    tl.store(out + row * so + cols, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _plain_backward(gate_up, grad, width, sg, sd, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < width
    at = gate_up + row * sg + cols
    gate = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=mask, other=0.0).to(tl.float32)
    d = tl.load(grad + row * sd + cols, mask=mask, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    d_gate = d * up * sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(at, d_gate.to(gate_up.dtype.element_ty), mask=mask)
    tl.store(at + width, (d * gate * sigmoid).to(gate_up.dtype.element_ty), mask=mask)


# Columns are split among so many programs for each block of rows. (rows, columns, stages) of a program's tile.
# Measured on an H100 at 6,016 x 8,192, in microseconds, forward and backward: 128 and 209 so; 143 and 257 as a
# plain kernel and a matmul; 4 parts 132 and 220; one stage 143 and 240; 128 columns 170 and 262.
PARTS = 8
FORWARD_TILE = (64, 64, 3)
BACKWARD_TILE = (64, 64, 3)
# Whether the LoRA products are summed in the SwiGLU kernels where there is no dropout.
FUSED_FORWARD = True
FUSED_BACKWARD = True


def swiglu(gate_up: Tensor, out: Tensor, a: Tensor, u: Tensor, mask: Mask) -> None:
    """See `reference.swiglu`."""
    rows, width = out.shape
    rank, p = a.shape[0], mask.probability
    if not rank or not (FUSED_FORWARD or p):
        block = min(1024, triton.next_power_of_2(width))
        grid = (rows, triton.cdiv(width, block))
        _plain[grid](gate_up, out, width, gate_up.stride(0), out.stride(0), BLOCK=block, num_warps=4)
        if rank:
            torch.mm(out, a.T, out=u)
        return
    tile, columns, stages = FORWARD_TILE
    part = _part(width, columns)
    partial = torch.empty(triton.cdiv(width, part), rows, rank, dtype=torch.float32, device=out.device)
    _swiglu[(triton.cdiv(rows, tile), partial.shape[0])](
        gate_up, out, a, partial, mask.seed, rows, width, part, mask.place, threshold(p), 1 / (1 - p),
        gate_up.stride(0), out.stride(0), a.stride(0), DROPS=p > 0, R=rank, RP=padded_rank(rank), BT=tile, BK=columns,
        IEEE=out.dtype == torch.float32, num_warps=4, num_stages=stages,
    )  # fmt: skip
    u.copy_(partial.sum(0))


def swiglu_backward(gate_up: Tensor, grad: Tensor, b: Tensor, v: Tensor) -> None:
    """See `reference.swiglu_backward`."""
    rows, width = grad.shape
    rank = v.shape[1] // 2
    if not FUSED_BACKWARD:
        block = min(1024, triton.next_power_of_2(width))
        grid = (rows, triton.cdiv(width, block))
        _plain_backward[grid](
            gate_up, grad, width, gate_up.stride(0), grad.stride(0), BLOCK=block, num_warps=4
        )
        torch.mm(gate_up, b, out=v)
        return
    tile, columns, stages = BACKWARD_TILE
    part = _part(width, columns)
    partial = torch.empty(triton.cdiv(width, part), rows, 2 * rank, dtype=torch.float32, device=grad.device)
    _swiglu_backward[(triton.cdiv(rows, tile), partial.shape[0])](
        gate_up, grad, b, partial, rows, width, part, gate_up.stride(0), grad.stride(0), b.stride(0),
        R=rank, RP=padded_rank(rank), BT=tile, BK=columns, IEEE=grad.dtype == torch.float32, num_warps=4,
        num_stages=stages,
    )  # fmt: skip
    v.copy_(partial.sum(0))


def _part(width: int, columns: int) -> int:
    """Return the columns of a part, a multiple of a tile's."""
    return int(triton.cdiv(triton.cdiv(width, PARTS), columns)) * columns
