"""The shapes that the benchmarks run, with random weights, and the arithmetic that a step of them needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flywheel.students.gpu.layout import Architecture, Weights

SHAPES = {
    "135m": Architecture(30, 576, 1536, 9, 3, 64, 49152, 1e-5, False),  # SmolLM2-135M
    "1b": Architecture(16, 2048, 8192, 32, 8, 64, 128256, 1e-5, False),  # Llama-3.2-1B
    "3b": Architecture(28, 3072, 8192, 24, 8, 128, 128256, 1e-5, False),  # Llama-3.2-3B
    "8b": Architecture(32, 4096, 14336, 32, 8, 128, 128256, 1e-5, False),  # Llama-3.1-8B
}


def random_weights(
    arch: Architecture,
    rank: int,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    positions: int = 4096,
) -> Weights:
    """Make random weights of a shape, straight into the packed layout."""
    packed = {}
    for group in arch.groups:
        extra = group.padding(rank)
        matrix = torch.zeros(
            arch.layers, group.outputs + extra, group.columns + extra, dtype=dtype, device=device
        )
        matrix[:, : group.outputs, : group.columns].normal_(0, 0.02)
        packed[group.name] = matrix
    embedding = torch.empty(arch.vocabulary, arch.hidden, dtype=dtype, device=device).normal_(0, 0.02)
    tied = arch.hidden < 4096
    head = embedding if tied else torch.empty_like(embedding).normal_(0, 0.02)
    half = torch.arange(0, arch.head_dim, 2, dtype=torch.float32) / arch.head_dim
    angles = torch.arange(positions, dtype=torch.float32)[:, None] / 500000.0 ** half[None, :]
    ones = torch.ones(arch.layers, arch.hidden, dtype=dtype, device=device)
    return Weights(
        arch=arch, rank=rank, packed=packed, norm1=ones, norm2=ones.clone(), norm=ones[0].clone(),
        embedding=embedding, head=head, cos=angles.cos().to(device), sin=angles.sin().to(device),
    )  # fmt: skip


def needed_flops(
    arch: Architecture, rank: int, prefix: int, own: Sequence[int], answers: int, backward: bool = True
) -> float:
    """Return the floating-point operations that a row needs, counting nothing twice.

    A frozen matmul costs 2 a weight and token forward and 2 backward; a LoRA matmul 2 more for its own
    gradient; attention twice its forward cost backward (what a kernel recomputes is not counted). The last
    layer's q, o and MLP, and the logits, are needed at the answers' tokens only.

    Args:
        arch: The shape.
        rank: r, on all linear layers.
        prefix: Tokens of the shared prefix.
        own: Tokens of each sample after it, without its last one, which predicts nothing.
        answers: Answer tokens.
        backward: Whether gradients are computed.
    """
    tokens, asked = prefix + sum(own), answers
    frozen, lora = 0.0, 0.0
    for group in arch.groups:
        adapters = rank * (len(group.modules) * group.columns + group.outputs)
        last = asked / tokens if group.name != "qkv" else 1.0
        layers = arch.layers - 1 + last
        frozen += 2 * tokens * layers * group.columns * group.outputs
        lora += 2 * tokens * layers * adapters
    q_last = arch.q_width * arch.hidden  # of the last layer, needed at `asked` places alone
    frozen -= 2 * (tokens - asked) * q_last
    frozen += 2 * asked * arch.vocabulary * arch.hidden
    pairs = sum(own) * prefix + sum(n * (n + 1) / 2 for n in own) + prefix * (prefix + 1) / 2
    last_pairs = asked * (prefix + max(own))
    attention = 4 * arch.q_width * ((arch.layers - 1) * pairs + last_pairs)
    if not backward:
        return frozen + lora + attention
    return 2 * frozen + 3 * lora + 3 * attention
