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
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flywheel.common.errors import JobError, StudentError
from flywheel.config.training import TrainingConfig
from flywheel.jobs.progress import Progress, ProgressCallback
from flywheel.jobs.settings import settle
from flywheel.students.adapter import trainable
from flywheel.students.checkpoint import load_checkpoint, save_checkpoint
from flywheel.students.engine import engine_for
from flywheel.students.flat import part_of
from flywheel.students.loading import width_of
from flywheel.students.outcome import TrainingOutcome, TrainingState
from flywheel.students.rows import Sample, Tokens, build_row, common_prefix, fill_rows
from flywheel.students.stopping import stop_requests

log = logging.getLogger(__name__)

# Longest row in tokens: bounds the memory for activations. On a GPU it is halved when memory runs out.
MOST_TOKENS = {"cpu": 16_384, "cuda": 65_536}
# What AdamW keeps of each weight.
MOMENTS = ("exp_avg", "exp_avg_sq")
_LOG_SECONDS = 10.0
_PROGRESS_SECONDS = 0.2
# Kernels are compiled in the first step, and a step's graph is captured when its shape comes again.
_FIRST_STEPS = 4


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
    resumed_from = trainer.resume(scratch) if scratch is not None else None
    first = trainer.state.step
    with stop_requests() as stop_requested:
        started = saved = shown = logged = time.monotonic()
        seconds_before = trainer.state.seconds
        state = trainer.state
        step_seconds: list[float] = []
        while state.step < trainer.steps and not state.stopped_early:
            began = time.monotonic()
            trainer.train_step()
            step_seconds.append(time.monotonic() - began)
            trainer.validate_when_due()
            now = time.monotonic()
            state.seconds = seconds_before + now - started
            is_last = state.step == trainer.steps or state.stopped_early
            stop = stop_requested() and not is_last
            if scratch is not None and not is_last and (stop or now - saved >= config.checkpoint_seconds):
                trainer.save(scratch)
                saved = time.monotonic()
                if after_checkpoint is not None:
                    after_checkpoint()
            if stop:
                raise JobError(f"stopped by SIGTERM after step {state.step}; run again to go on from there")
            if is_last or now - shown >= _PROGRESS_SECONDS:
                shown = now
                now_at = trainer.progress(first, now - started)
                if progress is not None:
                    progress(now_at)
                if is_last or now - logged >= _LOG_SECONDS:
                    logged = now
                    log.info("%s", _line(now_at))
    val_loss = trainer.finish()
    return TrainingOutcome(
        state=state,
        settings=trainer.settings,
        steps_run=state.step - first,
        resumed_from_step=resumed_from,
        prefix=len(trainer.prefix),
        val_loss=val_loss,
        compile_seconds=_compile_seconds(step_seconds) if trainer.engine.device.type != "cpu" else 0.0,
    )


def _compile_seconds(steps: Sequence[float]) -> float:
    """Return what the first steps took longer than as many of the others."""
    first, others = steps[:_FIRST_STEPS], steps[_FIRST_STEPS:]
    if len(others) < len(first):
        return 0.0
    return max(0.0, sum(first) - len(first) * statistics.median(others))


def rate_at(step: int, steps: int, highest: float, warmup_ratio: float) -> float:
    """Return the rate of a step (from 0): a linear rise over the warmup, then half a cosine down to zero."""
    warmup = round(steps * warmup_ratio)
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * done))


class _Trainer:
    """The moving parts of `fine_tune`: weights, optimizer, data order, early stop."""

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
        self.weights = trainable(model)
        self.train, self.config, self.seed = train, config, seed
        self.most_tokens = most_tokens or MOST_TOKENS.get(self.engine.device.type, MOST_TOKENS["cpu"])
        shared = common_prefix([sample.prompt for sample in (*train, *val)])
        self.prefix: Tokens = train[0].prompt[:shared]
        self.val_rows = [
            build_row(self.prefix, samples)
            for samples in fill_rows(shared, sorted(val, key=len), self.most_tokens)
        ]
        self.settings = settle(config, len(train), width_of(model))
        for doubt in self.settings.doubts:
            log.warning("%s", doubt)
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self.steps = max(1, math.ceil(self.settings.steps * share))
        validations = config.validations if val else 0
        self.validation_steps = {round(self.steps * (n + 1) / validations) for n in range(validations)}
        self.optimizer = torch.optim.AdamW(
            [self.engine.values],
            lr=self.settings.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.state = TrainingState()
        self.best: dict[str, Tensor] = {}
        self._order: tuple[int, np.ndarray[Any, np.dtype[np.int64]]] = (-1, np.empty(0, np.int64))
        # On a GPU the loss of a step is read after the next one is under way, so that the GPU never waits.
        self._unread: list[Tensor] = []
        self._lag = 0 if self.engine.device.type == "cpu" else 1

    # -- steps ---------------------------------------------------------------------------------------

    def train_step(self) -> None:
        """Take one optimizer step."""
        step = self.state.step
        samples = self._batch(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(step, self.steps, self.settings.learning_rate, self.config.warmup_ratio)
        while True:
            try:
                loss = self._backward(samples, step)
                break
            except torch.OutOfMemoryError:
                self.most_tokens = min(self.most_tokens, len(self.prefix) + sum(map(len, samples))) // 2
                if self.most_tokens <= len(self.prefix) + max(len(s) - len(self.prefix) for s in samples):
                    raise
                log.warning("out of GPU memory: rows of at most %d tokens from here on", self.most_tokens)
                torch.cuda.empty_cache()
        nn.utils.clip_grad_norm_([self.engine.values], self.config.max_grad_norm)
        self.optimizer.step()
        self.state.step += 1
        self.state.samples += len(samples)
        self._unread.append(loss)
        self._read_losses(keep=self._lag)

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

    def _read_losses(self, keep: int) -> None:
        while len(self._unread) > keep:
            loss = float(self._unread.pop(0))
            if not math.isfinite(loss):
                step = len(self.state.losses) + 1
                raise StudentError(
                    f"the loss is {loss} at step {step}: the training diverged; lower "
                    "training_config.learning_rate (or raise warmup_ratio)"
                )
            self.state.losses.append(loss)

    # -- validation ----------------------------------------------------------------------------------

    def validate_when_due(self) -> None:
        """Compute the validation loss after the steps it is due at, and decide on an early stop."""
        state = self.state
        if state.step not in self.validation_steps:
            return
        loss = self.val_loss()
        state.val_losses[str(state.step)] = loss
        if loss < state.best_val_loss:
            state.best_val_loss, state.validations_without_gain = loss, 0
            if self.config.early_stop_patience:
                self.best = {name: weight.detach().clone() for name, weight in self.weights.items()}
        else:
            state.validations_without_gain += 1
            patience = self.config.early_stop_patience
            state.stopped_early = bool(patience) and state.validations_without_gain >= patience
        log.info("step %d of %d: validation loss %.4f", state.step, self.steps, loss)

    def val_loss(self) -> float:
        """Return the mean loss over the answers' tokens of the validation examples."""
        total = sum(float(self.engine.loss(row)) for row in self.val_rows)
        return total / sum(len(row.targets) for row in self.val_rows)

    def finish(self) -> float | None:
        """Put the best weights back where an early stop watches for them; return their validation loss."""
        self._read_losses(keep=0)
        if self.best:
            self._set_weights(self.best)
        if not all(bool(weight.isfinite().all()) for weight in self.weights.values()):
            raise StudentError("the adapter's weights are not finite: lower training_config.learning_rate")
        if not self.state.val_losses:
            return None
        return self.state.best_val_loss if self.best else list(self.state.val_losses.values())[-1]

    # -- checkpoints ---------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        self._read_losses(keep=0)
        tensors = {f"weight.{name}": weight for name, weight in self.weights.items()}
        tensors |= {f"best.{name}": weight for name, weight in self.best.items()}
        moments = self.optimizer.state[self.engine.values]
        for name, weight in self.weights.items():
            tensors[f"step.{name}"] = moments["step"].clone()
            tensors |= {f"{key}.{name}": part_of(moments[key], weight) for key in MOMENTS}
        save_checkpoint(folder, tensors, {**asdict(self.state), "steps": self.steps})
        log.info("checkpoint after step %d of %d", self.state.step, self.steps)

    def resume(self, folder: Path) -> int | None:
        """Go on from the checkpoint in a folder; return its step, or None where there is none that fits."""
        found = load_checkpoint(folder)
        if found is None:
            return None
        tensors, state = found
        if state.pop("steps") != self.steps:
            log.warning("the checkpoint in %s is of another training; starting from the beginning", folder)
            return None
        self._set_weights({name: tensors[f"weight.{name}"] for name in self.weights})
        values = self.engine.values
        moments = {key: torch.zeros_like(values) for key in MOMENTS}
        for name, weight in self.weights.items():
            moments["step"] = tensors[f"step.{name}"].to(values.device)
            for key in MOMENTS:
                part_of(moments[key], weight).copy_(tensors[f"{key}.{name}"])
        self.optimizer.state[values] = moments
        self.best = {
            name: tensors[f"best.{name}"].to(weight.device)
            for name, weight in self.weights.items()
            if f"best.{name}" in tensors
        }
        self.state = TrainingState(**state)
        log.info("going on from the checkpoint after step %d of %d", self.state.step, self.steps)
        return self.state.step

    @torch.no_grad()
    def _set_weights(self, tensors: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])

    def progress(self, first: int, seconds: float) -> Progress:
        """Return how far the training is; `seconds` were spent on the steps after `first`."""
        state = self.state
        steps = max(1, state.step - first)
        done = min(steps * self.config.batch_size, state.samples)
        return Progress(
            step=state.step,
            steps=self.steps,
            loss=state.losses[-1] if state.losses else None,
            val_loss=list(state.val_losses.values())[-1] if state.val_losses else None,
            records_per_second=done / max(seconds, 1e-9),
            seconds_left=(self.steps - state.step) * seconds / steps,
        )


def _line(progress: Progress) -> str:
    val = f", validation {progress.val_loss:.4f}" if progress.val_loss is not None else ""
    loss = f"loss {progress.loss:.4f}" if progress.loss is not None else "loss unknown yet"
    speed = f"{progress.records_per_second:.0f} records/s, {progress.seconds_left:.0f} s left"
    return f"step {progress.step} of {progress.steps}: {loss}{val}, {speed}"
