"""Matrix products: cuBLAS, with operands and results in strided views."""

from __future__ import annotations

import torch
from torch import Tensor


def matmul(left: Tensor, right: Tensor, out: Tensor) -> None:
    """out = left @ right."""
    torch.mm(left, right, out=out)


def accumulate(left: Tensor, right: Tensor, out: Tensor, scale: float = 1.0) -> None:
    """out += scale * (left @ right), summed in fp32 and kept in fp32."""
    if left.dtype == torch.float32:
        out.add_(torch.mm(left, right), alpha=scale)
    else:
        out.add_(torch.mm(left, right, out_dtype=torch.float32), alpha=scale)
