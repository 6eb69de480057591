"""The end of a run on NeMo: no NIM and no job of it is left, whatever happened to the tasks that had them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from airflow.sdk import BaseOperator

from flywheel.artifacts import ArtifactRoot, key_of
from flywheel.config import Config
from flywheel.jobs import CustomizeSpec
from flywheel.runs import Run
from flywheel.runtimes.base import log_job_line
from flywheel.runtimes.nemo.customizer import Customizer
from flywheel.runtimes.nemo.datastore import Datastore
from flywheel.runtimes.nemo.holds import Holds
from flywheel.runtimes.nemo.job import SPEC_SUFFIX, NemoJob
from flywheel.runtimes.nemo.nims import clear
from flywheel.runtimes.nemo.results import read_state
from flywheel.runtimes.nemo.runtime import describe
from flywheel.runtimes.nemo.services import Say, Services


class NemoSweepOperator(BaseOperator):
    """Lets go of all that a run's jobs have held, and of its data sets where they are not to be kept."""

    def execute(self, context: Any) -> None:
        """Sweep, once all of the run's jobs have ended."""
        from flywheel.orchestration.context import run_of

        run = run_of(context)
        config = run.plan.config
        if config.runtime.type == "nemo":
            sweep(run, config, partial(log_job_line, self.log))


def sweep(run: Run, config: Config, say: Say) -> list[str]:
    """Sweep after a run whose jobs have ended; return the names of the NIMs that were left behind."""
    jobs = list(_jobs(run, config))
    gone = asyncio.run(_let_go(run, config, jobs, say))
    if gone:
        say(f"WARNING NIMs that were left behind: {', '.join(gone)}")
    if not config.runtime.nemo.keep_datasets:
        names = sorted({name for job in jobs if (name := read_state(job).dataset)})
        used = asyncio.run(_used(config, jobs, say))
        datastore = Datastore(config.nmp_config, config.runtime.nemo, say)
        for name in names:
            if name not in used:
                datastore.remove(name)
                say(f"dataset {config.nmp_config.nmp_namespace}/{name} removed (runtime.nemo.keep_datasets)")
    return gone


def _jobs(run: Run, config: Config) -> list[NemoJob]:
    """Return the jobs that a run has begun."""
    found = []
    for folder in run.root.list(f"{run.path}/jobs"):
        for name in run.root.list(f"{run.path}/jobs/{folder}"):
            if name.endswith(SPEC_SUFFIX):
                url = f"{run.root.url}/{run.path}/jobs/{folder}/{name}"
                found.append(describe(name.removesuffix(SPEC_SUFFIX), url, config, run.run_id))
    return found


async def _let_go(run: Run, config: Config, jobs: list[NemoJob], say: Say) -> list[str]:
    holds = Holds(ArtifactRoot(run.root.url))
    async with Services(config.nmp_config, config.runtime.nemo, say) as services:
        for job in jobs:
            state = await asyncio.to_thread(read_state, job)
            if isinstance(job.spec, CustomizeSpec) and state.customization and state.trained is None:
                await Customizer(services, job).let_go(state.customization)
            await asyncio.to_thread(holds.drop_all, job.holder)
        async with services.lock():
            owner = key_of(config.artifacts.root)
            return await clear(services, config.nmp_config.nmp_namespace, owner, holds)


async def _used(config: Config, jobs: list[NemoJob], say: Say) -> set[str]:
    """Return the names of the data sets that customization jobs of other runs still read."""
    used: set[str] = set()
    async with Services(config.nmp_config, config.runtime.nemo, say) as services:
        for job in jobs:
            if isinstance(job.spec, CustomizeSpec):
                used |= await Customizer(services, job).datasets_in_use()
                break
    return used
