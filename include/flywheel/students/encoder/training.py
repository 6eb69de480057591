"""Fine-tune an encoder: batches of texts, AdamW, checkpoints; the same from any restart.

The weights of the best validation are kept; the first is that of the head alone, before any step.

The order of the texts follows from seed and epoch, the dropout from seed and step. So a training that was
killed and goes on from a checkpoint ends in the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from flywheel.common.errors import JobError, StudentError
from flywheel.jobs.progress import Progress
from flywheel.students.adapter import trainable
from flywheel.students.checkpoint import load_checkpoint, save_checkpoint
from flywheel.students.classifiers import Work
from flywheel.students.encoder.model import MOST_TOKENS, Encoder, batches
from flywheel.students.encoder.settings import settle
from flywheel.students.outcome import TrainingOutcome, TrainingState
from flywheel.students.stopping import stop_requests
from flywheel.students.training import rate_at

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.2
_LOG_SECONDS = 10.0


def fine_tune(encoder: Encoder, work: Work) -> TrainingOutcome:
    """Train an encoder's adapter and head, in place; losses are in nats a record.

    Raises:
        StudentError: the loss is not a number.
        JobError: SIGTERM ended the training; a checkpoint is written.
    """
    trainer = _Trainer(encoder, work)
    resumed_from = trainer.resume()
    state, first = trainer.state, trainer.state.step
    config = work.spec.training
    with stop_requests() as stop_requested:
        started = saved = shown = logged = time.monotonic()
        seconds_before = state.seconds
        while state.step < trainer.settings.steps and not state.stopped_early:
            trainer.train_step()
            trainer.validate_when_due()
            now = time.monotonic()
            state.seconds = seconds_before + now - started
            is_last = state.step == trainer.settings.steps or state.stopped_early
            stop = stop_requested() and not is_last
            if not is_last and (stop or now - saved >= config.checkpoint_seconds):
                trainer.save()
                saved = time.monotonic()
                work.keep()
            if stop:
                raise JobError(f"stopped by SIGTERM after step {state.step}; run again to go on from there")
            if is_last or now - shown >= _PROGRESS_SECONDS:
                shown = now
                told = trainer.progress(first, now - started)
                if work.progress is not None:
                    work.progress(told)
                if is_last or now - logged >= _LOG_SECONDS:
                    logged = now
                    log.info("step %d of %d, loss %.4f", state.step, told.steps, state.losses[-1])
    return TrainingOutcome(
        state=state,
        settings=trainer.settings,
        steps_run=state.step - first,
        resumed_from_step=resumed_from,
        prefix=0,
        val_loss=trainer.finish(),
    )


class _Trainer:
    """The moving parts of `fine_tune`: weights, optimizer, data order, early stop."""

    def __init__(self, encoder: Encoder, work: Work) -> None:
        self.encoder, self.work, self.config = encoder, work, work.spec.training
        place_of = {name: place for place, name in enumerate(encoder.classes)}
        self.rows = encoder.encode(work.train.texts)
        self.labels = torch.tensor([place_of[label] for label in work.train.labels])  # [N]
        known = [at for at, label in enumerate(work.val.labels) if label in place_of]
        self.val_rows = encoder.encode([work.val.texts[at] for at in known])
        self.val_labels = torch.tensor([place_of[work.val.labels[at]] for at in known])
        encoder.start_head(self.rows, self.labels.tolist())
        head = {f"head.{name}": weight for name, weight in encoder.head.named_parameters()}
        self.weights = {**trainable(encoder.model), **head}
        self.settings = settle(self.config, len(self.rows), encoder.width)
        self.each = math.ceil(len(self.rows) / self.config.batch_size)
        count = self.config.validations if known else 0
        self.validation_steps = {round(self.settings.steps * (n + 1) / count) for n in range(count)}
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()),
            lr=self.settings.learning_rate,
            weight_decay=self.config.weight_decay,
        )
        self.state = TrainingState()
        self.best: dict[str, Tensor] = {}
        if count:
            self._keep_if_best(self._val_loss())

    def train_step(self) -> None:
        """Take one optimizer step.

        Raises:
            StudentError: the loss is not a number.
        """
        step, settings = self.state.step, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(step, settings.steps, settings.learning_rate, self.config.warmup_ratio)
        epoch, index = divmod(step, self.each)
        order = np.random.default_rng([self.work.spec.seed, epoch]).permutation(len(self.rows))
        places = order[index * self.config.batch_size :][: self.config.batch_size].tolist()
        self.encoder.model.train()
        torch.manual_seed(self.work.spec.seed * 1_000_003 + step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for part, scores in self._scores([self.rows[place] for place in places]):
            right = self.labels[[places[at] for at in part]].to(scores.device)
            part_loss = cross_entropy(scores, right, reduction="sum") / len(places)
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += float(part_loss.detach())
        if not math.isfinite(loss):
            raise StudentError(
                f"the loss is {loss} at step {step + 1}: the training diverged; lower "
                "training_config.learning_rate (or raise warmup_ratio)"
            )
        nn.utils.clip_grad_norm_(self.weights.values(), self.config.max_grad_norm)
        self.optimizer.step()
        self.state.step += 1
        self.state.samples += len(places)
        self.state.losses.append(loss)

    def _scores(self, rows: Sequence[list[int]]) -> Any:
        for part in batches(rows, MOST_TOKENS[self.encoder.torch_device.type]):
            yield part, self.encoder.logits([rows[at] for at in part])

    def validate_when_due(self) -> None:
        """Compute the validation loss after the steps it is due at, and decide on an early stop."""
        state = self.state
        if state.step not in self.validation_steps:
            return
        loss = self._val_loss()
        state.val_losses[str(state.step)] = loss
        if not self._keep_if_best(loss):
            state.validations_without_gain += 1
            patience = self.config.early_stop_patience
            state.stopped_early = bool(patience) and state.validations_without_gain >= patience
        log.info("step %d of %d: validation loss %.4f", state.step, self.settings.steps, loss)

    def _keep_if_best(self, loss: float) -> bool:
        if loss >= self.state.best_val_loss:
            return False
        self.state.best_val_loss, self.state.validations_without_gain = loss, 0
        self.best = {name: weight.detach().clone() for name, weight in self.weights.items()}
        return True

    @torch.no_grad()
    def _val_loss(self) -> float:
        self.encoder.model.eval()
        total = 0.0
        for part, scores in self._scores(self.val_rows):
            right = self.val_labels[part].to(scores.device)
            total += float(cross_entropy(scores, right, reduction="sum"))
        return total / len(self.val_rows)

    def finish(self) -> float | None:
        """Put the weights of the best validation back, the first of which was before any step.

        Returns:
            Their validation loss; None without validations.
        """
        self.encoder.model.eval()
        if not self.best:
            return None
        self._set_weights(self.best)
        return self.state.best_val_loss

    def save(self) -> None:
        """Write a checkpoint."""
        tensors = {f"weight.{name}": weight for name, weight in self.weights.items()}
        tensors |= {f"best.{name}": weight for name, weight in self.best.items()}
        for name, weight in self.weights.items():
            moments = self.optimizer.state[weight]
            tensors |= {f"{key}.{name}": moments[key] for key in ("step", "exp_avg", "exp_avg_sq")}
        save_checkpoint(self.work.scratch, tensors, {**asdict(self.state), "steps": self.settings.steps})
        log.info("checkpoint after step %d of %d", self.state.step, self.settings.steps)

    def resume(self) -> int | None:
        """Go on from the scratch folder's checkpoint; return its step, or None where there is none."""
        found = load_checkpoint(self.work.scratch)
        if found is None:
            return None
        tensors, state = found
        if state.pop("steps") != self.settings.steps:
            log.warning("the checkpoint is of another training; starting from the beginning")
            return None
        self._set_weights({name: tensors[f"weight.{name}"] for name in self.weights})
        for name, weight in self.weights.items():
            moments = {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[weight] = {
                key: value if key == "step" else value.to(weight.device) for key, value in moments.items()
            }
        self.best = {
            name: tensors[f"best.{name}"].to(weight.device)
            for name, weight in self.weights.items()
            if f"best.{name}" in tensors
        }
        self.state = TrainingState(**state)
        log.info("going on from the checkpoint after step %d of %d", self.state.step, self.settings.steps)
        return self.state.step

    @torch.no_grad()
    def _set_weights(self, tensors: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])

    def progress(self, first: int, seconds: float) -> Progress:
        """Return how far the training is; `seconds` were spent on the steps after `first`."""
        state, steps = self.state, max(1, self.state.step - first)
        return Progress(
            step=state.step,
            steps=self.settings.steps,
            loss=state.losses[-1],
            val_loss=list(state.val_losses.values())[-1] if state.val_losses else None,
            records_per_second=min(steps * self.config.batch_size, state.samples) / max(seconds, 1e-9),
            seconds_left=seconds / steps * (self.settings.steps - state.step),
        )
