"""The shared-prefix row computes what the plain loop over samples computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_students import make_model, with_adapter

from flywheel.students.decoder import Decoder
from flywheel.students.rows import Sample, Spans, build_row, common_prefix, fill_rows
from flywheel.students.training import row_loss


def make_samples(prefix: int, count: int = 9, seed: int = 0, longest: int = 40) -> list[Sample]:
    rng = np.random.default_rng(seed)
    head = rng.integers(5, 400, prefix)
    return [
        Sample(
            np.concatenate([head, rng.integers(5, 400, rng.integers(1, longest))]).astype(np.int32),
            rng.integers(5, 400, rng.integers(1, 8)).astype(np.int32),
        )
        for _ in range(count)
    ]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def plain_loss(model: Any, samples: list[Sample]) -> torch.Tensor:
    """Backpropagate the mean answer loss, sample by sample, through the Hugging Face model itself."""
    tokens = sum(len(sample.answer) for sample in samples)
    total = torch.zeros(())
    for sample in samples:
        ids = torch.from_numpy(np.concatenate([sample.prompt, sample.answer]).astype(np.int64))[None]
        labels = ids.clone()
        labels[:, : len(sample.prompt)] = -100
        logits = model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum") / tokens
        loss.backward()
        total += loss.detach()
    return total


def assert_same_gradients(
    ours: dict[str, torch.Tensor], plain: dict[str, torch.Tensor], tolerance: float
) -> None:
    assert ours.keys() == plain.keys()
    for name, expected in plain.items():
        error = (ours[name] - expected).norm() / expected.norm()
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("prefix", [0, 16, 150])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_gradient_of_a_row_equals_that_of_single_samples(prefix: int, heads: tuple[int, int]) -> None:
    model = with_adapter(make_model(num_attention_heads=heads[0], num_key_value_heads=heads[1]))
    samples = make_samples(prefix)
    expected_loss = plain_loss(model, samples)
    plain = gradients(model)
    row = build_row(samples[0].prompt[:prefix], samples)
    loss = row_loss(Decoder(model), row) / len(row.targets)
    loss.backward()
    assert_same_gradients(gradients(model), plain, 1e-5)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
