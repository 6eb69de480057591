"""Who still needs what on NeMo, in small files of the artifact root.

    nemo/holds/<thing>/<holder>.json     {"until": unix seconds}

A thing is a NIM, a job that two runs wait for, an adapter or a data set. Holding is renewed while a job
lasts; what a killed one has left runs out. A run holds its adapters and data sets until its end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.errors import ArtifactError

HOLD_SECONDS = 600.0
RENEW_SECONDS = 60.0
RUN_SECONDS = 30 * 86400.0  # for a run that waits for a person, and the longest if its end never comes
FOLDER = "nemo/holds"


@dataclass(frozen=True)
class Holds:
    """The holds in an artifact root."""

    root: ArtifactRoot

    def add(self, thing: str, holder: str, seconds: float = HOLD_SECONDS) -> None:
        """Hold a thing for some time from now on."""
        self.root.write_json(f"{FOLDER}/{thing}/{holder}.json", {"until": time.time() + seconds})

    def drop(self, thing: str, holder: str) -> None:
        """Let go of a thing."""
        self.root.discard(f"{FOLDER}/{thing}/{holder}.json")

    def drop_all(self, holder: str) -> None:
        """Let go of everything."""
        for thing in self.root.list(FOLDER):
            self.drop(thing, holder)

    def are_there(self, thing: str) -> bool:
        """Return whether anybody holds it; what ran out is removed."""
        held = False
        for name in self.root.list(f"{FOLDER}/{thing}"):
            path = f"{FOLDER}/{thing}/{name}"
            if not name.endswith(".json"):
                continue
            try:
                until = float(self.root.read_json(path)["until"])
            except (ArtifactError, KeyError, TypeError, ValueError):
                continue  # dropped just now
            if until > time.time():
                held = True
            else:
                self.root.discard(path)
        return held


def run_holder(run_id: str) -> str:
    """Return who a run is among the holders; "" for no run."""
    return f"run-{key_of(run_id)}" if run_id else ""
