"""An evaluation on NeMo: a NIM answers the held-out prompts by its OpenAI API, NeMo Evaluator scores that.

Our own scores of the same answers fill the table, as in every runtime; the Evaluator's are kept beside them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemo_microservices import NotFoundError
from nemo_microservices.types.evaluation import EvaluationJob, EvaluationJobFilterParam

from flywheel.common.errors import JobError
from flywheel.jobs.spec import EvaluateSpec
from flywheel.runtimes.base import RefusedJobError
from flywheel.runtimes.nemo.holds import RENEW_SECONDS
from flywheel.runtimes.nemo.job import OWNER, NemoJob
from flywheel.runtimes.nemo.nims import Nims
from flywheel.runtimes.nemo.services import Pauses, Services, Unsure
from flywheel.workloads.tool_calls import calls_text, read_calls, with_arguments

SERVICE = "Evaluator"
TASK, METRIC = "agreement", "accuracy"


@dataclass(frozen=True)
class NimAnswers:
    """A student's answers to the prompts of an eval set.

    Attributes:
        texts: in the set's order.
        milliseconds: from each prompt to its answer.
        seconds: of all of them.
    """

    texts: list[str]
    milliseconds: list[float]
    seconds: float


async def answer(
    services: Services,
    nims: Nims,
    model: str,
    job: NemoJob,
    requests: Sequence[list[dict[str, Any]]],
    tools: Sequence[list[dict[str, Any]] | None],
) -> NimAnswers:
    """Have a model answer requests, some at once; calls of functions come as text, as students write them.

    Args:
        tools: what each request offers.

    Raises:
        RefusedJobError: the NIM says that a request is wrong.
        JobError: it does not answer.
    """
    assert isinstance(job.spec, EvaluateSpec)
    texts, waits = [""] * len(requests), [0.0] * len(requests)
    places = asyncio.Semaphore(services.config.parallel_requests)
    limit = job.spec.evaluation.answer_tokens
    started = renewed = said = time.monotonic()
    done = 0

    async def ask(index: int) -> None:
        nonlocal done, renewed, said
        async with places:
            began = time.monotonic()
            for attempt in range(2):
                try:
                    completion = await services.ask(
                        "NIM",
                        lambda: services.nim.chat.completions.create(
                            model=model,
                            messages=with_arguments(requests[index], as_text=True),  # type: ignore[arg-type]  # as they were logged
                            max_tokens=limit,
                            temperature=0.0,
                            # The client's type of `tools` is a list of texts; NIMs take OpenAI's objects.
                            extra_body={"tools": tools[index]} if tools[index] else None,
                        ),
                    )
                    break
                except NotFoundError as error:  # it was taken away under us, or has forgotten the adapter
                    if attempt:
                        raise JobError(f"the NIM does not know {model}: {error}") from None
                    await nims.obtain(model)
            message = completion.choices[0].message
            texts[index] = message.content or ""
            if message.tool_calls:
                logged = [call.model_dump(mode="json") for call in message.tool_calls]
                calls = read_calls(logged, "tool_calls", parse_arguments=False)
                texts[index] = "\n".join(part for part in (texts[index], calls_text(calls)) if part)
            now = time.monotonic()
            waits[index] = 1e3 * (now - began)
            done += 1
            if now - renewed > RENEW_SECONDS:
                renewed = now
                await nims.renew()
            if now - said > 30:
                said = now
                services.say(f"{done} of {len(requests)} prompts answered")

    async with asyncio.TaskGroup() as group:
        for index in range(len(requests)):
            group.create_task(ask(index))
    return NimAnswers(texts, waits, time.monotonic() - started)


class Evaluator:
    """NeMo Evaluator's job on answers that are there.

    Args:
        services: the services.
        job: an evaluation.
    """

    def __init__(self, services: Services, job: NemoJob) -> None:
        assert isinstance(job.spec, EvaluateSpec)
        self._services = services
        self._jobs = services.nemo.evaluation.jobs
        self._job = job
        self._spec = job.spec

    async def start(self, known: str | None, teacher: Sequence[str], student: Sequence[str]) -> str:
        """Return the id of the job that scores answers: the one of an earlier try, or a new one.

        Args:
            teacher, student: what is compared of each record: classes, calls or texts.
        """
        if known is not None and await self._retrieve(known) is not None:
            self._services.say(f"going on with evaluation job {known}")
            return known
        patience = self._services.patience(SERVICE)
        while True:
            found = await self._find()
            if found is not None:
                return found
            try:
                return await self._create(teacher, student)
            except Unsure as unsure:  # it may have been made: look again before a second try
                await patience.pause(unsure)

    async def accuracy(self, job_id: str) -> float:
        """Wait for the job; return the share of answers that name the teacher's class.

        Raises:
            JobError: it failed, was cancelled or is gone.
        """
        pauses = Pauses(self._services.config.poll_seconds)
        deadline = time.monotonic() + self._job.timeout_hours * 3600
        while True:
            job = await self._retrieve(job_id)
            if job is None:
                raise JobError(f"evaluation job {job_id} is gone: deleted on NeMo's side")
            if job.status == "completed":
                return await self._result(job_id)
            details = job.status_details
            if job.status in ("failed", "cancelled", "cancelling"):
                said = (details.message if details else None) or "it gives no reason"
                raise JobError(f"evaluation job {job_id} {job.status}: {said}")
            if time.monotonic() > deadline:
                await self.cancel(job_id)
                raise JobError(f"evaluation job {job_id}: not done in {self._job.timeout_hours:g} hours")
            self._services.tell(f"evaluation job {job_id} is {job.status}")
            await pauses.wait((job.status, details.progress if details else None))

    async def cancel(self, job_id: str) -> None:
        """Cancel the job; one that has ended, or is gone, is left as it is."""
        job = await self._retrieve(job_id)
        if job is None or job.status in ("completed", "failed", "cancelled"):
            return
        try:
            await self._services.ask(SERVICE, lambda: self._jobs.cancel(job_id))
        except (NotFoundError, RefusedJobError):
            return
        self._services.say(f"evaluation job {job_id} is cancelled")

    @property
    def _fields(self) -> dict[str, str]:
        """What a job is found again by, and the set in the Datastore that its rows are of."""
        return {
            OWNER: self._job.owner,
            "run": self._job.run_id,
            "job": self._job.holder,
            "dataset": f"{self._job.namespace}/{self._job.dataset}",
        }

    async def _create(self, teacher: Sequence[str], student: Sequence[str]) -> str:
        rows: list[dict[str, object]] = [
            {"teacher": label, "student": given or "-"} for label, given in zip(teacher, student, strict=True)
        ]
        check = ["{{teacher}}", "equals", "{{student}}"]
        made = await self._services.ask_once(
            SERVICE,
            lambda: self._jobs.create(
                namespace=self._job.namespace,
                description=f"{self._job.name}, by flywheel",
                target={"type": "rows", "rows": rows},
                config={
                    "type": "custom",
                    "tasks": {
                        TASK: {
                            "type": "data",
                            "metrics": {METRIC: {"type": "string-check", "params": {"check": check}}},
                        }
                    },
                },
                custom_fields={**self._fields},
            ),
        )
        if made.id is None:
            raise JobError(f"NeMo {SERVICE} made a job without an id")
        self._services.say(f"evaluation job {made.id} made")
        return made.id

    async def _find(self) -> str | None:
        """Return the id of our job whose making was not answered, if there is one that has not failed."""
        wanted = self._fields
        filters: EvaluationJobFilterParam = {"namespace": self._job.namespace, "custom_fields": wanted}
        listed = await self._services.ask(SERVICE, lambda: self._jobs.list(filter=filters, page_size=100))
        for found in listed.data:
            # Not every version filters by custom fields; a list that was not filtered is looked through here.
            if found.status not in ("failed", "cancelled") and (found.custom_fields or {}) == wanted:
                return found.id
        return None

    async def _retrieve(self, job_id: str) -> EvaluationJob | None:
        try:
            return await self._services.ask(SERVICE, lambda: self._jobs.retrieve(job_id))
        except NotFoundError:
            return None

    async def _result(self, job_id: str) -> float:
        result = await self._services.ask(SERVICE, lambda: self._jobs.results(job_id))
        task = (result.tasks or {}).get(TASK)
        metric = ((task.metrics if task else None) or {}).get(METRIC)
        scores = (metric.scores if metric else None) or {}
        if not scores:
            raise JobError(f"evaluation job {job_id}: its result has no score of {TASK}.{METRIC}")
        return float(next(iter(scores.values())).value)
