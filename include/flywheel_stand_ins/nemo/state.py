"""What the stand-in knows: entities and jobs, kept in a file, so that a restart forgets nothing."""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from starlette.responses import Response

Entity = dict[str, Any]


@dataclass
class Fault:
    """A way to misbehave.

    Attributes:
        service: whose calls: customizer, evaluator, deployment, entities, datastore or nim; "" for all.
        method: of HTTP; "" for all.
        path: part of the path; "" for all.
        name: by which its calls are counted: `fault NAME`; "" for none.
        status: that a call gets; 0: no answer, the connection is closed after `seconds`.
        after: the call is done before the wait and the status, as when its answer is lost.
        share: of the calls.
        times: how many more calls; -1: for ever.
        seconds: to wait.
        retry_after: what the header of that name says.
    """

    service: str = ""
    method: str = ""
    status: int = 500
    after: bool = False
    share: float = 1.0
    times: int = -1
    seconds: float = 0.0
    retry_after: float = 0.0
    path: str = ""
    name: str = ""


@dataclass
class NemoBehaviour:
    """How the stand-in behaves.

    Attributes:
        pending_seconds: before a job runs, and before a deployment gets ready.
        latency_seconds: before each answer.
        running_jobs: customizations that run at once; others are pending.
        failing: parts of names of output models or of deployed models, with how often they still fail.
        never_ready: part of the names of models whose deployments stay pending.
        api_key: the bearer token that a call must bring; None for none.
        faults: the first that applies to a call is what it gets.
    """

    pending_seconds: float = 0.0
    latency_seconds: float = 0.0
    running_jobs: int = 2
    failing: dict[str, int] = field(default_factory=dict)
    never_ready: str | None = None
    api_key: str | None = None
    faults: list[Fault] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def fault_of(self, service: str, method: str, path: str) -> Fault | None:
        """Return what befalls a call; None: nothing."""
        for fault in self.faults:
            if fault.times == 0 or fault.service not in ("", service) or fault.method not in ("", method):
                continue
            if fault.path in path and self._random.random() < fault.share:
                fault.times -= fault.times > 0
                return fault
        return None

    def must_fail(self, name: str) -> bool:
        """Return whether the next thing of a name fails."""
        for part, times in self.failing.items():
            if part in name and times:
                self.failing[part] = times - 1
                return True
        return False


class State:
    """All entities and jobs, by kind and name.

    Args:
        folder: where the file, the uploaded files and the work of jobs are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self._file = folder / "state.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._kinds: dict[str, dict[str, Entity]] = {}
        if self._file.exists():
            self._kinds = orjson.loads(self._file.read_bytes())

    def all(self, kind: str) -> dict[str, Entity]:
        """Return what there is of a kind, by name, oldest first."""
        return self._kinds.setdefault(kind, {})

    def put(self, kind: str, name: str, entity: Entity) -> Entity:
        """Keep an entity."""
        self.all(kind)[name] = entity
        self.save()
        return entity

    def remove(self, kind: str, name: str) -> Entity | None:
        """Forget an entity; return it, or None where it is not there."""
        found = self.all(kind).pop(name, None)
        self.save()
        return found

    def save(self) -> None:
        """Write everything down, whole or not at all."""
        aside = self._file.with_suffix(".aside")
        aside.write_bytes(orjson.dumps(self._kinds))
        os.replace(aside, self._file)

    def count(self, what: str) -> None:
        """Count something, for whoever asks what has happened."""
        self.counts[what] += 1

    def reach(self, what: str, value: int) -> None:
        """Keep the highest value of something."""
        self.counts[what] = max(self.counts[what], value)


def now() -> str:
    """Return the time as the services write it."""
    return datetime.now(UTC).isoformat()


def new_id(prefix: str) -> str:
    """Return an id as the services make them: `cust-…`."""
    return f"{prefix}-{uuid.uuid4().hex[:22]}"


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(orjson.dumps(value), status, headers, "application/json")


def problem(status: int, detail: str) -> Response:
    """Return an error as the services write it."""
    return reply({"detail": detail}, status)
