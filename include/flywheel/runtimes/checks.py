"""What `flywheel doctor` finds, and the looks that several runtimes share."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flywheel.config import Config, Student


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        state: ok; warning: a run works, but look at it; error: a run will fail.
        advice: what to do; empty when ok.
    """

    what: str
    state: Literal["ok", "warning", "error"]
    detail: str
    advice: str = ""


def weights(config: Config, *, is_here: bool) -> Iterator[Finding]:
    """Look for the files of the students' weights.

    Args:
        is_here: jobs run on this machine; else they may see other folders than this one.
    """
    for student in filter(lambda one: one.weights, config.students):
        yield _weights(student, is_here=is_here)


def _weights(student: Student, *, is_here: bool) -> Finding:
    from flywheel.jobs.weights import hub_name, local_folder
    from flywheel.students.whole import missing_in

    what = f"student {student.name}"
    folder = local_folder(student.weights) or _in_cache(hub_name(student.weights))
    state: Literal["error", "warning"] = "error" if is_here else "warning"
    elsewhere = "" if is_here else ", if the jobs do not see another folder there"
    if folder is not None:
        missing = missing_in(folder)
        if missing:
            return Finding(what, state, f"{folder}: {missing}", f"put the whole model there{elsewhere}")
        return Finding(what, "ok", str(folder))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w.-]+)?", student.weights) or student.weights.startswith("."):
        return Finding(what, state, f"{student.weights}: no such folder", f"put the model there{elsewhere}")
    if is_here and os.environ.get("HF_HUB_OFFLINE") == "1":
        return Finding(
            what,
            "error",
            f"{student.weights} is no folder and not in the cache, and HF_HUB_OFFLINE=1",
            "set `weights` to a local folder, or allow the Hugging Face Hub",
        )
    return Finding(what, "ok", f"{student.weights}, from the Hugging Face Hub when it is first used")


def _in_cache(name: str) -> Path | None:
    """Return the folder of a model of the Hugging Face Hub that is on this machine."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")
    except (ImportError, ValueError):  # not installed, or no name that the Hub could have
        return None
    return Path(found).parent if isinstance(found, str) else None


def version(package: str) -> str | None:
    """Return the version of an installed package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
