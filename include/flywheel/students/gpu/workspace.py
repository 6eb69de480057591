"""The activations of a step, allocated once for the largest row and reused.

Each layer's input to a matmul sits in a buffer E columns wider than it is, where LoRA's x A^T goes (see
`layout`). All that the backward pass needs is kept: nothing is computed twice, at a price in memory of
about `bytes_per_token` a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flywheel.students.gpu.layout import Architecture, LayerGroup

# Of the free memory, what the buffers of an evaluation may take: as much again is temporary.
MEMORY_SHARE = 0.4
# Products of a row beyond which more prompts at once only wait longer: some 0.15 s on an H200.
ROW_PRODUCTS, MOST_PROMPTS = 5e13, 2048


def bytes_per_token(arch: Architecture, rank: int, bytes_per_value: int = 2) -> int:
    """Return the bytes of kept activations a token of a row costs, all layers together."""
    extra = {group.name: group.padding(rank) for group in arch.groups}
    qkv = arch.q_width + 2 * arch.kv_width
    values = (
        2 * arch.hidden
        + (arch.hidden + extra["qkv"])
        + (qkv + extra["qkv"])
        + (arch.q_width + extra["o"])
        + (arch.hidden + extra["gu"])
        + (2 * arch.intermediate + extra["gu"])
        + (arch.intermediate + extra["down"])
    )
    return arch.layers * (values * bytes_per_value + 4 * (arch.heads + 2))


def fitting_batch(
    arch: Architecture, rank: int, own: int, free: int, *, has_prefix: bool = False, decodes: int = 0
) -> int:
    """Return how many prompts are worth answering at once.

    Args:
        arch, rank: The student's.
        own: Tokens of a prompt after the prefix.
        free: Bytes of memory.
        has_prefix: Whether there is one.
        decodes: Tokens that are written after each prompt; 0: none are.
    """
    extra = {group.name: group.padding(rank) for group in arch.groups}
    qkv = arch.q_width + 2 * arch.kv_width
    layers = arch.layers if has_prefix or decodes else 1
    values = layers * (qkv + extra["qkv"]) + 5 * arch.hidden + 2 * arch.q_width + 3 * arch.intermediate
    values += sum(extra.values())
    each = 2 * (own * values + decodes * arch.layers * 2 * arch.kv_width)  # bf16
    weights = sum(group.columns * group.outputs for group in arch.groups) * arch.layers
    fits = min(int(MEMORY_SHARE * free) // each, int(ROW_PRODUCTS / weights) // own, MOST_PROMPTS)
    return max(1, fits)


@dataclass(slots=True)
class Tail:
    """What follows attention in a layer: o, the second norm, the MLP. T rows, or the last layer's N."""

    out: Tensor  # attention's output, [T, H D + E]
    log_sum: Tensor  # its log-sum-exp, fp32 [H T]
    middle: Tensor  # x + o, [T, d]
    normed: Tensor  # [T, d + E]
    rstd: Tensor  # fp32 [T]
    gate_up: Tensor  # and later its gradient, [T, 2 I + E]
    hidden: Tensor  # silu(gate) * up, [T, I + E]

    def rows(self, count: int, heads: int) -> Tail:
        """Return the first so many rows of each buffer."""
        return Tail(
            self.out[:count],
            self.log_sum[: heads * count],
            self.middle[:count],
            self.normed[:count],
            self.rstd[:count],
            self.gate_up[:count],
            self.hidden[:count],
        )


@dataclass(slots=True)
class Head:
    """What comes before attention in a layer: the first norm, q, k and v, for all T rows."""

    x: Tensor  # the layer's input, [T, d]
    normed: Tensor  # [T, d + E]
    rstd: Tensor  # fp32 [T]
    qkv: Tensor  # [T, N + E]

    def rows(self, count: int) -> Head:
        """Return the first so many rows of each buffer."""
        return Head(self.x[:count], self.normed[:count], self.rstd[:count], self.qkv[:count])


class Workspace:
    """Buffers for rows of at most `tokens` tokens and `answers` places in the loss.

    Without a backward pass there is little to keep: each layer's q, k and v for decoding ("qkv"), or nothing.
    """

    def __init__(  # long: all buffers with their sizes, a line each
        self,
        arch: Architecture,
        rank: int,
        tokens: int,
        answers: int,
        dtype: torch.dtype,
        device: torch.device,
        keep: Literal["all", "qkv", "nothing"] = "all",
    ) -> None:
        self.tokens, self.answers = tokens, answers
        self.trains = keep == "all"
        groups: dict[str, LayerGroup] = {group.name: group for group in arch.groups}
        extra = {name: group.padding(rank) for name, group in groups.items()}

        def wide(rows: int, columns: int, name: str) -> Tensor:
            return torch.zeros(rows, columns + extra[name], dtype=dtype, device=device)

        def inputs(rows: int, name: str) -> Tensor:
            group = groups[name]
            buffer = wide(rows, group.columns, name)
            if group.bias:  # the column that the packed matrix's bias multiplies
                buffer[:, group.columns + len(group.modules) * rank] = 1
            return buffer

        def plain(rows: int, columns: int) -> Tensor:
            return torch.zeros(rows, columns, dtype=dtype, device=device)

        def per_row(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.float32, device=device)

        def tail(rows: int) -> Tail:
            return Tail(
                out=inputs(rows, "o"),
                log_sum=per_row(arch.heads * rows),
                middle=plain(rows, arch.hidden),
                normed=inputs(rows, "gu"),
                rstd=per_row(rows),
                gate_up=wide(rows, 2 * arch.intermediate, "gu"),
                hidden=inputs(rows, "down"),
            )

        def first(rows: int) -> tuple[Tensor, Tensor, Tensor]:
            return plain(rows, arch.hidden), inputs(rows, "qkv"), per_row(rows)

        def qkv() -> Tensor:
            return wide(tokens, groups["qkv"].outputs, "qkv")

        layers = arch.layers
        if keep == "all":
            self.heads = [Head(*first(tokens), qkv()) for _ in range(layers)]
            self.tails = [tail(tokens) for _ in range(layers - 1)] + [tail(answers)]
        else:
            one, only = first(tokens), qkv()
            self.heads = [Head(*one, qkv() if keep == "qkv" else only) for _ in range(layers)]
            self.tails = [tail(max(tokens, answers))] * layers
        # Shared by all layers: nothing here outlives its layer.
        self.y = plain(max(tokens, answers), arch.hidden)
        self.final = plain(answers, arch.hidden)
        self.final_normed = plain(answers, arch.hidden)
        self.final_rstd = per_row(answers)
        if keep != "all":
            return
        self.gradient = wide(tokens, arch.hidden, "o")  # of the residual stream
        self.last_gradient = wide(answers, arch.hidden, "o")
        self.normed_gradient = plain(tokens, arch.hidden)
        self.hidden_gradient = plain(tokens, arch.intermediate)
        self.out_gradient = wide(tokens, arch.q_width, "o")
        self.qkv_gradient = wide(tokens, groups["qkv"].outputs, "qkv")
