"""What a run leaves on NeMo when it ends: the champion's NIM, and what the config wants kept.

After its jobs, whatever happened to the tasks that had them, no NIM and no job of it is left (`sweep`). At
its very end the adapters go that nobody needs, and a NIM that was to serve a champion in vain (`clean_up`).
"""

from __future__ import annotations

import asyncio

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.config import Config
from flywheel.jobs.spec import CustomizeSpec
from flywheel.promotion.champion import champion_adapters
from flywheel.runs.run import Run
from flywheel.runtimes.nemo.customizer import Customizer
from flywheel.runtimes.nemo.datastore import Datastore
from flywheel.runtimes.nemo.holds import Holds, run_holder
from flywheel.runtimes.nemo.job import SPEC_SUFFIX, NemoJob, adapter_lock
from flywheel.runtimes.nemo.models import remove_adapter
from flywheel.runtimes.nemo.nims import clear
from flywheel.runtimes.nemo.results import NemoJobState, read_state, write_state
from flywheel.runtimes.nemo.runtime import describe
from flywheel.runtimes.nemo.services import Say, Services
from flywheel.runtimes.nemo.serving import ServingOrder, let_go


def sweep(run: Run, config: Config, say: Say) -> list[str]:
    """Sweep after a run whose jobs have ended; return the names of the NIMs that were left behind."""
    jobs = list(_jobs(run, config))
    gone = asyncio.run(_let_go(run, config, jobs, say))
    if gone:
        say(f"WARNING NIMs that were left behind: {', '.join(gone)}")
    holds, holder = Holds(run.root), run_holder(run.run_id)
    names = sorted({name for job in jobs if (name := read_state(job).dataset)})
    for name in names:
        holds.drop(f"dataset-{name}", holder)
    if not config.runtime.nemo.keep_datasets:
        used = asyncio.run(_used(config, jobs, say))
        datastore = Datastore(config.nmp_config, config.runtime.nemo, say)
        for name in names:
            if name not in used and datastore.remove(name, key_of(config.artifacts.root), holds):
                say(f"dataset {config.nmp_config.nmp_namespace}/{name} removed (runtime.nemo.keep_datasets)")
    return gone


def clean_up(run: Run, config: Config, say: Say) -> list[str]:
    """Clean up after a run that has ended; return the names of the adapters that went."""
    plan = run.plan
    gone = asyncio.run(let_go(ServingOrder.of(config, plan.workload_id, plan.client_id, run.run_id), say))
    if gone:
        say(f"WARNING NIMs that were left behind: {', '.join(gone)}")
    removed = []
    champions = champion_adapters(run.root)
    for job in _jobs(run, config):
        if not isinstance(job.spec, CustomizeSpec):
            continue
        with adapter_lock(job.key):
            Holds(run.root).drop(f"adapter-{job.key}", run_holder(run.run_id))
            if not config.runtime.nemo.keep_adapters and _is_for_us_to_remove(run.root, job, champions):
                _remove_adapter(run.root, job, say)
                removed.append(job.output_model)
    if removed:
        say(f"{len(removed)} adapters removed (runtime.nemo.keep_adapters)")
    return removed


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
    """Return the names of the data sets that customization jobs of any flywheel still read."""
    used: set[str] = set()
    async with Services(config.nmp_config, config.runtime.nemo, say) as services:
        for job in jobs:
            if isinstance(job.spec, CustomizeSpec):
                used |= await Customizer(services, job).datasets_in_use()
                break
    return used


def _is_for_us_to_remove(root: ArtifactRoot, job: NemoJob, champions: set[str]) -> bool:
    """Return whether an adapter was made by this run, is no champion's, and no other run holds it."""
    is_made_here = read_state(job).trained is not None
    return is_made_here and job.key not in champions and not Holds(root).are_there(f"adapter-{job.key}")


def _remove_adapter(root: ArtifactRoot, job: NemoJob, say: Say) -> None:
    """Remove an adapter, our pointer to it first: what that does not say is not looked for on NeMo."""

    async def remove() -> None:
        async with Services(job.nmp, job.nemo, say) as services:
            await remove_adapter(services, job.output_model)

    root.remove("adapters", job.key)
    asyncio.run(remove())
    Datastore(job.nmp, job.nemo, say).remove_repository(job.output_model, "model")
    write_state(job, NemoJobState())
