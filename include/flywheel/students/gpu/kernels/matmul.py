"""Matrix products: cuBLAS, with operands and results in strided views."""

from __future__ import annotations

import torch
from torch import Tensor

# In fp32 (gradient checks, never a job) so many products are summed at once. A sum that goes through all of
# them one by one, as cuBLAS's does, loses more digits the more there are.
BLOCK = 128


def matmul(left: Tensor, right: Tensor, out: Tensor) -> None:
    """out = left @ right."""
    if left.dtype == torch.float32:
        blocks = zip(torch.split(left, BLOCK, 1), torch.split(right, BLOCK, 0), strict=True)
        out.copy_(torch.stack([a @ b for a, b in blocks]).sum(0))
    else:
        torch.mm(left, right, out=out)


def accumulate(left: Tensor, right: Tensor, out: Tensor, scale: float = 1.0) -> None:
    """out += scale * (left @ right), summed in fp32 and kept in fp32."""
    if left.dtype == torch.float32:
        out.add_(torch.mm(left, right), alpha=scale)
    else:
        out.add_(torch.mm(left, right, out_dtype=torch.float32), alpha=scale)
