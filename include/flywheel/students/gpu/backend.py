"""Where a job meets the GPU path: the same engine protocol as `students.engine`, for a PEFT model on CUDA.

    engine = gpu_engine(model, dropout)         # both give None where the GPU path does not apply:
    answers = gpu_answers(model, prompts, ...)  # use the reference path

A model's LoRA parameters become views of one flat vector (`layout.Adapter.bind`), so any optimizer, clipping
or checkpoint that knows them goes on working.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flywheel.common.errors import StudentError
from flywheel.students.answering import Answers, answer_in_batches
from flywheel.students.choosing import LabelChoice, choose_by
from flywheel.students.gpu.decoder import GpuDecoder
from flywheel.students.gpu.engine import KernelEngine, spread
from flywheel.students.gpu.layout import Adapter, Weights, unsupported
from flywheel.students.gpu.plan import place_row
from flywheel.students.gpu.prefilled import Prefilled
from flywheel.students.gpu.workspace import fitting_batch
from flywheel.students.label_trie import LabelTrie
from flywheel.students.rows import Row, Tokens, common_prefix

log = logging.getLogger(__name__)

# Length of the RoPE tables: rows hold no longer samples than this.
MOST_POSITIONS = 16_384


def reason_against(model: Any) -> str | None:
    """Return why a model, plain or PEFT's, cannot take the GPU path, or None if it can."""
    is_adapted = hasattr(model, "get_base_model")
    base = model.get_base_model() if is_adapted else model
    parameter = next(base.parameters())
    if parameter.device.type != "cuda":
        return f"the model is on {parameter.device.type}, not on a GPU"
    if torch.cuda.get_device_capability(parameter.device) < (8, 0):
        return "the GPU is older than Ampere (compute capability 8.0)"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed"
    if not is_adapted:
        return unsupported(base.config)
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
        self._engine = KernelEngine(self.weights, self.adapter, dropout)
        self.values = self.adapter.values
        self._step: Any = self._engine
        if self.device.type == "cuda" if graphs is None else graphs:
            from flywheel.students.gpu.graphs import GraphedEngine

            self._step = GraphedEngine(self._engine)

    def begin(self) -> None:
        """Begin an optimizer step: the gradient is zero, the adapter packed as the last step left it."""
        self.adapter.gradients.zero_()
        self.adapter.pack_into(self.weights)

    def backward(self, row: Row, scale: float, seed: Sequence[int]) -> Tensor:
        """Add the gradient of scale times the row's loss to the adapter's; return scale times the loss."""
        self._check(row)
        drawn = 0
        for number in seed:
            drawn = spread(drawn ^ spread(number))
        loss: Tensor = self._step.step(place_row(row, self.device), scale, drawn)
        return loss * scale

    def loss(self, row: Row) -> Tensor:
        """Return the loss, summed over the answers' tokens, without dropout."""
        self._check(row)
        self.adapter.pack_into(self.weights)
        return self._engine.loss(place_row(row, self.device))

    def _check(self, row: Row) -> None:
        if int(row.positions.max()) >= len(self.weights.cos):
            raise StudentError(
                f"a sample is longer than the {len(self.weights.cos)} positions of this student"
            )


def pack(model: Any) -> tuple[Weights, Adapter]:
    """Pack a model's weights; take over its adapter if it is a peft model; a plain one has rank 0."""
    is_adapted = hasattr(model, "get_base_model")
    base = model.get_base_model() if is_adapted else model
    parameter = base.get_input_embeddings().weight
    rank, scale = 0, 1.0
    if is_adapted:
        config = model.peft_config["default"]
        rank, scale = config.r, config.lora_alpha / config.r
    positions = min(MOST_POSITIONS, base.config.max_position_embeddings)
    weights = Weights.pack(base, rank, positions, parameter.dtype, parameter.device)
    adapter = Adapter.zeros(weights.arch, rank, scale, parameter.device)
    if is_adapted:
        adapter.bind(model)
    adapter.pack_into(weights)
    return weights, adapter


def gpu_answers(
    model: Any,
    prompts: Sequence[Tokens],
    stops: frozenset[int],
    *,
    max_new_tokens: int,
    batch_size: int | None,
    progress: Callable[[int], None] | None = None,
    force: bool = False,
) -> Answers[list[int]] | None:
    """Answer prompts greedily as `generation.generate` does, or return None where the path is not taken.

    Args:
        model: A transformers causal LM, or a peft model around one.
        prompts: Token ids with the generation prompt.
        stops: Ids of tokens that end an answer.
        max_new_tokens: Longest answer.
        batch_size: Prompts answered at once; None: as many as fit, and are worth it.
        progress: Told after each batch how many prompts are answered.
        force: Take the path on any device, for tests.
    """
    reason = reason_against(model)
    if (reason is not None and not force) or not prompts:
        log.info("answers do not take the GPU path: %s", reason)
        return None
    started = time.perf_counter()
    weights, adapter = pack(model)
    decoder = GpuDecoder(weights, adapter, stops, max_new_tokens)
    shared = common_prefix(prompts)
    prefix = prompts[0][:shared]
    prefix_seconds = time.perf_counter() - started
    return answer_in_batches(
        prompts,
        lambda batch: decoder.answer(prefix, batch),
        batch_size=batch_size or _fitting(weights, prompts, decodes=max_new_tokens),
        device=weights.embedding.device.type,
        prefix_seconds=prefix_seconds,
        prefix=shared,
        same_size=True,
        progress=progress,
    )


def gpu_choices(
    model: Any,
    prompts: Sequence[Tokens],
    trie: LabelTrie,
    *,
    batch_size: int | None,
    progress: Callable[[int], None] | None = None,
    force: bool = False,
) -> Answers[LabelChoice] | None:
    """Answer prompts as `choosing.choose` does, or return None where the path is not taken.

    Args:
        model: A transformers causal LM, or a peft model around one.
        prompts: Token ids with the generation prompt.
        trie: The answers.
        batch_size: Prompts answered at once; None: as many as fit, and are worth it.
        progress: Told after each batch how many prompts are answered.
        force: Take the path on any device, for tests.
    """
    states = _states(model, force=force)
    if states is None:
        return None
    batch_size = batch_size or _fitting(states.weights, prompts, beside=len(trie.tokens))
    return choose_by(states, states.weights.head, prompts, trie, batch_size=batch_size, progress=progress)


def gpu_states(model: Any, *, force: bool = False) -> tuple[Callable[[Row], Tensor], Tensor] | None:
    """Return what computes a row's last hidden states, and the output layer's weights; None: not taken.

    Args:
        model: A transformers causal LM, or a peft model around one.
        force: Take the path on any device, for tests.
    """
    states = _states(model, force=force)
    return None if states is None else (states, states.weights.head)


def fitting(states: Callable[[Row], Tensor], prompts: Sequence[Tokens], *, beside: int) -> int | None:
    """Return how many prompts are answered at once by what `gpu_states` gave; None: nothing says so.

    Args:
        beside: tokens of the answers that are tried after each prompt.
    """
    if not isinstance(states, Prefilled):
        return None
    return _fitting(states.weights, prompts, beside=beside)


def _states(model: Any, *, force: bool) -> Prefilled | None:
    reason = reason_against(model)
    if reason is not None and not force:
        log.info("answers do not take the GPU path: %s", reason)
        return None
    return Prefilled(KernelEngine(*pack(model)))


def _fitting(weights: Weights, prompts: Sequence[Tokens], *, beside: int = 0, decodes: int = 0) -> int | None:
    """Return how many prompts are answered at once, by a GPU's memory; None where there is none."""
    device = weights.embedding.device
    if device.type != "cuda" or not prompts:
        return None
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    prefix = common_prefix(prompts)
    own = max(len(prompt) for prompt in prompts) - prefix + beside
    free = torch.cuda.mem_get_info(device)[0] + cached
    return fitting_batch(weights.arch, weights.rank, own, free, has_prefix=prefix > 0, decodes=decodes)
