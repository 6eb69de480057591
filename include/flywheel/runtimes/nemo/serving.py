"""The champion on NeMo: a NIM that stays deployed, and an alias in the entity store that points to it.

What is in force says `champion.json`; what serves follows it, by the same steps whoever has changed it: a
run, a person, a roll-back. The alias is turned when the champion's NIM answers, in one call, so that there is
always one that answers; the NIM that it pointed to goes after that. A step that was done is found at the next
try.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import orjson
from pydantic import BaseModel, ConfigDict

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.errors import ArtifactError, JobError
from flywheel.config import Config, Student
from flywheel.config.nemo import NemoConfig, NmpConfig
from flywheel.promotion.champion import Champion, read_champion
from flywheel.runs.run import Run
from flywheel.runtimes.base import RefusedJobError
from flywheel.runtimes.nemo.holds import Holds
from flywheel.runtimes.nemo.job import Claim
from flywheel.runtimes.nemo.models import Alias, alias_name, check_alias, point
from flywheel.runtimes.nemo.nims import Nims, clear
from flywheel.runtimes.nemo.results import POINTER
from flywheel.runtimes.nemo.services import Say, Services


class ServingOrder(BaseModel):
    """Whose champion is to be served, with all that the triggerer needs for it.

    Attributes:
        students: of the config, for how their NIMs are deployed.
        run_id: of the run that asks for it; "" where a person did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nmp: NmpConfig
    nemo: NemoConfig
    artifact_root: str
    workload_id: str
    client_id: str
    students: tuple[Student, ...]
    run_id: str = ""

    @classmethod
    def of(cls, config: Config, workload_id: str, client_id: str, run_id: str = "") -> ServingOrder:
        """Return the order to serve the champion of a workload and client."""
        return cls(
            nmp=config.nmp_config,
            nemo=config.runtime.nemo,
            artifact_root=config.artifacts.root,
            workload_id=workload_id,
            client_id=client_id,
            students=config.students,
            run_id=run_id,
        )

    @property
    def name(self) -> str:
        """The name in texts."""
        return f"champion of {self.workload_id} / {self.client_id}"

    @property
    def holder(self) -> str:
        """Who holds the NIM until the alias points to it."""
        return key_of("serving", self.artifact_root, self.workload_id, self.client_id, self.run_id)


def serves_champions(config: Config | None) -> bool:
    """Return whether champions are served by NIMs."""
    return bool(config and config.runtime.type == "nemo" and config.runtime.nemo.serving_alias)


async def serve(order: ServingOrder, say: Say) -> None:
    """Have the champion in force served, and nothing else.

    Called again after whatever happened, it does what is missing. Cancelled, it leaves everything as it is.

    Raises:
        RefusedJobError, JobError: it cannot be; the alias stays where it was, with the NIM that it points to.
    """
    root = ArtifactRoot(order.artifact_root)
    async with Services(order.nmp, order.nemo, say) as services:
        while True:
            champion = await asyncio.to_thread(read_champion, root, order.workload_id, order.client_id)
            if champion is None:
                say("no champion yet: nothing to serve")
                return
            if await _serve(services, order, root, champion):
                return
            say("another champion has come into force meanwhile")


async def let_go(order: ServingOrder, say: Say) -> list[str]:
    """Take away what nobody needs any more, where an order was given up; return the names of the NIMs."""
    holds = Holds(ArtifactRoot(order.artifact_root))
    async with Services(order.nmp, order.nemo, say) as services, services.lock():
        await asyncio.to_thread(holds.drop_all, order.holder)
        return await clear(services, order.nmp.nmp_namespace, key_of(order.artifact_root), holds)


async def _serve(services: Services, order: ServingOrder, root: ArtifactRoot, champion: Champion) -> bool:
    """Serve a champion; return False where it is no longer the one in force when its NIM answers."""
    namespace = order.nmp.nmp_namespace
    adapter = await asyncio.to_thread(_adapter_of, root, champion)
    student = await asyncio.to_thread(_student_of, order, root, champion)
    claim = Claim(student, namespace, order.artifact_root, order.holder, order.run_id)
    nims = Nims(services, claim)
    # A name that is another's is found before anything is deployed.
    await check_alias(services, namespace, _alias(order, champion, student, adapter, claim.deployment))
    try:
        served, deployment = await nims.obtain(adapter, to_serve=True)
        alias = _alias(order, champion, student, served, deployment)
        async with services.lock():
            standing = await asyncio.to_thread(read_champion, root, order.workload_id, order.client_id)
            if standing is not None and standing.adapter == champion.adapter:
                if await check_alias(services, namespace, alias):
                    services.say(f"alias {namespace}/{alias.name} points to {served} already")
                else:
                    await point(services, namespace, alias)
                is_served = True
            else:
                is_served = False
    except Exception:
        with suppress(JobError):  # the first error says more
            await nims.release()
        raise
    await let_go(order, services.say)
    return is_served


def _alias(order: ServingOrder, champion: Champion, student: Student, model: str, deployment: str) -> Alias:
    assert order.nemo.serving_alias is not None
    return Alias(
        name=alias_name(order.nemo.serving_alias, order.workload_id, order.client_id),
        owner=key_of(order.artifact_root),
        champion_of=f"{order.workload_id}/{order.client_id}",
        base_model=student.model_name,
        model=model,
        deployment=deployment,
        description=f"{champion.name} of run {champion.run_id}, {order.name}, by flywheel",
    )


def _adapter_of(root: ArtifactRoot, champion: Champion) -> str:
    """Return the name of a champion's adapter on NeMo.

    Raises:
        RefusedJobError: it is not there.
    """
    if not root.find("adapters", champion.adapter):
        raise RefusedJobError(
            f"{champion.name} of run {champion.run_id}: its adapter {champion.adapter} is no longer in "
            f"{root.url}"
        )
    pointer = root.fetch("adapters", champion.adapter) / POINTER
    if not pointer.exists():
        raise RefusedJobError(
            f"{champion.name} of run {champion.run_id} was not made on NeMo, so no NIM there has it, and the "
            "alias stays where it was; promote a candidate that NeMo made, or set runtime.nemo.serving_alias "
            "to null"
        )
    return str(orjson.loads(pointer.read_bytes())["output_model"])


def _student_of(order: ServingOrder, root: ArtifactRoot, champion: Champion) -> Student:
    """Return a champion's student: as in the run that made it, else as in the config, else by its name."""
    with suppress(ArtifactError, ValueError):
        for student in Run(root, champion.run_id).plan.config.students:
            if student.name == champion.student:
                return student
    for student in order.students:
        if student.model_name == champion.model_name:
            return student
    return Student(model_name=champion.model_name, name=champion.student, weights=champion.weights)
