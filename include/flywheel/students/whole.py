"""Whether a folder holds a whole model, looked at without loading it. No torch here."""

from __future__ import annotations

import json
from pathlib import Path

_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# What git leaves in the place of a large file that was not fetched.
_POINTER = b"version https://git-lfs"


def missing_in(folder: Path) -> str:
    """Return what a folder lacks to be a student's weights; empty where it has all.

    Files of safetensors are as long as their own header says, all parts that an index names are there, and
    none is a pointer of git-lfs.
    """
    if not (folder / "config.json").is_file():
        return "no config.json"
    files = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern) if path.is_file())
    if not files:
        return "no weights: expected *.safetensors beside config.json"
    for index in _INDEXES:
        if (folder / index).is_file():
            try:
                parts = set(json.loads((folder / index).read_bytes())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError):
                return f"{index} is damaged"
            gone = sorted(str(part) for part in parts if not (folder / str(part)).is_file())
            if gone:
                return f"{len(gone)} of {len(parts)} files with weights are not there: {', '.join(gone[:3])}"
    for file in files:
        if problem := _damage(file):
            return f"{file.name} {problem}"
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return f"no tokenizer: expected one of {', '.join(_TOKENIZERS)}"
    return ""


def _damage(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(len(_POINTER))
        if start == _POINTER:
            return "is a pointer of git-lfs, not the weights: git lfs pull"
        if size == 0:
            return "is empty"
        if file.suffix != ".safetensors":
            return ""
        opened.seek(0)
        header = int.from_bytes(opened.read(8), "little")
        if not 0 < header <= size - 8:
            return "is cut off, or no file of safetensors"
        try:
            entries = json.loads(opened.read(header))
            ends = [
                int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"
            ]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "is no file of safetensors"
    wanted = 8 + header + max(ends, default=0)
    return f"is cut off: {size:,} bytes of {wanted:,}" if size < wanted else ""
