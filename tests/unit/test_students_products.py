"""Products by the faster of two libraries are those of double precision."""

from __future__ import annotations

import pytest
import torch

from flywheel.students import lora
from flywheel.students.products import ROUND, plus_product, product


@pytest.fixture(params=[ROUND - 1, ROUND, 3 * ROUND])
def x(request: pytest.FixtureRequest) -> torch.Tensor:
    return torch.randn(request.param, 24, generator=torch.Generator().manual_seed(7))


def _weights(outputs: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    maker = torch.Generator().manual_seed(8)
    return torch.randn(outputs, 24, generator=maker), torch.randn(outputs, generator=maker)


def test_a_product_is_that_of_double_precision_in_any_layout_of_its_weights(x: torch.Tensor) -> None:
    weight, bias = _weights()
    exact = x.double() @ weight.double().t() + bias.double()
    torch.testing.assert_close(product(x, weight, bias).double(), exact, rtol=1e-5, atol=1e-5)
    turned = weight.t().contiguous().t()
    torch.testing.assert_close(product(x, turned, bias).double(), exact, rtol=1e-5, atol=1e-5)


def test_a_product_is_added_to_what_is_there(x: torch.Tensor) -> None:
    weight, bias = _weights()
    there = bias.repeat(len(x), 1)
    exact = there.double() + x.double() @ weight.double().t()
    torch.testing.assert_close(plus_product(there, x, weight).double(), exact, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_an_adapter_is_that_of_the_formula_also_where_it_is_one_number_for_all(
    x: torch.Tensor,
) -> None:
    base, _ = _weights()
    low_a, low_b = torch.randn(4, 24).requires_grad_(), torch.randn(40, 4).requires_grad_()
    asked = x.clone().requires_grad_()
    (y,) = lora.apply([lora.Linear(base, None, low_a, low_b, 0.5)], asked)
    found = torch.autograd.grad(y.sum(), [asked, low_a, low_b])
    exact = asked @ base.t() + (asked @ low_a.t()) @ low_b.t() * 0.5
    wanted = torch.autograd.grad(exact.sum(), [asked, low_a, low_b])
    for ours, formula in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, formula, rtol=1e-4, atol=1e-3)
