"""The frame of a training: steps, validations, the best weights, checkpoints; the same from any restart.

What a family trains, and how it takes a step, is its own.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from flywheel.common.errors import JobError, StudentError
from flywheel.config.training import TrainingConfig
from flywheel.jobs.progress import Progress, ProgressCallback
from flywheel.jobs.settings import Settings
from flywheel.students.checkpoint import load_checkpoint, save_checkpoint
from flywheel.students.outcome import TrainingOutcome, TrainingState
from flywheel.students.stopping import stop_requests

log = logging.getLogger(__name__)

# What AdamW keeps of each weight.
MOMENTS = ("exp_avg", "exp_avg_sq")
_LOG_SECONDS = 10.0
_PROGRESS_SECONDS = 0.2
# Kernels are compiled in the first step, and a step's graph is captured when its shape comes again.
_FIRST_STEPS = 4


class Trainer(ABC):
    """Weights in training.

    Args:
        weights: what is trained, by name.
        values: the same as the optimizer sees it.
        settings: with which.
        steps: of the whole training.
        validations: how many, spread evenly over the steps.
        keeps_best: the weights of the best validation are kept, and put back at the end.
        lag: steps after which a loss is read; more than 0 lets a GPU go on meanwhile.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        values: Sequence[Tensor],
        config: TrainingConfig,
        settings: Settings,
        *,
        steps: int,
        validations: int,
        keeps_best: bool,
        fused: bool = False,
        lag: int = 0,
    ) -> None:
        self.weights, self.values, self.config = weights, values, config
        self.settings, self.steps = settings, steps
        self.validation_steps = {round(steps * (n + 1) / validations) for n in range(validations)}
        self.optimizer = torch.optim.AdamW(
            list(values), lr=settings.learning_rate, weight_decay=config.weight_decay, fused=fused
        )
        self.state = TrainingState()
        self.best: dict[str, Tensor] = {}
        self._keeps_best, self._lag = keeps_best, lag
        self._unread: list[Tensor] = []

    @abstractmethod
    def backward(self) -> tuple[Tensor, int]:
        """Compute the gradient of the next step's batch; return its loss, and its samples."""

    @abstractmethod
    def val_loss(self) -> float:
        """Return the mean loss of the validation examples."""

    @abstractmethod
    def moments(self) -> dict[str, dict[str, Tensor]]:
        """Return `step` and `MOMENTS` of each weight."""

    @abstractmethod
    def set_moments(self, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on with what `moments` gave."""

    def run(
        self,
        scratch: Path | None,
        after_checkpoint: Callable[[], None] | None = None,
        progress: ProgressCallback | None = None,
        *,
        prefix: int = 0,
        compiles: bool = False,
    ) -> TrainingOutcome:
        """Train to the end.

        Args:
            scratch: folder for checkpoints, from which an earlier training goes on; None keeps none.
            after_checkpoint: called when a checkpoint was written.
            progress: told a few times a second.
            prefix: tokens of the shared prefix, for the outcome.
            compiles: whether the first steps make kernels and graphs.

        Raises:
            StudentError: the loss is not a number.
            JobError: SIGTERM ended the training; where there is a scratch folder, a checkpoint is written.
        """
        resumed_from = self.resume(scratch) if scratch is not None else None
        state, first = self.state, self.state.step
        step_seconds: list[float] = []
        with stop_requests() as stop_requested:
            started = saved = shown = logged = time.monotonic()
            seconds_before = state.seconds
            while state.step < self.steps and not state.stopped_early:
                began = time.monotonic()
                self.train_step()
                step_seconds.append(time.monotonic() - began)
                self.validate_when_due()
                now = time.monotonic()
                state.seconds = seconds_before + now - started
                is_last = state.step == self.steps or state.stopped_early
                stop = stop_requested() and not is_last
                is_due = stop or now - saved >= self.config.checkpoint_seconds
                if scratch is not None and not is_last and is_due:
                    self.save(scratch)
                    saved = time.monotonic()
                    if after_checkpoint is not None:
                        after_checkpoint()
                if stop:
                    raise JobError(
                        f"stopped by SIGTERM after step {state.step}; run again to go on from there"
                    )
                if is_last or now - shown >= _PROGRESS_SECONDS:
                    shown = now
                    told = self.progress(first, now - started)
                    if progress is not None:
                        progress(told)
                    if is_last or now - logged >= _LOG_SECONDS:
                        logged = now
                        log.info("%s", _line(told))
        val_loss = self.finish()
        return TrainingOutcome(
            state=state,
            settings=self.settings,
            steps_run=state.step - first,
            resumed_from_step=resumed_from,
            prefix=prefix,
            val_loss=val_loss,
            compile_seconds=_compile_seconds(step_seconds) if compiles else 0.0,
        )

    def train_step(self) -> None:
        """Take one optimizer step.

        Raises:
            StudentError: the loss is not a number.
        """
        rate = rate_at(self.state.step, self.steps, self.settings.learning_rate, self.config.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, samples = self.backward()
        nn.utils.clip_grad_norm_(self.values, self.config.max_grad_norm)
        self.optimizer.step()
        self.state.step += 1
        self.state.samples += samples
        self._unread.append(loss)
        self._read_losses(keep=self._lag)

    def _read_losses(self, keep: int) -> None:
        while len(self._unread) > keep:
            loss = float(self._unread.pop(0))
            if not math.isfinite(loss):
                raise StudentError(
                    f"the loss is {loss} at step {len(self.state.losses) + 1}: the training diverged; lower "
                    "training_config.learning_rate (or raise warmup_ratio)"
                )
            self.state.losses.append(loss)

    def validate_when_due(self) -> None:
        """Compute the validation loss after the steps it is due at, and decide on an early stop."""
        state = self.state
        if state.step not in self.validation_steps:
            return
        loss = self.val_loss()
        state.val_losses[str(state.step)] = loss
        if not self.keep_if_best(loss):
            state.validations_without_gain += 1
            patience = self.config.early_stop_patience
            state.stopped_early = bool(patience) and state.validations_without_gain >= patience
        log.info("step %d of %d: validation loss %.4f", state.step, self.steps, loss)

    def keep_if_best(self, loss: float) -> bool:
        """Note a validation loss, with the weights where it is the lowest; return whether it is."""
        if loss >= self.state.best_val_loss:
            return False
        self.state.best_val_loss, self.state.validations_without_gain = loss, 0
        if self._keeps_best:
            self.best = {name: weight.detach().clone() for name, weight in self.weights.items()}
        return True

    def finish(self) -> float | None:
        """Put the best weights back where they are kept; return the validation loss of what is there."""
        self._read_losses(keep=0)
        if self.best:
            self._set_weights(self.best)
        if not all(bool(weight.isfinite().all()) for weight in self.weights.values()):
            raise StudentError("the adapter's weights are not finite: lower training_config.learning_rate")
        if self.best:
            return self.state.best_val_loss
        return list(self.state.val_losses.values())[-1] if self.state.val_losses else None

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        self._read_losses(keep=0)
        tensors = {f"weight.{name}": weight for name, weight in self.weights.items()}
        tensors |= {f"best.{name}": weight for name, weight in self.best.items()}
        for name, moments in self.moments().items():
            tensors |= {f"{key}.{name}": moments[key] for key in ("step", *MOMENTS)}
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
        self.set_moments(
            {name: {key: tensors[f"{key}.{name}"] for key in ("step", *MOMENTS)} for name in self.weights}
        )
        self.best = {
            name: tensors[f"best.{name}"].to(weight.device)
            for name, weight in self.weights.items()
            if f"best.{name}" in tensors
        }
        self.state = TrainingState(**state)
        log.info("going on from the checkpoint after step %d of %d", self.state.step, self.steps)
        return self.state.step

    @torch.no_grad()
    def _set_weights(self, tensors: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])

    def progress(self, first: int, seconds: float) -> Progress:
        """Return how far the training is; `seconds` were spent on the steps after `first`."""
        state, steps = self.state, max(1, self.state.step - first)
        return Progress(
            step=state.step,
            steps=self.steps,
            loss=state.losses[-1] if state.losses else None,
            val_loss=list(state.val_losses.values())[-1] if state.val_losses else None,
            records_per_second=min(steps * self.config.batch_size, state.samples) / max(seconds, 1e-9),
            seconds_left=(self.steps - state.step) * seconds / steps,
        )


def rate_at(step: int, steps: int, highest: float, warmup_ratio: float) -> float:
    """Return the rate of a step (from 0): a linear rise over the warmup, then half a cosine down to zero."""
    warmup = round(steps * warmup_ratio)
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * done))


def _compile_seconds(steps: Sequence[float]) -> float:
    """Return what the first steps took longer than as many of the others."""
    first, others = steps[:_FIRST_STEPS], steps[_FIRST_STEPS:]
    if len(others) < len(first):
        return 0.0
    return max(0.0, sum(first) - len(first) * statistics.median(others))


def _line(progress: Progress) -> str:
    val = f", validation {progress.val_loss:.4f}" if progress.val_loss is not None else ""
    loss = f"loss {progress.loss:.4f}" if progress.loss is not None else "loss unknown yet"
    speed = f"{progress.records_per_second:.0f} records/s, {progress.seconds_left:.0f} s left"
    return f"step {progress.step} of {progress.steps}: {loss}{val}, {speed}"
