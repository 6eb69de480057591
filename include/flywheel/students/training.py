"""Fine-tune a student's adapter: rows with a shared prefix, AdamW, checkpoints; the same from any restart.

Cost of a step, for a decoder of N frozen parameters outside its embedding, and a row of P prefix tokens and
S own ones: about 4 N (S + P) FLOP in the linears (forward, and the gradient of the inputs alone), and
14 d (S P + P P / 2) in the attention of each layer of width d. A plain loop over n samples pays for S + n P
tokens.

The order of the samples follows from seed and epoch, the dropout from seed and step. So a training that was
killed and goes on from a checkpoint ends in the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flywheel.common.errors import StudentError
from flywheel.config.training import TrainingConfig
from flywheel.jobs.progress import ProgressCallback
from flywheel.jobs.settings import settle
from flywheel.students.adapter import trainable
from flywheel.students.engine import engine_for
from flywheel.students.flat import part_of
from flywheel.students.loading import width_of
from flywheel.students.outcome import TrainingOutcome
from flywheel.students.rows import Sample, Tokens, build_row, common_prefix, fill_rows
from flywheel.students.trainer import MOMENTS, Trainer

log = logging.getLogger(__name__)

# Longest row in tokens: bounds the memory for activations. On a GPU it is halved when memory runs out.
MOST_TOKENS = {"cpu": 16_384, "cuda": 65_536}


def fine_tune(
    model: Any,
    train: Sequence[Sample],
    val: Sequence[Sample],
    config: TrainingConfig,
    *,
    dropout: float = 0.0,
    seed: int = 0,
    scratch: Path | None = None,
    after_checkpoint: Callable[[], None] | None = None,
    progress: ProgressCallback | None = None,
    most_tokens: int | None = None,
    share: float = 1.0,
) -> TrainingOutcome:
    """Train the adapter of a peft model, in place.

    Args:
        model: a peft LoRA model of a supported architecture.
        train: the training examples.
        val: examples whose loss is watched; may be empty.
        dropout: rate of the adapters' input.
        seed: fixes the order of the samples and the dropout.
        scratch: folder for checkpoints, from which an earlier training goes on; None keeps none.
        after_checkpoint: called when a checkpoint was written.
        progress: told a few times a second.
        most_tokens: longest row; default by device. A batch that does not fit is split into several rows.
        share: of the steps that the settings ask for; the schedule has that length.

    Raises:
        StudentError: there is nothing to train on, or the loss is not a number.
        JobError: SIGTERM ended the training; where there is a scratch folder, a checkpoint is written.
    """
    if not train:
        raise StudentError(
            "no training examples are left: all are longer than max_seq_length or context_length"
        )
    trainer = _Trainer(model, train, val, config, dropout, seed, most_tokens, share)
    return trainer.run(
        scratch,
        after_checkpoint,
        progress,
        prefix=len(trainer.prefix),
        compiles=trainer.engine.device.type != "cpu",
    )


class _Trainer(Trainer):
    """The moving parts of `fine_tune`: the engine, the data order, rows that fit."""

    def __init__(
        self,
        model: Any,
        train: Sequence[Sample],
        val: Sequence[Sample],
        config: TrainingConfig,
        dropout: float,
        seed: int,
        most_tokens: int | None,
        share: float = 1.0,
    ) -> None:
        self.engine = engine_for(model, dropout)
        self.train, self.seed = train, seed
        self.most_tokens = most_tokens or MOST_TOKENS.get(self.engine.device.type, MOST_TOKENS["cpu"])
        shared = common_prefix([sample.prompt for sample in (*train, *val)])
        self.prefix: Tokens = train[0].prompt[:shared]
        self.val_rows = [
            build_row(self.prefix, samples)
            for samples in fill_rows(shared, sorted(val, key=len), self.most_tokens)
        ]
        settings = settle(config, len(train), width_of(model))
        for doubt in settings.doubts:
            log.warning("%s", doubt)
        super().__init__(
            trainable(model),
            [self.engine.values],
            config,
            settings,
            steps=max(1, math.ceil(settings.steps * share)),
            validations=config.validations if val else 0,
            keeps_best=bool(config.early_stop_patience),
            fused=True,
            # On a GPU the loss of a step is read after the next one is under way, so that it never waits.
            lag=0 if self.engine.device.type == "cpu" else 1,
        )
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self._order: tuple[int, np.ndarray[Any, np.dtype[np.int64]]] = (-1, np.empty(0, np.int64))

    def backward(self) -> tuple[Tensor, int]:
        """See `Trainer`."""
        samples = self._batch(self.state.step)
        while True:
            try:
                return self._backward(samples, self.state.step), len(samples)
            except torch.OutOfMemoryError:
                self.most_tokens = min(self.most_tokens, len(self.prefix) + sum(map(len, samples))) // 2
                if self.most_tokens <= len(self.prefix) + max(len(s) - len(self.prefix) for s in samples):
                    raise
                log.warning("out of GPU memory: rows of at most %d tokens from here on", self.most_tokens)
                torch.cuda.empty_cache()

    def _backward(self, samples: Sequence[Sample], step: int) -> Tensor:
        """Compute the gradient of a batch and return its loss, the mean over the answers' tokens."""
        self.engine.begin()
        tokens = sum(len(sample.answer) for sample in samples)
        losses = []
        for index, part in enumerate(fill_rows(len(self.prefix), samples, self.most_tokens)):
            row = build_row(self.prefix, part)
            self.state.tokens += len(row.tokens)
            losses.append(self.engine.backward(row, 1 / tokens, (self.seed, step, index)))
        return torch.stack(losses).sum()

    def _batch(self, step: int) -> list[Sample]:
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.train)))
        start = index * self.config.batch_size
        return [self.train[place] for place in self._order[1][start : start + self.config.batch_size]]

    def val_loss(self) -> float:
        """Return the mean loss over the answers' tokens of the validation examples."""
        total = sum(float(self.engine.loss(row)) for row in self.val_rows)
        return total / sum(len(row.targets) for row in self.val_rows)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """See `Trainer`."""
        kept = self.optimizer.state[self.engine.values]
        return {
            name: {"step": kept["step"].clone(), **{key: part_of(kept[key], weight) for key in MOMENTS}}
            for name, weight in self.weights.items()
        }

    def set_moments(self, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """See `Trainer`."""
        values = self.engine.values
        kept = {key: torch.zeros_like(values) for key in MOMENTS}
        for name, weight in self.weights.items():
            kept["step"] = moments[name]["step"].to(values.device)
            for key in MOMENTS:
                part_of(kept[key], weight).copy_(moments[name][key])
        self.optimizer.state[values] = kept
