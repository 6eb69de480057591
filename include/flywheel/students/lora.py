"""Linears with low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685), those of one input at once.

    y = x W' + b + s * drop(x) A' B'        W [out, in], A [r, in], B [out, r], s = alpha / r

The base weight is frozen: no gradient of it is computed, and its input is not kept for the backward pass.
Linears of one input (q, k, v; gate, up) share one dropout mask and one product with their stacked A; `peft`
draws a mask for each. Each mask has the same distribution, and with a rate of 0 the result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flywheel.students.products import packed_of, plus_product, product, product_by_onednn, takes


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear of the base model and its adapter, if it has one.

    Attributes:
        weight: [out, in], frozen.
        bias: [out] or None, frozen.
        lora_a: [r, in], trained, or None.
        lora_b: [out, r], trained, or None.
        scale: alpha / r.
        packed: the weight as oneDNN multiplies by it, see `products.packed_of`; or None.
    """

    weight: Tensor
    bias: Tensor | None
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scale: float = 1.0
    packed: Tensor | None = None

    @classmethod
    def of(cls, module: nn.Module) -> Linear:
        """Return the parts of a `torch.nn.Linear` or of a peft LoRA linear."""
        adapted: Any = module
        if not hasattr(module, "lora_A"):
            return cls(adapted.weight, adapted.bias)
        (name,) = adapted.active_adapters
        base = adapted.get_base_layer()
        return cls(
            base.weight,
            base.bias,
            adapted.lora_A[name].weight,
            adapted.lora_B[name].weight,
            float(adapted.scaling[name]),
        )

    def merged(self) -> Linear:
        """Return the same linear as a single weight, W + s B A, without a gradient."""
        if self.lora_a is None or self.lora_b is None:
            return self
        with torch.no_grad():
            delta = self.lora_b.float() @ self.lora_a.float() * self.scale
            weight = (self.weight.float() + delta).to(self.weight.dtype)
            return Linear(weight, self.bias, packed=packed_of(weight))


def is_by_onednn(linear: Linear) -> bool:
    """Return whether oneDNN multiplies by a linear: one that is packed, or is trained on a CPU in fp32."""
    return linear.packed is not None or (linear.lora_a is not None and takes(linear.weight))


class Dropout:
    """The dropout masks of one forward pass, drawn from a seed alone.

    Args:
        rate: probability that an element is dropped, to 1.5e-5.
        seed: numbers that fix the masks, such as the job's seed, the step and the row.
    """

    def __init__(self, rate: float, seed: Sequence[int], device: torch.device) -> None:
        self._threshold = round(rate * 65536)
        self._kept_scale = np.float32(65536 / (65536 - self._threshold))
        self._device = device
        if device.type == "cpu":
            self._bits = np.random.SFC64(np.random.SeedSequence(list(seed)))
        else:
            state = np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)
            self._generator = torch.Generator(device).manual_seed(int(state[0]) >> 1)

    def mask(self, like: Tensor) -> Tensor | None:
        """Return a mask of 0 and 1 / (1 - rate), shaped like a tensor; None for a rate of 0."""
        if not self._threshold:
            return None
        if self._device.type == "cpu":
            # Ten times as fast as torch's generator: 0.8 ms for a million elements.
            count = like.numel()
            bits = self._bits.random_raw((count + 3) // 4).view(np.uint16)[:count]
            mask = np.multiply(bits >= self._threshold, self._kept_scale)
            return torch.from_numpy(mask).view(like.shape).to(like.dtype)
        kept = torch.empty(like.shape, dtype=like.dtype, device=self._device)
        kept.bernoulli_(1 - self._threshold / 65536, generator=self._generator)
        return kept.mul_(float(self._kept_scale))


def apply(linears: Sequence[Linear], x: Tensor, dropout: Dropout | None = None) -> tuple[Tensor, ...]:
    """Return the outputs of linears that read the same input.

    Args:
        x: [T, in].
        dropout: where the mask of the adapters' input comes from; None for no dropout.

    Returns:
        For each linear [T, out].
    """
    if any(linear.lora_a is None for linear in linears):
        return tuple(y for linear in linears for y in _apply_mixed(linear, x, dropout))
    mask = dropout.mask(x) if dropout is not None else None
    return _apply_adapted(linears, x, mask)


def _apply_mixed(linear: Linear, x: Tensor, dropout: Dropout | None) -> tuple[Tensor, ...]:
    if linear.packed is not None:
        return (product_by_onednn(x, linear.packed, linear.bias),)
    if linear.lora_a is None:
        return (nn.functional.linear(x, linear.weight, linear.bias),)
    return _apply_adapted([linear], x, dropout.mask(x) if dropout is not None else None)


def _apply_adapted(linears: Sequence[Linear], x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    weights = [
        part for linear in linears for part in (linear.weight, linear.bias, linear.lora_a, linear.lora_b)
    ]
    outputs: tuple[Tensor, ...] = _LoraLinears.apply(x, mask, linears[0].scale, *weights)  # type: ignore[no-untyped-call]
    return outputs


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor | None, scale: float, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        bases, biases, lora_bs = weights[0::4], weights[1::4], weights[3::4]
        dropped = x if mask is None else x * mask  # [T, in]
        stacked_a = torch.cat([a.to(x.dtype) for a in weights[2::4]])  # [n r, in]
        low = product(dropped, stacked_a)  # [T, n r]
        rank = len(stacked_a) // len(bases)
        outputs = []
        for index, (base, bias, lora_b) in enumerate(zip(bases, biases, lora_bs, strict=True)):
            y = product(x, base, bias)  # [T, out]
            y.addmm_(low[:, index * rank : (index + 1) * rank], lora_b.to(x.dtype).t(), alpha=scale)
            outputs.append(y)
        ctx.save_for_backward(dropped, mask, low, stacked_a, *bases, *lora_bs)
        ctx.scale = scale
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dropped, mask, low, stacked_a, *rest = ctx.saved_tensors
        bases, lora_bs = rest[: len(gradients)], rest[len(gradients) :]
        rank = len(stacked_a) // len(gradients)
        d_low = torch.empty_like(low)  # [T, n r]
        d_bs = []
        for index, (gradient, lora_b) in enumerate(zip(gradients, lora_bs, strict=True)):
            span = slice(index * rank, (index + 1) * rank)
            torch.mm(gradient, lora_b.to(gradient.dtype) * ctx.scale, out=d_low[:, span])
            d_bs.append((gradient.t() @ low[:, span] * ctx.scale).to(lora_b.dtype))  # [out, r]
        d_as = (d_low.t() @ dropped).to(lora_bs[0].dtype).split(rank)  # n times [r, in]
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = product(d_low, stacked_a.t())  # [T, in]
            if mask is not None:
                d_x *= mask
            for gradient, base in zip(gradients, bases, strict=True):
                d_x = plus_product(d_x, gradient, base.t())
        return (
            d_x,
            None,
            None,
            *(part for pair in zip(d_as, d_bs, strict=True) for part in (None, None, *pair)),
        )
