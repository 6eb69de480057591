"""Forward passes over rows that begin alike: the prefix's keys and values stay in the buffers meanwhile."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from flywheel.students.gpu.engine import KernelEngine
from flywheel.students.gpu.plan import DeviceRow, place_row
from flywheel.students.gpu.workspace import Workspace
from flywheel.students.rows import Row, Sample, Tokens, build_row

_NOTHING = np.empty(0, np.int32)
_UNSEEN = np.zeros(1, np.int32)  # a row leaves each answer's last token out


class Prefilled:
    """Computes rows without a backward pass, a prefix once for all rows that begin with it.

    Args:
        engine: The student.
        decodes: Whether each layer's own keys and values are wanted afterwards.

    Attributes:
        weights: The student's.
        space: The buffers of the last row; None before the first.
    """

    def __init__(self, engine: KernelEngine, decodes: bool = False) -> None:
        self._engine, self._decodes = engine, decodes
        self.weights = engine.weights
        self._device = engine.weights.embedding.device
        self._prefix: Tokens = _NOTHING
        self._keeps_prefix = False
        self.space: Workspace | None = None

    def __call__(self, row: Row) -> Tensor:
        """Return the last norm's output at the row's `predicting`, padded: [N or more, d]."""
        placed = place_row(row, self._device, after_prefix=True)
        prefix = row.tokens[: row.prefix].numpy()
        self._make_room(placed)
        assert self.space is not None
        if not np.array_equal(prefix, self._prefix):
            # As a sample of its own, it is causal within itself; what it predicts is not looked at.
            alone = build_row(_NOTHING, [Sample(prefix, _UNSEEN)])
            self._engine.forward(place_row(alone, self._device), self.space)
            self._prefix = prefix
        return self._engine.forward(placed, self.space)

    def _make_room(self, row: DeviceRow) -> None:
        """See to it that the buffers hold a row after its prefix; new ones hold no prefix yet."""
        space, weights = self.space, self.weights
        tokens, asked, has_prefix = row.before + len(row.tokens), len(row.loss_rows), row.before > 0
        fits = space is not None and space.tokens >= tokens and space.answers >= asked
        if fits and (self._keeps_prefix or not has_prefix):
            return
        if space is not None:
            tokens, asked = max(tokens, space.tokens), max(asked, space.answers)
        self.space = None  # the old ones go before the new ones come
        self._prefix, self._keeps_prefix = _NOTHING, self._decodes or has_prefix
        self.space = Workspace(
            weights.arch, weights.rank, tokens, asked, weights.embedding.dtype, self._device,
            keep="qkv" if self._keeps_prefix else "nothing",
        )  # fmt: skip
