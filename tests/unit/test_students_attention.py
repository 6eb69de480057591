"""The shared-prefix row computes what the plain loop over samples computes, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_students import make_model, make_samples, with_adapter
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from flywheel.common.errors import StudentError
from flywheel.students.decoder import Decoder
from flywheel.students.engine import row_loss
from flywheel.students.kernels import CpuKernel, Kernel, PlainKernel
from flywheel.students.rows import Sample, Spans, build_row

SMALL: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}


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


def assert_row_equals_loop(model: Any, samples: list[Sample], prefix: int) -> None:
    expected_loss = plain_loss(model, samples)
    expected = gradients(model)
    row = build_row(samples[0].prompt[:prefix], samples)
    loss = row_loss(Decoder(model), row) / len(row.targets)
    loss.backward()
    ours = gradients(model)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (ours[name] - gradient).norm() / gradient.norm()
        assert error <= 1e-5, f"{name}: relative error {error:.1e}"
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)


@pytest.mark.parametrize("prefix", [0, 16, 150])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_gradient_of_a_row_equals_that_of_single_samples(prefix: int, key_heads: int) -> None:
    model = with_adapter(make_model(num_key_value_heads=key_heads))
    assert_row_equals_loop(model, make_samples(prefix), prefix)


def test_samples_of_very_different_lengths_do_not_disturb_each_other() -> None:
    samples = [*make_samples(20, 3, longest=3), *make_samples(20, 3, longest=400)]
    assert_row_equals_loop(with_adapter(make_model()), samples, 20)


def test_a_single_sample_and_a_single_token_of_answer_are_a_row() -> None:
    sample = make_samples(40, 1)[0]
    assert_row_equals_loop(with_adapter(make_model()), [Sample(sample.prompt, sample.answer[:1])], 40)


def test_one_layer_has_a_gradient_though_its_outputs_are_those_of_the_answers_alone() -> None:
    assert_row_equals_loop(with_adapter(make_model(num_hidden_layers=1)), make_samples(30), 30)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)), id="qwen2, biases"),
        pytest.param(lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16)), id="qwen3, norms of heads"),
        pytest.param(lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)), id="mistral"),
        pytest.param(
            lambda: make_model(
                attention_bias=True,
                mlp_bias=True,
                tie_word_embeddings=False,
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 10000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            ),
            id="llama 3.2 rotary, biases",
        ),
    ],
)
def test_other_architectures_have_the_same_gradient(model: Any) -> None:
    torch.manual_seed(0)
    built = model().eval().requires_grad_(False)
    for name, parameter in built.named_parameters():
        if name.endswith(("bias", "norm.weight")):
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    assert_row_equals_loop(with_adapter(built), make_samples(50), 50)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model type 'gpt2' is not supported"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rotary embedding 'dynamic'"),
    ],
)
def test_an_architecture_that_would_be_computed_wrongly_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    model = make_model()
    for name, value in changes.items():
        setattr(model.config, name, value)
    with pytest.raises(StudentError, match=message):
        Decoder(model)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [[5], [5, 3, 4], [1, 1, 1]])
@pytest.mark.parametrize("kernel", [PlainKernel(), CpuKernel()])
def test_kernels_agree_with_attention_written_out(kernel: Kernel, queries: list[int], causal: bool) -> None:
    torch.manual_seed(0)
    lengths = [length + 2 * index for index, length in enumerate(queries)]
    spans = Spans(np.cumsum([0, *queries]), np.cumsum([0, *lengths]), causal)
    q = torch.randn(sum(queries), 4, 8, dtype=torch.float32, requires_grad=True)
    k, v = (torch.randn(sum(lengths), 2, 8, requires_grad=True) for _ in range(2))
    outs, lses = [], []
    for index, (count, length) in enumerate(zip(queries, lengths, strict=True)):
        mine = slice(int(spans.queries[index]), int(spans.queries[index + 1]))
        seen = slice(int(spans.keys[index]), int(spans.keys[index + 1]))
        keys, values = k[seen].repeat_interleave(2, 1), v[seen].repeat_interleave(2, 1)
        scores = torch.einsum("qhd,khd->hqk", q[mine], keys) * 0.3
        if causal:
            hidden = torch.ones(count, length, dtype=torch.bool).triu(length - count + 1)
            scores = scores.masked_fill(hidden, -torch.inf)
        outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values))
        lses.append(scores.logsumexp(-1).t())
    expected, expected_lse = torch.cat(outs), torch.cat(lses)
    d_out = torch.randn_like(expected)
    expected.backward(d_out)
    with torch.no_grad():
        out, lse = kernel.forward(q, k, v, spans, 0.3)
        shares = kernel.backward(d_out, q, k, v, out, lse, spans, 0.3)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)
    for ours, tensor in zip(shares, (q, k, v), strict=True):
        torch.testing.assert_close(ours, tensor.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [PlainKernel(), CpuKernel()])
def test_padding_does_not_spoil_the_gradient_of_large_scores(kernel: Kernel) -> None:
    """In padding, a score may be far above any log-sum-exp: its share would be infinite, times zero."""
    torch.manual_seed(0)
    ends = np.cumsum([0, 8, 7])
    q, k, v, d_out = (torch.randn(15, 2, 8) for _ in range(4))
    spans = Spans(ends, ends, causal=True)
    out, lse = kernel.forward(40 * q, 40 * k, v, spans, 1.0)
    for share in kernel.backward(d_out, 40 * q, 40 * k, v, out, lse, spans, 1.0):
        assert share.isfinite().all()
