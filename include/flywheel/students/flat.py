"""Parameters as one flat vector: an optimizer's step, clipping and zeroing are a few kernels for all of them.

An adapter of a small student is hundreds of matrices, which an optimizer visits one by one: at 135M that took
longer than the arithmetic of the step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    """Make parameters, and their gradients, views of one vector; return it, its `grad` being theirs.

    Args:
        parameters: leaves by name, of one type and device; their values stay.
    """
    total = sum(parameter.numel() for parameter in parameters.values())
    first = next(iter(parameters.values()))
    flat = torch.zeros(total, dtype=first.dtype, device=first.device)
    flat.grad = torch.zeros_like(flat)
    start = 0
    for parameter in parameters.values():
        part = slice(start, start + parameter.numel())
        flat[part].view_as(parameter).copy_(parameter.detach())
        parameter.data = flat[part].view_as(parameter)
        parameter.grad = flat.grad[part].view_as(parameter)
        start = part.stop
    return flat


def part_of(flat: Tensor, parameter: Tensor) -> Tensor:
    """Return a parameter's part of a vector that lies as the flat one does whose view the parameter is."""
    start = parameter.storage_offset()
    return flat[start : start + parameter.numel()].view_as(parameter)
