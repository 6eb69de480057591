"""Products of activations [T, in] with weights [out, in]: in fp32 on a CPU by the faster of two libraries.

PyTorch gives fp32 products on x86 to MKL, whose AVX-512 kernels run on Intel alone: on a Zen 5 core MKL
reaches 105 GFLOP/s, oneDNN, which PyTorch also carries, 235; they differ in the last digits. oneDNN makes a
kernel for each number of rows (0.2 to 1 ms), so that only round ones, which come again, are given to it: see
`padding`. A training takes `product`; what answers takes oneDNN where it gives the same bits (`packed_of`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Numbers of rows that come again are multiples of this.
ROUND = 64
_HAS_BOTH = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W' + b without a gradient: x [T, in], weight [out, in] in any layout, bias [out]; [T, out]."""
    if _by_onednn(x):
        return product_by_onednn(x, weight, bias)
    return nn.functional.linear(x, weight, bias)


def plus_product(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return y + x W' without a gradient, perhaps in the place of y [T, out]; the rest as for `product`."""
    if _by_onednn(x):
        summed: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, y, weight, None, "add")
        return summed
    return y.addmm_(x, weight.t())


def padding(rows: int) -> int:
    """Return how many rows to add, so that there are few numbers of them and few kernels to compile."""
    return -rows % (ROUND if rows > ROUND else 8)


def packed_of(weight: Tensor) -> Tensor | None:
    """Return a weight [out, in] in the order in which oneDNN multiplies by it; None where it is of no use.

    It is of use where it gives MKL's bits, as it does where both add the products of a row in one order: an
    answer does not depend on the library.
    """
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not onednn or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    x = torch.randn(ROUND, weight.shape[1], generator=torch.Generator().manual_seed(0))
    packed = None
    for part in (weight[:ROUND], weight):  # most that differ do so in a few rows
        packed = torch.ops.mkldnn._reorder_linear_weight(part, None)
        if not torch.equal(product_by_onednn(x, packed), nn.functional.linear(x, part)):
            return None
    return packed


def product_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W' + b as `product` does, by oneDNN: its weight may be as `packed_of` gives it."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def takes(like: Tensor) -> bool:
    """Return whether tensors like this one are multiplied by oneDNN where their rows are round."""
    return _HAS_BOTH and like.dtype == torch.float32 and like.device.type == "cpu"


def _by_onednn(x: Tensor) -> bool:
    return takes(x) and len(x) > 0 and len(x) % ROUND == 0
