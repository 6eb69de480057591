"""How far a running job is: `X.progress.json` beside its spec, in the artifact root, for whoever looks on.

It is written at most once a second (to a remote root, once in five), and goes when the result is there.
Nothing depends on it: where it cannot be written, the job goes on without a word.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError

log = logging.getLogger(__name__)

PROGRESS_SUFFIX = ".progress.json"
_FOLDER_SECONDS, _REMOTE_SECONDS = 1.0, 5.0
_MOST_POINTS = 200


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, told every so often.

    Attributes:
        step: optimizer steps done, or prompts answered.
        steps: of all.
        loss: of the last step, in nats a token; None in an evaluation.
        val_loss: of the last validation so far.
        seconds_left: estimated from the speed of this call.
    """

    step: int
    steps: int
    loss: float | None
    val_loss: float | None
    records_per_second: float
    seconds_left: float


ProgressCallback = Callable[[Progress], None]


def telling(progress: ProgressCallback | None, total: int) -> Callable[[int], None]:
    """Return what tells of so many answers of all, at the rate since now."""
    started = time.perf_counter()

    def tell(done: int) -> None:
        if progress is not None:
            rate = done / max(time.perf_counter() - started, 1e-9)
            progress(Progress(done, total, None, None, rate, (total - done) / rate))

    return tell


class ProgressFile:
    """Takes a job's progress and writes it down now and then.

    Args:
        folder: of the job.
        name: of the file, in the folder.
    """

    def __init__(self, folder: ArtifactRoot, name: str) -> None:
        self._folder = folder
        self._name = name
        self._pause = _FOLDER_SECONDS if folder.is_folder else _REMOTE_SECONDS
        self._started_at = time.time()
        self._next = 0.0
        self._points = self._earlier_points()

    def __call__(self, progress: Progress) -> None:
        """Take a progress."""
        if progress.loss is not None:
            self._add_point(progress)
        now = time.monotonic()
        if now < self._next and progress.step < progress.steps:
            return
        self._next = now + self._pause
        try:
            self._folder.write_json(
                self._name,
                {
                    "step": progress.step,
                    "steps": progress.steps,
                    "loss": progress.loss,
                    "val_loss": progress.val_loss,
                    "records_per_second": progress.records_per_second,
                    "seconds_left": progress.seconds_left,
                    "started_at": self._started_at,
                    "updated_at": time.time(),
                    "losses": self._points,
                },
            )
        except Exception as error:
            log.debug("%s: progress not written: %s", self._name, error)

    def discard(self) -> None:
        """Remove the file."""
        try:
            self._folder.discard(self._name)
        except Exception as error:
            log.debug("%s: not removed: %s", self._name, error)

    def _add_point(self, progress: Progress) -> None:
        while self._points and self._points[-1]["step"] >= progress.step:
            self._points.pop()  # steps that are taken again, from the last checkpoint
        # A progress repeats the last validation; the curve has it at the step after which it was done.
        validations = [point["val_loss"] for point in self._points if point["val_loss"] is not None]
        is_new = not validations or progress.val_loss != validations[-1]
        val_loss = progress.val_loss if is_new else None
        self._points.append({"step": progress.step, "loss": progress.loss, "val_loss": val_loss})
        if len(self._points) > _MOST_POINTS:
            *others, last = self._points
            kept = [
                point
                for index, point in enumerate(others)
                if index == 0 or index % 2 or point["val_loss"] is not None
            ]
            self._points = [*kept, last]

    def _earlier_points(self) -> list[dict[str, Any]]:
        """Return the loss curve of the same job before it was interrupted."""
        try:
            return list(self._folder.read_json(self._name)["losses"])
        except (ArtifactError, KeyError, TypeError, OSError):
            return []
