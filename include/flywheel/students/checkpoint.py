"""A training's state on disk: one file, written aside and renamed, so that a kill leaves the last whole."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from flywheel.common.durable import put_in_place

log = logging.getLogger(__name__)

FILE = "checkpoint.safetensors"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the one before.

    Args:
        folder: the job's scratch folder.
        tensors: weights and optimizer state.
        state: what else is needed to go on, as JSON values. JSON keeps Python floats exactly.
    """
    data = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"state": json.dumps(state)},
    )
    aside = folder / f".{FILE}.{os.getpid()}"
    aside.write_bytes(data)
    put_in_place(aside, folder / FILE)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and state of the last checkpoint; None where there is none that can be read."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118, no dict
    except Exception as error:  # cut short by a full disk, or of another format
        log.warning("%s: cannot be read (%s); the training starts from the beginning", path, error)
        return None
