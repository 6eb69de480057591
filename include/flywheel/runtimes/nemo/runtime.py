"""The three parts of a job on NeMo, and the runtime that does them one after another in a process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import JobError
from flywheel.config import Config
from flywheel.evaluation.injections import injected
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.runtimes.base import Job, Runtime
from flywheel.runtimes.checks import Finding
from flywheel.runtimes.nemo import results
from flywheel.runtimes.nemo.customizer import Customizer
from flywheel.runtimes.nemo.datastore import Datastore
from flywheel.runtimes.nemo.evaluator import Evaluator, NimAnswers, answer
from flywheel.runtimes.nemo.holds import RUN_SECONDS, Holds, run_holder
from flywheel.runtimes.nemo.job import NemoJob, adapter_lock
from flywheel.runtimes.nemo.models import find_adapter
from flywheel.runtimes.nemo.nims import Nims
from flywheel.runtimes.nemo.results import NemoEvaluated, NemoTrained, read_state, split, write_state
from flywheel.runtimes.nemo.services import Say, Services
from flywheel.stages.evaluate import read_eval_records, short_prompt_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from flywheel.runs.plan import Plan
    from flywheel.runs.run import Run
    from flywheel.runtimes.nemo.operators import NemoJobOperator

log = logging.getLogger(__name__)


class NemoRuntime(Runtime):
    """Runs jobs on NeMo, where the champion is served, too."""

    defers = True
    _task: asyncio.Task[None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _killed = False

    def run(self, job: Job, log: Callable[[str], None]) -> None:
        """Run a job to its end.

        Raises:
            RefusedJobError: what it was given is wrong.
            JobError: it failed or was killed.
        """
        described = describe(job.name, job.spec, self.config, "")
        prepared = prepare(described, log)
        if prepared is not None:
            asyncio.run(self._accompany(prepared, log))
        results.keep(described)

    def kill(self) -> None:
        """End the job that `run` is running, on NeMo, too."""
        self._killed = True
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _accompany(self, job: NemoJob, say: Say) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(accompany(job, say))
        if self._killed:
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            await end(job, say)
            raise JobError(f"{job.name}: ended with its task") from None
        finally:
            self._task = None

    def planned(self, plan: Plan) -> Plan:
        """Return the plan as it is: weights are the services' own."""
        return plan

    # -- tasks of the DAG ----------------------------------------------------------------------------

    @property
    def operator(self) -> type[NemoJobOperator]:
        """The class of a job's task."""
        from flywheel.runtimes.nemo.operators import NemoJobOperator

        return NemoJobOperator

    def sweep(self) -> BaseOperator:
        """Return the task that lets go of what a run's jobs have held."""
        from flywheel.runtimes.nemo.operators import NemoSweepOperator

        return _teardown(NemoSweepOperator(task_id="sweep", execution_timeout=timedelta(minutes=10)))

    def serve(self) -> BaseOperator:
        """Return the task that has the champion served."""
        from flywheel.runtimes.nemo.operators import NemoServeOperator

        text = "Have the champion served by a NIM, and the serving alias point to it."
        return NemoServeOperator(
            task_id="serve", doc_md=text, max_active_tis_per_dag=1, execution_timeout=timedelta(hours=6)
        )

    def clean_up(self) -> BaseOperator:
        """Return the task that takes away what a run has made and nobody needs any more."""
        from flywheel.runtimes.nemo.operators import NemoCleanUpOperator

        return _teardown(NemoCleanUpOperator(task_id="clean_up", execution_timeout=timedelta(minutes=10)))

    # -- for people ----------------------------------------------------------------------------------

    def serve_now(self, run: Run, log: Say) -> None:
        """Have the champion served, and wait until it is."""
        from flywheel.runtimes.nemo.serving import ServingOrder, serve, serves_champions

        plan = run.plan
        if serves_champions(plan.config):
            order = ServingOrder.of(plan.config, plan.workload_id, plan.client_id, run.run_id)
            asyncio.run(serve(order, log))

    def check(self) -> Iterator[Finding]:
        """See that the services answer; students are theirs."""
        import httpx

        url = str(self.config.nmp_config.nemo_base_url)
        try:
            status = httpx.get(f"{url}/v1/models", timeout=10).status_code
        except httpx.HTTPError as error:
            yield Finding("NeMo", "error", f"{url}: {type(error).__name__}", "mend nmp_config, or start it")
            return
        advice = "" if status < 500 else "see the services' own logs"
        yield Finding("NeMo", "ok" if status < 500 else "warning", f"{url}: HTTP {status}", advice)


def _teardown(operator: BaseOperator) -> BaseOperator:
    operator.as_teardown()
    return operator


def describe(name: str, spec_url: str, config: Config, run_id: str) -> NemoJob:
    """Return the job of a written spec."""
    folder, file = split(spec_url)
    asked = folder.read_json(file)
    kind = EvaluateSpec if "classes" in asked else CustomizeSpec
    return NemoJob.of(name, spec_url, kind.model_validate(asked), config, run_id)


def prepare(job: NemoJob, say: Say) -> NemoJob | None:
    """Upload what a job needs; return the job as it goes on, or None where what it makes is there already.

    Raises:
        JobError, NotEnoughRecordsError: it cannot be uploaded.
    """
    holder = run_holder(job.run_id)
    with adapter_lock(job.key):  # the end of another run may be about to remove it
        if holder and isinstance(job.spec, CustomizeSpec):
            Holds(ArtifactRoot(job.spec.artifact_root)).add(f"adapter-{job.key}", holder, RUN_SECONDS)
        is_found = results.find(job)
    if is_found:
        say(f"{job.name}: found, nothing to do")
        return None
    datastore = Datastore(job.nmp, job.nemo, say)
    if isinstance(job.spec, CustomizeSpec):
        name = datastore.upload_training_set(job.spec, job.owner, holder)
    else:
        name = datastore.upload_eval_set(job.spec, job.owner, holder)
    write_state(job, read_state(job).model_copy(update={"dataset": name}))
    return job.model_copy(update={"dataset": name})


async def accompany(job: NemoJob, say: Say) -> None:
    """Have the services do a job; what it ended with is left for `results.keep`, beside the spec.

    Called again after whatever happened, it goes on with what is there. Cancelled, it leaves everything as it
    is, for the next one to go on with: `end` is for a job that nobody wants any more.

    Raises:
        RefusedJobError, JobError: it failed; then nothing of it is left running or deployed.
    """
    async with Services(job.nmp, job.nemo, say) as services:
        if isinstance(job.spec, CustomizeSpec):
            await _customize(services, job)
        else:
            await _evaluate(services, job, job.spec)


async def end(job: NemoJob, say: Say) -> None:
    """Cancel what runs for a job, and let go of its NIM."""
    state = await asyncio.to_thread(read_state, job)
    async with Services(job.nmp, job.nemo, say) as services:
        if isinstance(job.spec, CustomizeSpec):
            await Customizer(services, job).let_go(state.customization)
            return
        try:
            if state.evaluation is not None:
                await Evaluator(services, job).cancel(state.evaluation)
        finally:
            await Nims(services, job.claim).release()


async def _customize(services: Services, job: NemoJob) -> None:
    customizer = Customizer(services, job)
    state = await asyncio.to_thread(read_state, job)
    if state.trained is not None and await find_adapter(services, job.output_model):
        return
    try:
        job_id = await customizer.start(state.customization)
        await asyncio.to_thread(write_state, job, state.model_copy(update={"customization": job_id}))
        status = await customizer.wait(job_id)
    except Exception:
        await customizer.done()
        raise
    await customizer.done()
    parameters = await parameters_of(services, job)
    trained = NemoTrained(job=job_id, output_model=job.output_model, parameters=parameters, status=status)
    await asyncio.to_thread(
        write_state, job, state.model_copy(update={"customization": job_id, "trained": trained})
    )


async def _evaluate(services: Services, job: NemoJob, spec: EvaluateSpec) -> None:
    root = ArtifactRoot(spec.artifact_root)
    state = await asyncio.to_thread(read_state, job)
    records = await asyncio.to_thread(read_eval_records, root, spec)
    if state.answered is None:
        await asyncio.to_thread(results.model_of, spec)  # an adapter of another runtime is refused unread
        requests, examples = await asyncio.to_thread(results.requests_of, spec, records)
        told = injected(spec, records)
        asked = [*requests, *(one.request for one in told)]
        short = await asyncio.to_thread(short_prompt_of, root, spec)
        if short is not None:
            asked = [short.shorten(one) for one in asked]
        tools = [record.get("tools") for record in [*records, *(records[one.place] for one in told)]]
        answers = await _answers(services, job, spec, asked, tools)
        parameters = await parameters_of(services, job)
        answered = NemoEvaluated(
            texts=answers.texts[: len(records)],
            instructed=answers.texts[len(records) :],
            examples=examples,
            milliseconds=answers.milliseconds,
            seconds=answers.seconds,
            parameters=parameters,
            in_flight=min(services.config.parallel_requests, len(records)),
        )
        state = state.model_copy(update={"answered": answered})
        await asyncio.to_thread(write_state, job, state)
    else:
        answered = state.answered
    if job.nemo.evaluator and answered.evaluator is None:
        evaluator = Evaluator(services, job)
        teacher, student = await asyncio.to_thread(results.compared, spec, records, answered.texts)
        job_id = await evaluator.start(state.evaluation, teacher, student)
        state = state.model_copy(update={"evaluation": job_id})
        await asyncio.to_thread(write_state, job, state)
        accuracy = await evaluator.accuracy(job_id)
        answered = answered.model_copy(update={"evaluator": accuracy})
        await asyncio.to_thread(write_state, job, state.model_copy(update={"answered": answered}))


async def _answers(
    services: Services,
    job: NemoJob,
    spec: EvaluateSpec,
    requests: list[list[dict[str, Any]]],
    tools: list[list[dict[str, Any]] | None],
) -> NimAnswers:
    """Have the student's NIM answer the held-out prompts; it is let go of, however that ends."""
    model = await asyncio.to_thread(results.model_of, spec)
    nims = Nims(services, job.claim)
    try:
        served, _ = await nims.obtain(model)
        services.say(f"{served} answers {len(requests)} prompts")
        answers = await answer(services, nims, served, job, requests, tools)
    except Exception as error:
        with suppress(JobError):  # the first error says more
            await nims.release()
        raise _first(error) from None
    await nims.release()
    return answers


async def parameters_of(services: Services, job: NemoJob) -> int:
    """Return a student's parameters, as a target of the Customizer states them; 0 where none does."""
    targets = services.nemo.customization.targets
    listed = await services.ask("Customizer", lambda: targets.list(page_size=1000))
    student = job.student
    for target in listed.data:
        named = f"{target.namespace}/{target.name}"
        if named == student.customizer_configs.target or target.base_model == student.model_name:
            return target.num_parameters
    return 0


def _first(error: Exception) -> Exception:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error
