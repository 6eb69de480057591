"""The cascade: what a student is not sure of, the teacher is asked, as labelling would ask it.

The request is the workload's own prompt around the text, so its answer is found by labelling and by the next
request of the same text, and is paid for once. The teacher is asked by the client of labelling, with its
limits; `teacher.budget` is what the endpoint may spend in a day (UTC), `teacher.month_budget` what it and all
runs may in a month. Where a budget is spent or the teacher gives no answer, the student's answer is sent, and
says why the teacher's was not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flywheel.common.errors import BudgetError, StoreError, TeacherError
from flywheel.config import Config
from flywheel.evaluation.cascade import Cascade
from flywheel.serving.answered import TEACHER, Answered, Completion, Escalation
from flywheel.serving.models import Models
from flywheel.serving.student import Answer, RefusedError, text_of
from flywheel.stores import RecordStore, open_store
from flywheel.teacher.client import CallError, TeacherClient
from flywheel.teacher.configured import client_of
from flywheel.teacher.endpoint import resolve_endpoints
from flywheel.teacher.known import known_answers
from flywheel.teacher.month import month_of
from flywheel.teacher.request import Requests
from flywheel.teacher.spending import Spending
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

# Answers that are remembered until they are in the store.
_REMEMBERED = 20_000
# After a failure of teacher or store, the next try waits so long.
_PAUSE_SECONDS = 5.0
# A caller waits for its answer: a teacher that is gone must be noticed sooner than at night.
_OUTAGE_SECONDS = 10.0


@dataclass(frozen=True)
class TeacherAnswer:
    """The teacher's answer to a text. Attributes: key: in the store; found: it was paid for before."""

    content: str
    label: str
    key: str
    usage: dict[str, Any]
    cost: float
    found: bool = False


class Desk:
    """Asks the teacher for the labels of texts, one at a time for each text.

    Args:
        folder: keeps what was spent today.
    """

    def __init__(self, config: Config, workload: Workload, folder: Path) -> None:
        self._config, self._workload, self._folder = config, workload, folder
        self._requests = Requests.of(workload, config.teacher)
        self._remembered: OrderedDict[str, TeacherAnswer] = OrderedDict()
        self._asked: dict[str, asyncio.Task[TeacherAnswer]] = {}
        self._client: TeacherClient | None = None
        self._opening = asyncio.Lock()
        self._day = ""
        self._store: RecordStore | None = None
        self._failed: TeacherError | None = None
        self._rests_until = self._store_rests_until = 0.0

    async def ask(self, text: str) -> TeacherAnswer:
        """Return the teacher's answer; one that is known is not asked for.

        Raises:
            TeacherError, CallError: it gives none, or none that names a class.
            BudgetError: today's is spent.
        """
        key = self._requests.key(text)
        if key in self._remembered:
            return replace(self._remembered[key], found=True, cost=0.0)
        first = key not in self._asked
        if first:
            self._asked[key] = asyncio.create_task(self._ask(key, text))
        task = self._asked[key]
        try:
            given = await asyncio.shield(task)
        finally:
            if task.done():
                self._asked.pop(key, None)
        return given if first else replace(given, found=True, cost=0.0)

    def key_of(self, asked: Completion) -> str:
        """Return under which key an answer to a request is found; empty where it is another's prompt."""
        text = self._workload.text_of(asked.messages)
        if text is None or asked.tools or asked.messages != self._workload.messages(text):
            return ""
        return self._requests.key(text)

    async def close(self) -> None:
        """Close connections."""
        for task in self._asked.values():
            task.cancel()
        await self._drop_client()
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    async def _ask(self, key: str, text: str) -> TeacherAnswer:
        given = await self._known(key)
        if given is None:
            given = await self._ask_teacher(key, text)
        self._remembered[key] = given
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return given

    async def _known(self, key: str) -> TeacherAnswer | None:
        if time.monotonic() < self._store_rests_until:
            return None

        def look() -> TeacherAnswer | None:
            self._store = self._store or open_store(self._config.store, cache_mb=4)
            known = known_answers(
                self._store, [key], lambda answer: self._workload.label_of(answer.content)
            ).get(key)
            if known is None or known.label is None:
                return None
            return TeacherAnswer(known.answer.content, known.label, key, {}, 0.0, found=True)

        try:
            return await asyncio.to_thread(look)
        except StoreError as error:
            self._store_rests_until = time.monotonic() + _PAUSE_SECONDS
            log.warning("answers that are known are not looked up: %s", error)
            return None

    async def _ask_teacher(self, key: str, text: str) -> TeacherAnswer:
        client, body = await self._open_client(), self._requests.body(text)
        try:
            async with asyncio.timeout(self._config.teacher.timeout_seconds):
                reply = await client.ask(body)
        except TimeoutError:
            raise CallError("the teacher has not answered in time (teacher.timeout_seconds)") from None
        except TeacherError as error:
            if not isinstance(error, BudgetError):
                self._failed, self._rests_until = error, time.monotonic() + _PAUSE_SECONDS
                await self._drop_client()
            raise
        client.spending.save()
        label = self._workload.label_of(reply.content)
        if label is None:
            raise CallError("the teacher's answer names no class, or several")
        paid = Spending(prices=self._config.teacher.prices)
        paid.end(0.0, body, reply.usage, written=reply.written)
        usage = {**reply.usage, "model": reply.model or self._config.teacher.model}
        return TeacherAnswer(reply.content, label, key, usage, paid.cost)

    async def _open_client(self) -> TeacherClient:
        if self._failed is not None and time.monotonic() < self._rests_until:
            raise self._failed
        async with self._opening:
            today = datetime.now(UTC).strftime("%Y-%m-%d")
            if self._client is not None and today != self._day:
                await self._drop_client()
            if self._client is None:
                teacher = self._config.teacher
                sooner = {
                    "max_attempts": min(3, teacher.max_attempts),
                    "outage_seconds": min(_OUTAGE_SECONDS, teacher.outage_seconds),
                }
                client = client_of(
                    teacher.model_copy(update=sooner),
                    await asyncio.to_thread(resolve_endpoints, teacher),
                    await asyncio.to_thread(self._spending, today),
                )
                self._client, self._day = await client.__aenter__(), today
            return self._client

    def _spending(self, today: str) -> Spending:
        """Return what this endpoint has spent today, and what it and its month may still spend."""
        teacher = self._config.teacher
        month = month_of(self._config, f"endpoint {today} {self._folder}")
        path = self._folder / "spent.json"
        return Spending(teacher.budget, teacher.prices, path=path, run_id=today, month=month)

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)


class CascadeListener:
    """Gives the teacher's answer where the champion is not sure enough; see `flywheel.serving.answered`.

    Args:
        models: whose champions have thresholds.
        desk: asks the teacher.
    """

    def __init__(self, models: Models, desk: Desk, workload: Workload) -> None:
        self._models, self._desk, self._workload = models, desk, workload
        self._known: dict[str, Cascade | None] = {}

    async def __call__(self, answered: Answered) -> Answered:
        """Return who answers in the end."""
        served = self._models.champions.get(answered.asked.model)
        answer = answered.answer
        if served is None or answered.adapter is None:
            return answered  # a candidate's, or the teacher's
        self._known[served.adapter] = served.source.cascade
        # Of the champion before, where the next one has come while it answered.
        cascade = self._known.get(answered.adapter)
        if cascade is None or answer.label is None:
            return answered
        confidence = answer.probabilities[answer.label]
        if cascade.answers(confidence):
            return answered
        began = time.monotonic()
        unsure = Escalation(answered.adapter, answer.label, confidence)
        try:
            given = await self._desk.ask(text_of(self._workload, answered.asked.messages))
        except (TeacherError, CallError, RefusedError) as error:
            return replace(answered, escalation=replace(unsure, why=str(error)))
        seconds = answered.seconds + time.monotonic() - began
        return replace(_by_teacher(answered, given, unsure), seconds=seconds)

    async def without_champion(self, asked: Completion) -> tuple[Answer, dict[str, Any], Escalation]:
        """Return the teacher's answer where there is no champion yet.

        Raises:
            TeacherError, CallError, RefusedError: there is none.
        """
        given = await self._desk.ask(text_of(self._workload, asked.messages))
        return Answer(given.content, given.label), completion_of(given), _asked(Escalation(), given)


def completion_of(given: TeacherAnswer) -> dict[str, Any]:
    """Return a teacher's answer as a completion."""
    message = {"role": "assistant", "content": given.content}
    usage = {name: count for name, count in given.usage.items() if isinstance(count, int)}
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


def _by_teacher(answered: Answered, given: TeacherAnswer, unsure: Escalation) -> Answered:
    return replace(
        answered,
        by=TEACHER,
        adapter=None,
        answer=Answer(given.content, given.label),
        completion=completion_of(given),
        escalation=_asked(unsure, given),
    )


def _asked(escalation: Escalation, given: TeacherAnswer) -> Escalation:
    return replace(
        escalation, is_answer=True, key=given.key, usage=given.usage, cost=given.cost, found=given.found
    )
