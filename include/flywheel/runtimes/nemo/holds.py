"""Who still needs what on NeMo, in small files of the artifact root: a NIM, or a job that two runs wait for.

    nemo/holds/<thing>/<holder>.json     {"until": unix seconds}

Holding is renewed while a job lasts; what a killed one has left runs out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from flywheel.artifacts import ArtifactRoot
from flywheel.errors import ArtifactError

HOLD_SECONDS = 600.0
RENEW_SECONDS = 60.0
FOLDER = "nemo/holds"


@dataclass(frozen=True)
class Holds:
    """The holds in an artifact root."""

    root: ArtifactRoot

    def add(self, thing: str, holder: str) -> None:
        """Hold a thing, from now on for HOLD_SECONDS."""
        self.root.write_json(f"{FOLDER}/{thing}/{holder}.json", {"until": time.time() + HOLD_SECONDS})

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
