# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator, no-untyped-call"
# ruff: noqa: N803
"""Products with frozen weights in fp8: activations quantized by a kernel, the product by the library."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flywheel.students.gpu.fp8 import FORMAT, LARGEST, Scaled


@triton.jit
def _quantize(x, values, scales, width, sx, largest, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    if WHOLE:  # the row stays in registers
        value = tl.load(x + row * sx + cols, mask=cols < width, other=0.0).to(tl.float32)
        top = tl.max(tl.abs(value), 0)
        scale = tl.where(top > 0, top / largest, 1.0)
        tl.store(values + row * width + cols, (value / scale).to(values.dtype.element_ty), mask=cols < width)
    else:
        most = tl.zeros([BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            inside = start + cols < width
            part = tl.load(x + row * sx + start + cols, mask=inside, other=0.0).to(tl.float32)
            most = tl.maximum(most, tl.abs(part))
        top = tl.max(most, 0)
        scale = tl.where(top > 0, top / largest, 1.0)
        for start in range(0, width, BLOCK):
            inside = start + cols < width
            part = tl.load(x + row * sx + start + cols, mask=inside, other=0.0).to(tl.float32) / scale
            tl.store(values + row * width + start + cols, part.to(values.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


# Longest row that one program holds in registers, and values a warp holds of it.
WHOLE, A_WARP = 32_768, 512


def quantize(x: Tensor) -> Scaled:
    """See `fp8.quantize`; x: [rows, columns], rows may be further apart than they are wide."""
    rows, width = x.shape
    values = torch.empty(rows, width, dtype=FORMAT, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = min(WHOLE, triton.next_power_of_2(width))
    _quantize[(rows,)](
        x, values, scales, width, x.stride(0), LARGEST, WHOLE=block >= width, BLOCK=block,
        num_warps=min(max(block // A_WARP, 1), 16),
    )  # fmt: skip
    return Scaled(values, scales)


def fp8_linear(left: Scaled, right: Scaled, more: Tensor | None, matrix: Tensor, out: Tensor) -> None:
    """See `reference.fp8_linear`. The library sums fp8 products in fewer bits than fp32 has."""
    torch.ops.aten._scaled_mm.out(
        left.values, right.values.T, left.scales[:, None], right.scales[None, :],
        None, None, out.dtype, True, out=out,
    )  # fmt: skip
    if more is not None:
        torch.addmm(out, more, matrix, out=out)
