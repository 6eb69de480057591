"""The frozen weights in fp8, as an option: about half the time of their products, at a price in precision.

A number of the format e4m3 has three bits after its leading one (Micikevicius et al., 2022, arXiv
2209.05433), so each is off by at most 1/16. Rows are scaled one by one: a token's activations by their
largest, a weight matrix by the largest of each output going forward, and of each input coming back, as
either direction sums over another side of it. So W is kept twice. What the adapter adds, its gradients, and
everything between the products stays as it is without this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flywheel.students.gpu.layout import Weights

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max


@dataclass(frozen=True, slots=True)
class Scaled:
    """A matrix whose rows are `values` times `scales`.

    Attributes:
        values: e4m3 [rows, columns], contiguous.
        scales: fp32 [rows].
    """

    values: Tensor
    scales: Tensor

    def __getitem__(self, layer: int) -> Scaled:
        """Return one of a stack of matrices."""
        return Scaled(self.values[layer], self.scales[layer])


def quantize(x: Tensor) -> Scaled:
    """Return x [..., rows, columns], each row scaled so that its largest value is the format's largest."""
    wide = x.float()
    largest = wide.abs().amax(-1)
    scales = torch.where(largest > 0, largest / LARGEST, 1.0)
    return Scaled((wide / scales[..., None]).to(FORMAT), scales)


class Fp8Weights:
    """The frozen part of packed weights in fp8.

    Attributes:
        forward: Group name -> W, a stack of [N, K] for all layers.
        backward: Group name -> W^T, a stack of [K, N].
    """

    def __init__(self, weights: Weights) -> None:
        self.forward: dict[str, Scaled] = {}
        self.backward: dict[str, Scaled] = {}
        for group in weights.arch.groups:
            frozen = weights.packed[group.name][:, : group.outputs, : group.columns]
            self.forward[group.name] = _stacked([quantize(matrix) for matrix in frozen])
            self.backward[group.name] = _stacked([quantize(matrix.T.contiguous()) for matrix in frozen])


def _stacked(matrices: list[Scaled]) -> Scaled:
    return Scaled(
        torch.stack([matrix.values for matrix in matrices]),
        torch.stack([matrix.scales for matrix in matrices]),
    )
