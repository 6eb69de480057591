"""NeMo: what the runs of a client have put there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from flywheel.artifacts.root import key_of
from flywheel.common.errors import ArtifactError
from flywheel.config import Config
from flywheel.forgetting.base import Place, Removable, Whose, place
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run

log = logging.getLogger(__name__)


# After the champions: an adapter of one stays on NeMo as long as it is one. Before the artifacts and the
# runs: what a run has put there is found by them.
@place(20)
class Nemo(Place):
    """The microservices of runs with runtime `nemo`."""

    name = "nemo"
    keeps = "data sets in the Datastore, adapters, the NIM and the alias of the champion"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the client's runs that had their jobs there."""
        return [
            Removable(self.name, run.name, 1, 0, "data sets, adapters, NIMs")
            for run in self.house.runs
            if whose.has(run.workload_id, run.client_id) and _is_on_nemo(run.plan)
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove what runs have put there.

        Raises:
            JobError: NeMo cannot be reached or refuses.
        """
        root = self.house.root
        runs = [run for name in ids if (run := Run.in_folder(root, name)).is_planned]
        plans = [run.plan for run in runs]
        for plan in plans:
            _remove_alias(plan)
        # Twice: an adapter that two runs have used is held by the second while the first one lets go of it.
        for run, plan in [*zip(runs, plans, strict=True)] * 2:
            _remove(run, _keeping_nothing(plan.config))


def _is_on_nemo(plan: dict[str, object]) -> bool:
    config = plan.get("config")
    runtime = config.get("runtime") if isinstance(config, dict) else None
    return isinstance(runtime, dict) and runtime.get("type") == "nemo"


def _keeping_nothing(config: Config) -> Config:
    nemo = config.runtime.nemo.model_copy(update={"keep_datasets": False, "keep_adapters": False})
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"nemo": nemo})})


def _remove(run: Run, config: Config) -> None:
    from flywheel.runtimes.nemo.sweep import clean_up, sweep

    try:
        sweep(run, config, log.info)
        clean_up(run, config, log.info)
    except ArtifactError as error:  # its jobs have no specification any more, so there is none to find
        log.warning("%s: what it has put on NeMo is not known: %s", run.path, error)


def _remove_alias(plan: Plan) -> None:
    from flywheel.runtimes.nemo.models import alias_name, remove_alias
    from flywheel.runtimes.nemo.services import Services

    async def remove() -> None:
        nemo = plan.config.runtime.nemo
        if nemo.serving_alias:
            name = alias_name(nemo.serving_alias, plan.workload_id, plan.client_id)
            async with Services(plan.config.nmp_config, nemo, log.info) as services:
                await remove_alias(
                    services, plan.config.nmp_config.nmp_namespace, name, key_of(plan.config.artifacts.root)
                )

    asyncio.run(remove())
