"""What the training loop asks of a model: the loss of a row, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flywheel.students.adapter import trainable
from flywheel.students.attention import answer_parts_of, attend, parts_of
from flywheel.students.decoder import Decoder
from flywheel.students.flat import flatten
from flywheel.students.lora import Dropout
from flywheel.students.rows import Row


class Engine(Protocol):
    """A student whose adapter is trained, row by row.

    Attributes:
        device: where it is.
        values: the adapter as one vector; its `grad` is the gradient.
    """

    device: torch.device
    values: Tensor

    def begin(self) -> None:
        """Begin an optimizer step: the gradient is zero, the adapter as the last step left it."""

    def backward(self, row: Row, scale: float, seed: Sequence[int]) -> Tensor:
        """Add the gradient of scale times the row's loss to the adapter's gradients.

        Args:
            row: on any device.
            scale: 1 / the answers' tokens of the optimizer step.
            seed: fixes the dropout masks: the job's seed, the step, the row in the step.

        Returns:
            scale times the loss, summed over the answers' tokens, in nats: a scalar on the device.
        """

    def loss(self, row: Row) -> Tensor:
        """Return the loss, summed over the answers' tokens, without dropout: a scalar on the device."""


class AutogradEngine:
    """The engine for any device and precision: PyTorch's autograd over `Decoder`.

    Args:
        model: a peft LoRA model.
        dropout: rate of the adapters' input.
    """

    def __init__(self, model: Any, dropout: float) -> None:
        self.decoder = Decoder(model)
        self.device = self.decoder.device
        self.values = flatten(trainable(model))
        self.dropout = dropout

    def begin(self) -> None:
        """See `Engine`."""
        assert self.values.grad is not None
        self.values.grad.zero_()

    def backward(self, row: Row, scale: float, seed: Sequence[int]) -> Tensor:
        """See `Engine`."""
        dropout = Dropout(self.dropout, seed, self.device) if self.dropout else None
        loss = row_loss(self.decoder, row.to(self.device), dropout) * scale
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @torch.no_grad()
    def loss(self, row: Row) -> Tensor:
        """See `Engine`."""
        return row_loss(self.decoder, row.to(self.device))


def engine_for(model: Any, dropout: float) -> Engine:
    """Return the engine for a peft LoRA model on its device.

    Args:
        model: a peft LoRA model.
        dropout: rate of the adapters' input.
    """
    if next(model.parameters()).is_cuda:
        from flywheel.students.gpu.backend import gpu_engine

        engine = gpu_engine(model, dropout)
        if engine is not None:
            return engine
    return AutogradEngine(model, dropout)


def row_states(decoder: Decoder, row: Row, dropout: Dropout | None = None) -> Tensor:
    """Return the normalised last hidden states at the places of a row that predict: [N, d]."""
    parts, answer_parts, last = parts_of(row), answer_parts_of(row), len(decoder.layers) - 1

    def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, answer_parts if layer == last else parts, decoder.scale)

    return decoder.hidden(
        row.tokens, row.positions, attention, end=row.end, at=row.predicting, dropout=dropout
    )


def row_loss(decoder: Decoder, row: Row, dropout: Dropout | None = None) -> Tensor:
    """Return the loss of a row, summed over the answers' tokens, in nats: a scalar."""
    logits = decoder.logits(row_states(decoder, row, dropout))
    return nn.functional.cross_entropy(logits, row.targets, reduction="sum")
