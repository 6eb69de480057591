"""Where a job meets the GPU path: the same engine protocol as `students.engine`, for a PEFT model on CUDA.

    engine = gpu_engine(model, dropout)       # None where the GPU path does not apply: use the reference path
    answers = answer(model, prompts, ...)     # greedy answers with the prefix computed once

A model's LoRA parameters become views of one flat vector (`layout.Adapter.bind`), so any optimizer, clipping
or checkpoint that knows them goes on working.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flywheel.students.gpu.engine import Engine, spread
from flywheel.students.gpu.layout import Adapter, Weights, unsupported
from flywheel.students.gpu.plan import place_row
from flywheel.students.rows import Row

log = logging.getLogger(__name__)

# Length of the RoPE tables: rows hold no longer samples than this.
MOST_POSITIONS = 16_384


def reason_against(model: Any) -> str | None:
    """Return why a PEFT model cannot take the GPU path, or None if it can."""
    base = model.get_base_model()
    parameter = next(base.parameters())
    if parameter.device.type != "cuda":
        return f"the model is on {parameter.device.type}, not on a GPU"
    if torch.cuda.get_device_capability(parameter.device) < (8, 0):
        return "the GPU is older than Ampere (compute capability 8.0)"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed"
    config = model.peft_config["default"]
    wanted = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    if set(config.target_modules) != wanted or config.use_rslora or config.use_dora or config.bias != "none":
        return "the adapter is not plain LoRA on all linear layers"
    return unsupported(base.config)


def gpu_engine(model: Any, dropout: float) -> GpuEngine | None:
    """Return an engine for a PEFT model, or None where the reference path has to do it."""
    reason = reason_against(model)
    if reason is not None:
        log.info("the GPU path is not taken: %s", reason)
        return None
    return GpuEngine(model, dropout)


class GpuEngine:
    """`students.engine.Engine` on the GPU path.

    Args:
        model: A peft LoRA model; its adapter's parameters become views of this engine's.
        dropout: Probability with which an input of an adapter is dropped.
        graphs: Whether steps are replayed as CUDA graphs; default: on CUDA.
    """

    def __init__(self, model: Any, dropout: float, graphs: bool | None = None) -> None:
        self._model = model
        self.weights, self.adapter = pack(model)
        self.device = self.weights.embedding.device
        self._engine = Engine(self.weights, self.adapter, dropout)
        self._parameters = self.adapter.parameters_of(model)
        self._step: Any = self._engine
        if self.device.type == "cuda" if graphs is None else graphs:
            from flywheel.students.gpu.graphs import GraphedEngine

            self._step = GraphedEngine(self._engine)

    def backward(self, row: Row, scale: float, seed: Sequence[int]) -> Tensor:
        """Add the gradient of scale times the row's loss to the adapter's; return scale times the loss.

        Gradients that an optimizer has set to None start from zero; the weights are packed anew then, as a
        step lies between.
        """
        if any(parameter.grad is None for parameter, _ in self._parameters):
            self.adapter.gradients.zero_()
            self.adapter.pack_into(self.weights)
            for parameter, gradient in self._parameters:
                parameter.grad = gradient
        drawn = 0
        for number in seed:
            drawn = spread(drawn ^ spread(number))
        loss: Tensor = self._step.step(place_row(row, self.device), scale, drawn)
        return loss * scale

    def loss(self, row: Row) -> Tensor:
        """Return the loss, summed over the answers' tokens, without dropout."""
        self.adapter.pack_into(self.weights)
        return self._engine.loss(place_row(row, self.device))


def pack(model: Any) -> tuple[Weights, Adapter]:
    """Pack a peft model's weights and take over its adapter.

    Where a second copy of the weights would take more than a fifth of the GPU's memory, the model's own
    linear weights are freed as they are packed: the model then serves its adapter alone.
    """
    base = model.get_base_model()
    parameter = base.get_input_embeddings().weight
    config = model.peft_config["default"]
    rank, scale = config.r, config.lora_alpha / config.r
    size = sum(p.numel() * p.element_size() for p in base.parameters())
    is_large = (
        parameter.device.type == "cuda"
        and size > torch.cuda.get_device_properties(parameter.device).total_memory / 5
    )
    positions = min(MOST_POSITIONS, base.config.max_position_embeddings)
    weights = Weights.pack(base, rank, positions, parameter.dtype, parameter.device, release=is_large)
    adapter = Adapter.zeros(weights.arch, rank, scale, parameter.device)
    adapter.bind(model)
    adapter.pack_into(weights)
    return weights, adapter
