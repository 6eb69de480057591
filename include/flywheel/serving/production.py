"""What an endpoint does beside answering: cascade, audit, traffic log."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from flywheel.common.errors import StoreError
from flywheel.config import Config
from flywheel.serving.answered import TEACHER, Answered, Listener
from flywheel.serving.escalation import CascadeListener, Desk
from flywheel.serving.models import Models
from flywheel.serving.openai import ApiError
from flywheel.serving.traffic import Segments, TrafficEntry, ship
from flywheel.serving.traffic.shipping import traffic_folder
from flywheel.stores import open_store
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

_SEED = "audit.seed"
# Without a cascade, a student that thinks its own answer less likely than wrong is unsure.
_UNSURE = 0.5
_SHIP_SECONDS = 2.0


class Production:
    """Cascade, audit and traffic log of an endpoint; an async context manager around its life.

    Args:
        config: of the experiment.
        models: of the endpoint.
    """

    def __init__(self, config: Config, models: Models) -> None:
        self._config, self._folder = config, traffic_folder(config)
        self._workload = Workload.load(config.workload)
        self._desk = Desk(config, self._workload, self._folder)
        self.cascade = CascadeListener(models, self._desk, self._workload) if config.serving.cascade else None
        self._segments: Segments | None = None
        self._shipping: asyncio.Task[None] | None = None
        self._seed = b""

    @property
    def listeners(self) -> list[Listener]:
        """Those of the answers, in order."""
        found: list[Listener] = [self.cascade] if self.cascade is not None else []
        return found + ([self.keep] if self._config.serving.log != "none" else [])

    async def __aenter__(self) -> Self:
        if self._config.serving.log != "none":
            self._segments = Segments(self._folder)
            self._seed = seed_of(self._folder)
            self._shipping = asyncio.create_task(self._ship())
        elif self.cascade is not None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._shipping is not None:
            self._shipping.cancel()
            with suppress(asyncio.CancelledError):
                await self._shipping
        if self._segments is not None:
            await self._segments.close()
            await asyncio.to_thread(self._ship_once)
        await self._desk.close()

    async def keep(self, answered: Answered) -> Answered:
        """Return the answer when it is on the disk.

        Raises:
            ApiError: it cannot be written there.
        """
        assert self._segments is not None
        try:
            await self._segments.append(self.entry(answered).line())
        except OSError as error:
            said = f"the answer cannot be logged, and is not given: {error.strerror or error}"
            log.error("%s: %s", self._folder, said)
            raise ApiError(503, said, kind="server_error", code="log_failed", retry_after=5) from None
        return answered

    def entry(self, answered: Answered) -> TrafficEntry:
        """Return what is kept of an answer."""
        asked, answer, escalation = answered.asked, answered.answer, answered.escalation
        workload_id, _, client_id = asked.model.partition(":")
        named = workload_id == self._workload.id and client_id
        by_teacher = answered.by == TEACHER
        confidence = answer.probabilities.get(answer.label) if answer.label is not None else None
        unsure = escalation is not None or (confidence is not None and confidence < _UNSURE)
        message = answered.completion["choices"][0]["message"] if answered.completion else {}
        label, key = answer.label, escalation.key if escalation else ""
        if by_teacher and label is None and self._workload.classes:
            label = self._workload.label_of(answer.text)
            key = self._desk.key_of(asked) if label is not None else ""
        share = self._config.serving.audit
        is_drawn = not by_teacher and answer.label is not None and drawn(self._seed, answered.id, share)
        notes: dict[str, Any] = {}
        if escalation is not None:
            notes = {
                "usage": escalation.usage,
                "cost": escalation.cost,
                "found": escalation.found,
                "why": escalation.why,
            }
            if by_teacher:
                notes |= {"student_label": escalation.label, "student_confidence": escalation.confidence}
        elif answered.completion is not None:
            notes["usage"] = {
                name: value
                for name, value in (answered.completion.get("usage") or {}).items()
                if isinstance(value, int)
            }
        entry = TrafficEntry(
            id=answered.id,
            at=answered.at,
            workload_id=self._workload.id,
            client_id=client_id if named else self._config.client_id,
            model=self._config.teacher.model if by_teacher else asked.model,
            messages=asked.messages,
            tools=asked.tools,
            answer=answer.text,
            tool_calls=message.get("tool_calls"),
            by=answered.by,
            adapter=answered.adapter or (escalation.adapter if escalation else None),
            label=label,
            confidence=confidence,
            unsure=unsure,
            audit=is_drawn,
            drawn=share if is_drawn else None,
            key=key,
            seconds=round(answered.seconds, 6),
            caller=answered.caller,
            **notes,
        )
        return entry if self._config.serving.log == "all" else entry.without_texts()

    async def _ship(self) -> None:
        assert self._segments is not None
        while True:
            await asyncio.sleep(_SHIP_SECONDS)
            await self._segments.close_old()
            await asyncio.to_thread(self._ship_once)

    def _ship_once(self) -> None:
        try:
            if any(self._folder.glob("*.jsonl")):
                with open_store(self._config.store, cache_mb=4) as store:
                    ship(self._folder, store, self._workload)
        except (StoreError, OSError) as error:
            log.warning("requests wait in %s: %s", self._folder, error)


def seed_of(folder: Path) -> bytes:
    """Return the secret that the audit is drawn by, made where there is none: none can tell what is drawn."""
    path = folder / _SEED
    aside = folder / f".{_SEED}.{os.getpid()}"
    if not path.exists():
        aside.write_bytes(secrets.token_bytes(32))
        aside.chmod(0o600)
        with suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    return path.read_bytes()


def drawn(seed: bytes, request_id: str, share: float) -> bool:
    """Return whether a request is drawn, by a hash of its id: what was asked has no part in it."""
    number = int.from_bytes(hmac.digest(seed, request_id.encode(), "sha256")[:8], "big")
    return number < share * 2**64
