"""NeMo Deployment Manager and the NIMs: one for each student, up as long as somebody holds it.

The last one who lets go of a NIM takes it away; one that nobody holds any more, since who held it was killed,
goes at the next look: of another job, or of the end of a run. One that a champion's alias points to stays. A
model that somebody else has deployed is used and left alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nemo_microservices import ConflictError, NotFoundError
from nemo_microservices.lib.custom_types.inference.model_list_response import ModelListResponse
from nemo_microservices.types import NIMDeploymentConfigParam
from nemo_microservices.types.deployment import ModelDeployment

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import JobError
from flywheel.runtimes.nemo.holds import Holds
from flywheel.runtimes.nemo.job import OWNER, Claim
from flywheel.runtimes.nemo.models import serving_deployments
from flywheel.runtimes.nemo.services import Pauses, Services, Unsure

SERVICE = "Deployment Manager"
_REGISTRY = "nvcr.io/nim"
_FAILED = ("failed", "cancelled")


@dataclass(frozen=True)
class Look:
    """What a look at something found.

    Attributes:
        found: what was waited for; None: not yet.
        news: what is compared with the last look's: where it differs, the next look is sooner.
        waits: what to say of the wait.
        late: what to say where it has taken too long.
    """

    found: str | None = None
    news: object = None
    waits: str = ""
    late: str = ""


class Nims:
    """The NIM that somebody wants.

    Args:
        services: the services.
        claim: who, and which NIM.
    """

    def __init__(self, services: Services, claim: Claim) -> None:
        self._services = services
        self._deployments = services.nemo.deployment.model_deployments
        self._claim = claim
        self._holds = Holds(ArtifactRoot(claim.artifact_root))
        self.name = claim.deployment

    async def obtain(self, model: str, *, to_serve: bool = False) -> tuple[str, str]:
        """Hold the student's NIM, deployed where it is not, until it answers for a model.

        Args:
            model: the student's name, or that of an adapter, which a NIM finds by itself.
            to_serve: for a champion, which needs no place among the NIMs of evaluations.

        Returns:
            The model's name on the NIM, which may have a version, and the NIM's, "" for somebody else's.

        Raises:
            JobError: there is no place for it, it fails, or does not answer in time.
        """
        ours = not await self._is_others()
        if ours:
            await self.renew()
            await self._deploy(to_serve)
            await self._await(lambda: self._look_at_deployment(to_serve))
        served = await self._await(lambda: self._look_for_model(model))
        return served, self.name if ours else ""

    async def renew(self) -> None:
        """Hold the NIM for some time more."""
        await asyncio.to_thread(self._holds.add, self.name, self._claim.holder)

    async def release(self) -> None:
        """Let go of the NIM; where nobody else holds it and no champion is served by it, it is taken away."""
        async with self._services.lock():
            await asyncio.to_thread(self._holds.drop, self.name, self._claim.holder)
            if await asyncio.to_thread(self._holds.are_there, self.name):
                return
            serving = await serving_deployments(self._services, self._claim.namespace)
            if self.name not in serving or await self._has_failed():
                await undeploy(self._services, self._claim.namespace, self.name)

    # -- steps ---------------------------------------------------------------------------------------

    async def _is_others(self) -> bool:
        """Return whether somebody who is no flywheel has the student deployed, ready to answer."""
        for deployment in await deployments(self._services):
            if OWNER in (deployment.custom_fields or {}) or deployment.status_details.status != "ready":
                continue
            if self._claim.student.model_name in served_models(deployment):
                self._services.say(
                    f"using the NIM {deployment.namespace}/{deployment.name}, which is there already"
                )
                return True
        return False

    async def _deploy(self, to_serve: bool) -> None:
        config = self._services.config
        patience = self._services.patience(SERVICE)
        deadline = time.monotonic() + config.wait_hours * 3600
        pauses = Pauses(config.poll_seconds)
        while True:
            error: Unsure | None = None
            async with self._services.lock():
                if await self._find() is not None:
                    return
                deployed = await self._count_after_clearing()
                if to_serve or deployed < config.parallel_nims:
                    try:
                        await self._create()
                        return
                    except Unsure as unsure:
                        error = unsure
            if error is not None:  # it may have been made: look again before a second try
                await patience.pause(error)
                continue
            self._services.tell(
                f"waiting: {deployed} NIMs are deployed (runtime.nemo.parallel_nims: {config.parallel_nims})"
            )
            if time.monotonic() > deadline:
                raise JobError(f"no place for a NIM in {config.wait_hours:g} h (runtime.nemo.wait_hours)")
            await self.renew()
            await pauses.wait(None)

    async def _create(self) -> None:
        student, namespace = self._claim.student, self._claim.namespace
        nim: NIMDeploymentConfigParam = {
            "image_name": f"{student.registry_base or _REGISTRY}/{student.model_name}",
            "image_tag": student.tag or "latest",
            "gpu": student.gpus,
            "additional_envs": {"NIM_MAX_MODEL_LEN": str(student.context_length)},
        }
        if student.pvc_size:
            nim["pvc_size"] = student.pvc_size
        try:
            await self._services.ask_once(
                SERVICE,
                lambda: self._deployments.create(
                    name=self.name,
                    namespace=namespace,
                    description=f"{student.name}, by flywheel",
                    config={"model": student.model_name, "nim_deployment": nim},
                    models=[student.model_name],
                    custom_fields={OWNER: self._claim.owner, "run": self._claim.run_id},
                ),
            )
        except ConflictError:
            return
        self._services.say(f"NIM {namespace}/{self.name} deployed: {nim['image_name']}:{nim['image_tag']}")

    async def _await(self, look: Callable[[], Awaitable[Look]]) -> str:
        """Look at something, holding the NIM, until it is as it should be."""
        deadline = time.monotonic() + self._services.config.deploy_minutes * 60
        pauses = Pauses(self._services.config.poll_seconds)
        while True:
            seen = await look()
            if seen.found is not None:
                return seen.found
            self._services.tell(seen.waits)
            if time.monotonic() > deadline:
                raise JobError(seen.late)
            await self.renew()
            await pauses.wait(seen.news)

    async def _look_at_deployment(self, to_serve: bool) -> Look:
        found = await self._find()
        if found is None:  # taken away by another flywheel's run that ended just then
            await self._deploy(to_serve)
            return Look(
                waits=f"NIM {self.name} is deployed anew",
                late=f"NIM {self.name} is taken away again and again",
            )
        status = found.status_details.status
        said = found.status_details.description or "no reason given"
        whose = f"NIM {self.name} of {self._claim.student.name}"
        if status in _FAILED:
            raise JobError(f"{whose}: {status}: {said}")
        minutes = self._services.config.deploy_minutes
        return Look(
            found=self.name if status == "ready" else None,
            news=status,
            waits=f"NIM {self.name} is {status}",
            late=f"{whose}: not ready within {minutes:g} min (runtime.nemo.deploy_minutes): {status}: {said}",
        )

    async def _look_for_model(self, model: str) -> Look:
        try:
            # A NIM's own list, which is OpenAI's; the client's `models` are those of the entity store.
            listed = await self._services.ask(
                "NIM", lambda: self._services.nim.get("/v1/models", cast_to=ModelListResponse)
            )
            names = [found.id for found in listed.data]
        except NotFoundError:
            names = []
        minutes = self._services.config.deploy_minutes
        return Look(
            found=next((name for name in names if name == model or name.startswith(f"{model}@")), None),
            news=len(names),
            waits=f"waiting: the NIM does not answer for {model} yet",
            late=f"the NIM does not answer for {model} within {minutes:g} min "
            f"(runtime.nemo.deploy_minutes); it answers for {', '.join(names) or 'no model'}",
        )

    # -- small things --------------------------------------------------------------------------------

    async def _find(self) -> ModelDeployment | None:
        try:
            return await self._services.ask(
                SERVICE, lambda: self._deployments.retrieve(self.name, namespace=self._claim.namespace)
            )
        except NotFoundError:
            return None

    async def _has_failed(self) -> bool:
        found = await self._find()
        return found is not None and found.status_details.status in _FAILED

    async def _count_after_clearing(self) -> int:
        """Return how many NIMs flywheels have here to evaluate, once those that nobody needs are gone."""
        namespace = self._claim.namespace
        await clear(self._services, namespace, self._claim.owner, self._holds)
        serving = await serving_deployments(self._services, namespace)
        return sum(
            OWNER in (found.custom_fields or {}) and found.name not in serving
            for found in await deployments(self._services)
            if found.namespace == namespace
        )


async def clear(services: Services, namespace: str, owner: str, holds: Holds) -> list[str]:
    """Take away a flywheel's own NIMs that nobody holds and no champion is served by; return their names.

    The caller has the lock.
    """
    there = [
        found.name
        for found in await deployments(services)
        if found.namespace == namespace and (found.custom_fields or {}).get(OWNER) == owner and found.name
    ]
    if not there:
        return []
    serving = await serving_deployments(services, namespace)
    gone = []
    for name in there:
        if name not in serving and not await asyncio.to_thread(holds.are_there, name):
            await undeploy(services, namespace, name)
            gone.append(name)
    return gone


async def undeploy(services: Services, namespace: str, name: str) -> None:
    """Take a NIM away; one that is not there is no error."""
    try:
        await services.ask(
            SERVICE, lambda: services.nemo.deployment.model_deployments.delete(name, namespace=namespace)
        )
    except NotFoundError:
        return
    services.say(f"NIM {namespace}/{name} undeployed")


async def deployments(services: Services) -> list[ModelDeployment]:
    """Return all deployments."""
    found: list[ModelDeployment] = []
    page = 1
    while True:
        listed = await services.ask(
            SERVICE,
            lambda page=page: services.nemo.deployment.model_deployments.list(page=page, page_size=100),  # type: ignore[misc]  # mypy sees no type in a lambda's default
        )
        found += listed.data
        if len(listed.data) < 100:
            return found
        page += 1


def served_models(deployment: ModelDeployment) -> list[str]:
    """Return the base models that a deployment serves."""
    names = list(deployment.models or ())
    config = deployment.config
    if not isinstance(config, str) and config.model is not None:
        model = config.model
        names.append(model if isinstance(model, str) else f"{model.namespace}/{model.name}")
    return names
