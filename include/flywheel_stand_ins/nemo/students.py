"""The models that the stand-in has: names that NeMo has too, with the demo students' weights behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from struct import unpack

from flywheel.common.errors import StudentError
from flywheel.config.loading import find_path
from flywheel.config.student import Student

_DEMO = "include/flywheel/demo/students"
DEFAULT = {
    "meta/llama-3.2-1b-instruct": f"{_DEMO}/small",
    "meta/llama-3.2-3b-instruct": f"{_DEMO}/medium",
    "meta/llama-3.1-8b-instruct": f"{_DEMO}/large",
}
CONTEXT = 2048
VERSION = "2.0"


class Students:
    """The models, by the names that NeMo gives them.

    Args:
        weights: folders by name of the model.
    """

    def __init__(self, weights: Mapping[str, str] | None = None) -> None:
        self._weights = dict(weights or DEFAULT)
        for name, folder in self._weights.items():
            if not (Path(find_path(folder)) / "config.json").exists():
                raise StudentError(f"{name}={folder}: no folder with a model: expected config.json in it")

    @property
    def names(self) -> list[str]:
        """The models' names."""
        return list(self._weights)

    def student(self, name: str) -> Student:
        """Return a model as flywheel's own code takes it."""
        return Student(
            model_name=name, name="student", weights=self._weights[name], context_length=CONTEXT, gpus=0
        )

    def parameters(self, name: str) -> int:
        """Return the number of parameters of a model."""
        return _parameters(find_path(self._weights[name]))


@lru_cache
def _parameters(folder: str) -> int:
    """Return the parameters in a folder's safetensors files, from their headers."""
    total = 0
    for path in Path(folder).glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for side in tensor["shape"]:
                    count *= side
                total += count
    return total
