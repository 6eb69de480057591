"""RMSNorm and RoPE with their gradients written out, as the clear path and the GPU path have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Norm:
    """Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467): weight [d], frozen."""

    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        y: Tensor = _RmsNorm.apply(x, self.weight, self.epsilon)  # type: ignore[no-untyped-call]
        return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return queries or keys with their positions: x [T, H, D]; cos, sin [T, 1, D]."""
    y: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return y


class _Rotate(torch.autograd.Function):
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864) in the halves layout of Llama."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotated(d_y, cos, sin, -1), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Return x [..., D] rotated, or back by direction -1, which is its gradient; cos, sin: [..., D]."""
    half = x.shape[-1] // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return y


class _RmsNorm(torch.autograd.Function):
    """y = x r w with r = 1 / sqrt(mean(x^2) + e); d_x = r (w g - x r^2 mean(x w g)), g the gradient of y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()  # as transformers does, whatever the precision of x
        inverse = inverse_rms(wide, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        y: Tensor = (wide * inverse).to(x.dtype) * weight
        return y

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None
        wide = x.float()
        return norm_gradient((d_y * weight).float(), wide, inverse).to(x.dtype), None, None


def inverse_rms(x: Tensor, epsilon: float) -> Tensor:
    """Return 1 / sqrt(mean(x^2) + e) of each row: [..., d] -> [..., 1]."""
    squares: Tensor = torch.linalg.vecdot(x, x).unsqueeze(-1)
    return (squares / x.shape[-1] + epsilon).rsqrt()


def norm_gradient(grad: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient of x, given that of x * inverse, which is overwritten: [..., d]."""
    share = torch.linalg.vecdot(grad, x).unsqueeze(-1) * inverse.pow(2) / x.shape[-1]
    return grad.addcmul_(x, share, value=-1).mul_(inverse)
