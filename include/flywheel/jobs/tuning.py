"""What a search of training settings tried, and what it cost."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

# Raised when the search below would give other settings for the same input.
TUNING_VERSION = "tuning 1"


class Trial(BaseModel):
    """Settings, trained for a share of their steps and examined on the validation slice.

    Attributes:
        number: of the settings; 0: those of the config.
        share: of the steps that a whole training with them takes.
        score: F1 of the chosen classes, weighted; of workloads without classes the validation loss, negated.
        loss: the training's last loss, in nats a token.
        seconds: of training and examining.
        tokens: that the training computed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    learning_rate: float
    epochs: int
    batch_size: int
    adapter_dim: int
    share: float
    score: float
    loss: float
    seconds: float
    tokens: int


class Tuning(BaseModel):
    """A search.

    Attributes:
        by: what trials are compared by.
        records: of the validation slice.
        trials: in the order in which they were made.
        chosen: number of the settings that won.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["F1", "loss"]
    records: int
    trials: tuple[Trial, ...]
    chosen: int

    def last(self, number: int) -> Trial:
        """Return the last trial of some settings, which had the largest share."""
        return next(trial for trial in reversed(self.trials) if trial.number == number)

    def sentence(self) -> str:
        """Return what was tried, what came out and what it cost."""
        best, given = self.last(self.chosen), self.last(0)
        count = len({trial.number for trial in self.trials})
        seconds, tokens = (sum(getattr(one, name) for one in self.trials) for name in ("seconds", "tokens"))
        kept = "as set" if self.chosen == 0 else f"as set {abs(given.score):.3f}"
        names = ("learning_rate", "epochs", "adapter_dim", "batch_size")
        rates, epochs, ranks, batches = (self._span(name) for name in names)
        return (
            f"tuned: of {count} settings (rates {rates}, epochs {epochs}, ranks {ranks}, batches {batches}) "
            f"rate {best.learning_rate:g}, {best.epochs} epochs, rank {best.adapter_dim} and batch "
            f"{best.batch_size} have the best validation {self.by}, {abs(best.score):.3f} ({kept}) on "
            f"{self.records} records with {best.share:.0%} of the steps; the search took {seconds:,.0f} s "
            f"and {tokens:,} tokens"
        )

    def _span(self, name: str) -> str:
        values = [getattr(trial, name) for trial in self.trials]
        low, high = min(values), max(values)
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"
