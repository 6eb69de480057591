"""NeMo Customizer: one LoRA job for an adapter, found again by the adapter's name whatever happened to us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from nemo_microservices import ConflictError, NotFoundError, omit
from nemo_microservices.types import CustomizationConfig, CustomizationTarget
from nemo_microservices.types.customization import (
    CustomizationJob,
    CustomizationJobListFilterParam,
    CustomizationStatusDetails,
)
from nemo_microservices.types.shared import JobStatus

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.errors import JobError
from flywheel.jobs.result import LossPoint
from flywheel.jobs.settings import settle
from flywheel.jobs.spec import CustomizeSpec
from flywheel.runtimes.base import RefusedJobError
from flywheel.runtimes.nemo.holds import RENEW_SECONDS, Holds
from flywheel.runtimes.nemo.job import OWNER, NemoJob, hyperparameters, slug, training_options
from flywheel.runtimes.nemo.models import find_adapter
from flywheel.runtimes.nemo.results import loss_curve
from flywheel.runtimes.nemo.services import Pauses, Services, Unsure

SERVICE = "Customizer"
ACTIVE: tuple[JobStatus, ...] = ("created", "pending", "running", "cancelling")
_OVER = ("completed", "ready", "failed", "cancelled")
_SAY_SECONDS = 30.0
CURVE_LINES = 20


class Customizer:
    """Customization jobs of one flywheel job.

    Args:
        services: the services.
        job: a customization.
    """

    def __init__(self, services: Services, job: NemoJob) -> None:
        assert isinstance(job.spec, CustomizeSpec)
        self._services = services
        self._jobs = services.nemo.customization.jobs
        self._job = job
        self._spec = job.spec
        self._holds = Holds(ArtifactRoot(job.spec.artifact_root))
        self._thing = f"job-{job.key}"

    async def start(self, known: str | None) -> str:
        """Return the id of the job on NeMo that makes the adapter: one that runs, or is done, or a new one.

        Args:
            known: the id that an earlier try left.

        Raises:
            RefusedJobError, JobError: the Customizer does not take it; no place became free in time.
        """
        await self._hold()
        if known is not None:
            job = await self._retrieve(known)
            if job is not None and await self._is_of_use(job):
                self._services.say(f"going on with customization job {known}")
                return known
        config = await self._config()
        patience = self._services.patience(SERVICE)
        deadline = time.monotonic() + self._services.config.wait_hours * 3600
        pauses = Pauses(self._services.config.poll_seconds)
        while True:
            async with self._services.lock():
                found, ended = await self._earlier()
                if found is not None:
                    self._services.say(f"going on with customization job {found}")
                    return found
                running = await self._running()
                if running < self._services.config.parallel_jobs:
                    try:
                        return await self._create(config, ended)
                    except Unsure as unsure:
                        error: Unsure | None = unsure
                else:
                    error = None
            if error is not None:  # it may have been made: look again before a second try
                await patience.pause(error)
                continue
            limit = self._services.config.parallel_jobs
            self._services.tell(
                f"waiting: {running} customization jobs run (runtime.nemo.parallel_jobs: {limit})"
            )
            if time.monotonic() > deadline:
                hours = self._services.config.wait_hours
                raise JobError(f"no place for a customization job in {hours:g} h (runtime.nemo.wait_hours)")
            await self._hold()
            await pauses.wait(None)

    async def wait(self, job_id: str) -> CustomizationStatusDetails:
        """Wait until the job has ended well; its progress goes into the log.

        Raises:
            JobError: it failed, was cancelled, is gone, or takes longer than `runtime.job_timeout_hours`.
        """
        deadline = time.monotonic() + self._job.timeout_hours * 3600
        pauses = Pauses(self._services.config.poll_seconds)
        said_at = 0.0
        held_at = time.monotonic()
        while True:
            if time.monotonic() - held_at > RENEW_SECONDS:
                await self._hold()
                held_at = time.monotonic()
            status = await self._status(job_id)
            if status.status in ("completed", "ready"):
                for line in curve_lines(loss_curve(status)):
                    self._services.say(line)
                self._services.say(progress_line(status))
                return status
            if status.status == "failed":
                raise JobError(f"customization job {job_id} failed: {_reason(status)}")
            if status.status in ("cancelled", "cancelling"):
                raise JobError(f"customization job {job_id} was cancelled on NeMo's side")
            line = progress_line(status)
            if status.status != "running":
                waits = _last_log(status)
                self._services.tell(
                    f"customization job {job_id} is {status.status}{f': {waits}' if waits else ''}"
                )
            elif time.monotonic() - said_at > _SAY_SECONDS:
                self._services.tell(line)
                said_at = time.monotonic()
            if time.monotonic() > deadline:
                await self.cancel(job_id)
                hours = self._job.timeout_hours
                raise JobError(
                    f"customization job {job_id}: not done in {hours:g} hours; "
                    "raise runtime.job_timeout_hours"
                )
            await pauses.wait((status.status, status.steps_completed, status.percentage_done))

    async def cancel(self, job_id: str) -> None:
        """Cancel the job; one that has ended, or is gone, is left as it is."""
        job = await self._retrieve(job_id)
        if job is None or job.status in _OVER:
            return
        try:
            await self._services.ask(SERVICE, lambda: self._jobs.cancel(job_id))
        except (ConflictError, NotFoundError, RefusedJobError):  # it has ended meanwhile
            return
        self._services.say(f"customization job {job_id} is cancelled")

    async def let_go(self, job_id: str | None) -> None:
        """Cancel the job, unless another run waits for the same adapter.

        Args:
            job_id: as far as it is known.
        """
        await asyncio.to_thread(self._holds.drop, self._thing, self._job.holder)
        if await asyncio.to_thread(self._holds.are_there, self._thing):
            self._services.say("another run waits for the same customization job: it goes on")
            return
        job_id = job_id or (await self._earlier())[0]
        if job_id is not None:
            await self.cancel(job_id)

    async def done(self) -> None:
        """Forget that we wait for the job: it has ended."""
        await asyncio.to_thread(self._holds.drop, self._thing, self._job.holder)

    async def _hold(self) -> None:
        await asyncio.to_thread(self._holds.add, self._thing, self._job.holder)

    # -- job -----------------------------------------------------------------------------------------

    async def _create(self, config: str, ended: int) -> str:
        """Make the job.

        Raises:
            Unsure: it may or may not have been made.
        """
        job, spec = self._job, self._spec
        # The name is taken by the first who makes it: where two try, the other finds the first one's job.
        name = f"{job.output_model.split('/', 1)[1]}-{ended + 1}"
        try:
            made = await self._services.ask_once(
                SERVICE,
                lambda: self._jobs.create(
                    name=name,
                    namespace=job.namespace,
                    description=f"{job.name}, by flywheel",
                    config=config,
                    dataset={"namespace": job.namespace, "name": job.dataset},
                    hyperparameters=hyperparameters(spec),  # a dict with the keys of that TypedDict
                    output_model=job.output_model,
                    custom_fields={OWNER: job.owner, "run": job.run_id, "job": name},
                ),
            )
        except ConflictError as error:
            raise Unsure(f"a job {name} is there already") from error
        except NotFoundError as error:
            # Such as a data set that another run has just removed: the next try uploads it again.
            raise JobError(f"NeMo {SERVICE}: {config} or {job.dataset} is not known there: {error}") from None
        if made.id is None:
            raise JobError(f"NeMo {SERVICE} made a job without an id")
        self._services.say(f"customization job {made.id} made: {job.output_model}")
        for doubt in settle(spec.training, spec.size, None).doubts:
            self._services.say(f"WARNING {doubt}")
        for warning in made.warnings or ():
            self._services.say(f"WARNING {warning.message} {warning.explanation or ''}".rstrip())
        return made.id

    async def _earlier(self) -> tuple[str | None, int]:
        """Return the id of a job for our adapter that runs or is done, and how many others there were."""
        ended = 0
        async for found in self._list({"namespace": self._job.namespace}):
            if found.output_model is None or not _same_model(found.output_model, self._job.output_model):
                continue
            if await self._is_of_use(found):
                return found.id, ended
            ended += 1
        return None, ended

    async def _is_of_use(self, job: CustomizationJob) -> bool:
        """Return whether a job will give the adapter, or has given it and it is there."""
        if job.status in ("completed", "ready"):
            return bool(await find_adapter(self._services, self._job.output_model))
        return job.status not in ("failed", "cancelled", "cancelling")

    async def _running(self) -> int:
        """Return how many jobs of any flywheel are not over in the namespace."""
        count = 0
        for status in ACTIVE:
            async for found in self._list({"namespace": self._job.namespace, "status": status}):
                count += OWNER in (found.custom_fields or {})
        return count

    async def datasets_in_use(self) -> set[str]:
        """Return the names of the data sets of jobs that are not over."""
        used = set()
        for status in ACTIVE:
            async for found in self._list({"namespace": self._job.namespace, "status": status}):
                dataset = found.dataset
                name = dataset if isinstance(dataset, str) else getattr(dataset, "name", None)
                used.add((name or "").rsplit("/", 1)[-1])
        return used

    async def _list(self, filters: CustomizationJobListFilterParam) -> AsyncIterator[CustomizationJob]:
        page = 1
        while True:
            listed = await self._services.ask(
                SERVICE,
                lambda page=page: self._jobs.list(
                    filter=filters, page=page, page_size=100, sort="-created_at"
                ),  # type: ignore[misc]  # mypy sees no type in a lambda's default
            )
            for found in listed.data:
                yield found
            if len(listed.data) < 100:
                return
            page += 1

    async def _retrieve(self, job_id: str) -> CustomizationJob | None:
        try:
            return await self._services.ask(SERVICE, lambda: self._jobs.retrieve(job_id))
        except NotFoundError:
            return None

    async def _status(self, job_id: str) -> CustomizationStatusDetails:
        try:
            return await self._services.ask(SERVICE, lambda: self._jobs.status(job_id))
        except NotFoundError:
            raise JobError(f"customization job {job_id} is gone: deleted on NeMo's side") from None

    # -- config and target ---------------------------------------------------------------------------

    async def _config(self) -> str:
        """Return the name of a config for our target, GPUs and length, made where there is none."""
        wanted = self._spec.student.customizer_configs
        target = await self._target()
        length = wanted.max_seq_length or self._spec.student.context_length
        options, more = training_options(wanted)
        name = f"flywheel-{slug(target)[:40]}-{key_of(target, wanted.gpus, length, *more)[:8]}"
        full = f"{self._job.namespace}/{name}"
        if await self._find_config(full) is not None:
            return full
        configs = self._services.nemo.customization.configs
        try:
            await self._services.ask(
                SERVICE,
                lambda: configs.create(
                    name=name,
                    namespace=self._job.namespace,
                    description="made by flywheel",
                    target=target,
                    max_seq_length=length,
                    training_options=[options],
                    training_precision=wanted.training_precision or omit,
                    custom_fields={OWNER: self._job.owner},
                ),
            )
        except ConflictError:  # somebody else has just made it
            pass
        else:
            self._services.say(f"customization config {full} made for target {target}")
        return full

    async def _target(self) -> str:
        """Return the full name of the target to customize: the configured one, else one of the student."""
        student = self._spec.student
        wanted = student.customizer_configs.target
        if wanted is not None:
            found = await self._find_target(wanted)
            if found is None:
                there = ", ".join(sorted([name async for name in self._target_names()])) or "none"
                raise RefusedJobError(
                    f"customizer_configs.target {wanted!r} of {student.name}: the Customizer has no such "
                    f"target; it has {there}"
                )
            if found.enabled is False:
                raise RefusedJobError(f"customizer_configs.target {wanted!r}: that target is not enabled")
            return wanted
        fitting = [name async for name in self._target_names(student.model_name)]
        if not fitting:
            there = ", ".join(sorted([name async for name in self._target_names()])) or "none"
            raise RefusedJobError(
                f"{student.name}: the Customizer has no enabled target for {student.model_name}; name one as "
                f"customizer_configs.target; it has {there}"
            )
        return max(fitting)

    async def _target_names(self, base_model: str | None = None) -> AsyncIterator[str]:
        targets = self._services.nemo.customization.targets
        listed = await self._services.ask(SERVICE, lambda: targets.list(page_size=1000))
        for target in listed.data:
            if base_model is None or (target.base_model == base_model and target.enabled is not False):
                yield f"{target.namespace}/{target.name}"

    async def _find_target(self, name: str) -> CustomizationTarget | None:
        namespace, _, rest = name.rpartition("/")
        targets = self._services.nemo.customization.targets
        try:
            return await self._services.ask(SERVICE, lambda: targets.retrieve(rest, namespace=namespace))
        except NotFoundError:
            return None

    async def _find_config(self, name: str) -> CustomizationConfig | None:
        namespace, _, rest = name.rpartition("/")
        configs = self._services.nemo.customization.configs
        try:
            found = await self._services.ask(SERVICE, lambda: configs.retrieve(rest, namespace=namespace))
        except NotFoundError:
            return None
        return CustomizationConfig.model_validate(found.model_dump())


def progress_line(status: CustomizationStatusDetails) -> str:
    """Return how far a job is, as a line of the log."""
    parts = [f"{status.percentage_done or 0:.0f} %"]
    if status.steps_completed is not None:
        parts.append(f"step {status.steps_completed}")
    if status.epochs_completed is not None:
        parts.append(f"epoch {status.epochs_completed}")
    if status.train_loss is not None:
        parts.append(f"loss {status.train_loss:.4f}")
    if status.val_loss is not None:
        parts.append(f"validation loss {status.val_loss:.4f}")
    return f"customization {status.status}: {', '.join(parts)}"


def curve_lines(points: Sequence[LossPoint]) -> list[str]:
    """Return a loss curve as some lines of the log: every validation, and points between, evenly."""
    every = -(-len(points) // CURVE_LINES)
    lines = []
    for index, point in enumerate(points):
        if point.val_loss is not None:
            lines.append(f"step {point.step}: loss {point.loss:.4f}, validation loss {point.val_loss:.4f}")
        elif index % every == 0 or index == len(points) - 1:
            lines.append(f"step {point.step}: loss {point.loss:.4f}")
    return lines


def _same_model(made: str, asked: str) -> bool:
    """Return whether a job's output model is the asked one; the Customizer may add a version: `@cust-…`."""
    return made == asked or made.startswith(f"{asked}@")


def _reason(status: CustomizationStatusDetails) -> str:
    logs = status.status_logs or []
    details = [log.detail for log in logs if log.detail]
    return (details or [log.message for log in logs if log.message] or ["it gives no reason"])[-1] or ""


def _last_log(status: CustomizationStatusDetails) -> str:
    logs = status.status_logs or []
    return (logs[-1].message or "") if logs else ""
