"""Fine-tune an encoder: batches of texts, AdamW, checkpoints; the same from any restart.

The weights of the best validation are kept; the first is that of the head alone, before any step.

The order of the texts follows from seed and epoch, the dropout from seed and step. So a training that was
killed and goes on from a checkpoint ends in the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from flywheel.students.adapter import trainable
from flywheel.students.classifiers import TrainingWork
from flywheel.students.encoder.model import MOST_TOKENS, Encoder, batches
from flywheel.students.encoder.settings import settle
from flywheel.students.outcome import TrainingOutcome
from flywheel.students.trainer import Trainer


def fine_tune(encoder: Encoder, work: TrainingWork) -> TrainingOutcome:
    """Train an encoder's adapter and head, in place; losses are in nats a record.

    Raises:
        StudentError: the loss is not a number.
        JobError: SIGTERM ended the training; a checkpoint is written.
    """
    outcome = _EncoderTrainer(encoder, work).run(work.scratch, work.keep, work.progress)
    encoder.model.eval()
    return outcome


class _EncoderTrainer(Trainer):
    """The moving parts of `fine_tune`: texts, their order, the head."""

    def __init__(self, encoder: Encoder, work: TrainingWork) -> None:
        self.encoder, self.work = encoder, work
        place_of = {name: place for place, name in enumerate(encoder.classes)}
        self.rows = encoder.encode(work.train.texts)
        self.labels = torch.tensor([place_of[label] for label in work.train.labels])  # [N]
        known = [at for at, label in enumerate(work.val.labels) if label in place_of]
        self.val_rows = encoder.encode([work.val.texts[at] for at in known])
        self.val_labels = torch.tensor([place_of[work.val.labels[at]] for at in known])
        encoder.start_head(self.rows, self.labels.tolist())
        head = {f"head.{name}": weight for name, weight in encoder.head.named_parameters()}
        weights = {**trainable(encoder.model), **head}
        config = work.spec.training
        settings = settle(config, len(self.rows), encoder.width)
        super().__init__(
            weights,
            list(weights.values()),
            config,
            settings,
            steps=settings.steps,
            validations=config.validations if known else 0,
            keeps_best=True,
        )
        self.each = math.ceil(len(self.rows) / config.batch_size)
        if self.validation_steps:
            self.keep_if_best(self.val_loss())

    def backward(self) -> tuple[Tensor, int]:
        """See `Trainer`."""
        step = self.state.step
        epoch, index = divmod(step, self.each)
        order = np.random.default_rng([self.work.spec.seed, epoch]).permutation(len(self.rows))
        places = order[index * self.config.batch_size :][: self.config.batch_size].tolist()
        self.encoder.model.train()
        torch.manual_seed(self.work.spec.seed * 1_000_003 + step)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for part, scores in self._scores([self.rows[place] for place in places]):
            right = self.labels[[places[at] for at in part]].to(scores.device)
            loss = cross_entropy(scores, right, reduction="sum") / len(places)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum(), len(places)

    def _scores(self, rows: Sequence[list[int]]) -> Any:
        for part in batches(rows, MOST_TOKENS[self.encoder.torch_device.type]):
            yield part, self.encoder.logits([rows[at] for at in part])

    @torch.no_grad()
    def val_loss(self) -> float:
        """See `Trainer`."""
        self.encoder.model.eval()
        total = 0.0
        for part, scores in self._scores(self.val_rows):
            right = self.val_labels[part].to(scores.device)
            total += float(cross_entropy(scores, right, reduction="sum"))
        return total / len(self.val_rows)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """See `Trainer`."""
        return {name: self.optimizer.state[weight] for name, weight in self.weights.items()}

    def set_moments(self, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """See `Trainer`."""
        for name, weight in self.weights.items():
            self.optimizer.state[weight] = {
                key: value if key == "step" else value.to(weight.device)
                for key, value in moments[name].items()
            }
