"""LoRA linears compute what peft's do, with dropout masks that a seed alone decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flywheel.students import lora
from flywheel.students.lora import Dropout, Linear
from flywheel.students.products import packed_of

CPU = torch.device("cpu")


def make_linears(count: int, bias: bool = False) -> list[Linear]:
    torch.manual_seed(0)
    return [
        Linear(
            torch.randn(7 + index, 6),
            torch.randn(7 + index) if bias else None,
            nn.Parameter(torch.randn(3, 6)),
            nn.Parameter(torch.randn(7 + index, 3)),
            2.0,
        )
        for index in range(count)
    ]


def written_out(linear: Linear, x: Tensor, mask: Tensor | float) -> Tensor:
    assert linear.lora_a is not None and linear.lora_b is not None
    y = x @ linear.weight.t() + linear.scale * ((x * mask) @ linear.lora_a.t() @ linear.lora_b.t())
    return y if linear.bias is None else y + linear.bias


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("count", [1, 3])
def test_outputs_and_gradients_are_those_of_the_formula(count: int, rate: float) -> None:
    linears, x = make_linears(count, bias=True), torch.randn(11, 6, requires_grad=True)
    inputs = [x, *(part for linear in linears for part in (linear.lora_a, linear.lora_b) if part is not None)]
    mask = Dropout(rate, (1, 2), CPU).mask(x) if rate else 1.0
    outputs = lora.apply(linears, x, Dropout(rate, (1, 2), CPU))
    expected = [written_out(linear, x, mask) for linear in linears]  # type: ignore[arg-type]
    weights = [torch.randn_like(y) for y in expected]
    ours = torch.autograd.grad(sum((y * w).sum() for y, w in zip(outputs, weights, strict=True)), inputs)
    theirs = torch.autograd.grad(sum((y * w).sum() for y, w in zip(expected, weights, strict=True)), inputs)
    for a, b in zip((*outputs, *ours), (*expected, *theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_linears_without_an_adapter_stand_beside_those_with_one() -> None:
    adapted = make_linears(1)[0]
    plain = Linear(torch.randn(4, 6), None)
    x = torch.randn(5, 6)
    first, second = lora.apply([plain, adapted], x)
    torch.testing.assert_close(first, x @ plain.weight.t())
    torch.testing.assert_close(second, written_out(adapted, x, 1.0))


def test_a_merged_linear_gives_the_same_outputs() -> None:
    linear, x = make_linears(1, bias=True)[0], torch.randn(5, 6)
    (merged,) = lora.apply([linear.merged()], x)
    torch.testing.assert_close(merged, written_out(linear, x, 1.0), rtol=1e-4, atol=1e-4)


def test_dropout_drops_at_its_rate_and_keeps_the_mean() -> None:
    mask = Dropout(0.1, (0,), CPU).mask(torch.empty(500, 400))
    assert mask is not None
    assert mask.unique().tolist() == [0.0, pytest.approx(1 / 0.9, rel=1e-4)]
    assert (mask == 0).float().mean().item() == pytest.approx(0.1, abs=0.003)
    assert mask.mean().item() == pytest.approx(1.0, abs=0.003)
    # Neighbours are dropped independently.
    dropped = (mask == 0).float() - 0.1
    assert abs((dropped[:, 1:] * dropped[:, :-1]).mean().item()) < 0.001


def test_masks_follow_from_the_seed_and_differ_within_a_pass() -> None:
    like = torch.empty(50, 33)
    a, b, c = Dropout(0.5, (7, 1, 0), CPU), Dropout(0.5, (7, 1, 0), CPU), Dropout(0.5, (7, 2, 0), CPU)
    first, again, other = a.mask(like), b.mask(like), c.mask(like)
    assert first is not None and again is not None and other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    second = a.mask(like)
    assert second is not None and not torch.equal(first, second)


def test_a_rate_of_zero_needs_no_mask() -> None:
    assert Dropout(0.0, (0,), CPU).mask(torch.empty(3, 3)) is None
    assert np.isfinite(Dropout(0.999, (0,), CPU)._kept_scale)


@pytest.mark.parametrize(("inner", "outer"), [(96, 256), (256, 96), (31, 7), (1500, 64)])
def test_a_packed_weight_gives_the_bits_of_the_plain_one_or_is_not_taken(inner: int, outer: int) -> None:
    weight, x = torch.randn(outer, inner), torch.randn(640, inner)
    packed = packed_of(weight)
    (y,) = lora.apply([lora.Linear(weight, None, packed=packed)], x)
    assert torch.equal(y, torch.nn.functional.linear(x, weight))
