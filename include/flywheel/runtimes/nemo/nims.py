"""NeMo Deployment Manager and the NIMs: one for each student, up as long as somebody holds it.

The last one who lets go of a NIM takes it away; one that nobody holds any more, since who held it was killed,
goes at the next look: of another job, or of the end of a run. A model that somebody else has deployed is used
and left alone.
"""

from __future__ import annotations

import asyncio
import time

from nemo_microservices import ConflictError, NotFoundError
from nemo_microservices.lib.custom_types.inference.model_list_response import ModelListResponse
from nemo_microservices.types import NIMDeploymentConfigParam
from nemo_microservices.types.deployment import ModelDeployment

from flywheel.artifacts import ArtifactRoot
from flywheel.errors import JobError
from flywheel.runtimes.nemo.holds import Holds
from flywheel.runtimes.nemo.job import OWNER, NemoJob, deployment_name
from flywheel.runtimes.nemo.services import Patience, Pauses, Services, Unsure

SERVICE = "Deployment Manager"
_REGISTRY = "nvcr.io/nim"


class Nims:
    """The NIM of one job's student.

    Args:
        services: the services.
        job: an evaluation.
    """

    def __init__(self, services: Services, job: NemoJob) -> None:
        self._services = services
        self._deployments = services.nemo.deployment.model_deployments
        self._job = job
        self._holds = Holds(ArtifactRoot(job.spec.artifact_root))
        self.name = deployment_name(job)

    async def obtain(self, model: str) -> str:
        """Hold the student's NIM, deployed where it is not, until it answers for a model.

        Args:
            model: the student's name, or that of an adapter, which a NIM finds by itself.

        Returns:
            The model's name on the NIM, which may have a version.

        Raises:
            JobError: there is no place for it, it fails, or does not answer in time.
        """
        if not await self._is_others():
            await self.renew()
            await self._deploy()
            await self._await_ready()
        return await self._await_model(model)

    async def renew(self) -> None:
        """Hold the NIM for some time more."""
        await asyncio.to_thread(self._holds.add, self.name, self._job.holder)

    async def release(self) -> None:
        """Let go of the NIM; where nobody else holds it, it is taken away."""
        async with self._services.lock():
            await asyncio.to_thread(self._holds.drop, self.name, self._job.holder)
            if not await asyncio.to_thread(self._holds.are_there, self.name):
                await undeploy(self._services, self._job.namespace, self.name)

    # -- steps ---------------------------------------------------------------------------------------

    async def _is_others(self) -> bool:
        """Return whether somebody who is no flywheel has the student deployed, ready to answer."""
        for deployment in await deployments(self._services):
            if OWNER in (deployment.custom_fields or {}) or deployment.status_details.status != "ready":
                continue
            if self._job.student.model_name in served_models(deployment):
                self._services.say(
                    f"using the NIM {deployment.namespace}/{deployment.name}, which is there already"
                )
                return True
        return False

    async def _deploy(self) -> None:
        config = self._services.config
        patience = Patience(SERVICE, config.lost_minutes * 60, self._services.say)
        deadline = time.monotonic() + config.wait_hours * 3600
        pauses = Pauses(config.poll_seconds)
        while True:
            error: Unsure | None = None
            async with self._services.lock():
                if await self._find() is not None:
                    return
                deployed = await self._count_after_clearing()
                if deployed < config.parallel_nims:
                    try:
                        await self._create()
                        return
                    except Unsure as unsure:
                        error = unsure
            if error is not None:  # it may have been made: look again before a second try
                await patience.wait(error)
                continue
            self._services.tell(
                f"waiting: {deployed} NIMs are deployed (runtime.nemo.parallel_nims: {config.parallel_nims})"
            )
            if time.monotonic() > deadline:
                raise JobError(f"no place for a NIM in {config.wait_hours:g} h (runtime.nemo.wait_hours)")
            await self.renew()
            await pauses.wait(None)

    async def _create(self) -> None:
        student, namespace = self._job.student, self._job.namespace
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
                    custom_fields={OWNER: self._job.owner, "run": self._job.run_id},
                ),
            )
        except ConflictError:
            return
        self._services.say(f"NIM {namespace}/{self.name} deployed: {nim['image_name']}:{nim['image_tag']}")

    async def _await_ready(self) -> None:
        config = self._services.config
        deadline = time.monotonic() + config.deploy_minutes * 60
        pauses = Pauses(config.poll_seconds)
        while True:
            found = await self._find()
            if found is None:  # taken away by another flywheel's run that ended just then
                await self._deploy()
                continue
            status = found.status_details.status
            said = found.status_details.description or "no reason given"
            if status == "ready":
                return
            if status in ("failed", "cancelled"):
                raise JobError(f"NIM {self.name} of {self._job.student.name}: {status}: {said}")
            self._services.tell(f"NIM {self.name} is {status}")
            if time.monotonic() > deadline:
                raise JobError(
                    f"NIM {self.name} of {self._job.student.name}: not ready within "
                    f"{config.deploy_minutes:g} min (runtime.nemo.deploy_minutes): {status}: {said}"
                )
            await self.renew()
            await pauses.wait(status)

    async def _await_model(self, model: str) -> str:
        config = self._services.config
        deadline = time.monotonic() + config.deploy_minutes * 60
        pauses = Pauses(config.poll_seconds)
        while True:
            try:
                # A NIM's own list, which is OpenAI's; the client's `models` are those of the entity store.
                listed = await self._services.ask(
                    "NIM", lambda: self._services.nim.get("/v1/models", cast_to=ModelListResponse)
                )
                names = [found.id for found in listed.data]
            except NotFoundError:
                names = []
            for name in names:
                if name == model or name.startswith(f"{model}@"):
                    return name
            self._services.tell(f"waiting: the NIM does not answer for {model} yet")
            if time.monotonic() > deadline:
                raise JobError(
                    f"the NIM does not answer for {model} within {config.deploy_minutes:g} min "
                    f"(runtime.nemo.deploy_minutes); it answers for {', '.join(names) or 'no model'}"
                )
            await self.renew()
            await pauses.wait(len(names))

    # -- small things --------------------------------------------------------------------------------

    async def _find(self) -> ModelDeployment | None:
        try:
            return await self._services.ask(
                SERVICE, lambda: self._deployments.retrieve(self.name, namespace=self._job.namespace)
            )
        except NotFoundError:
            return None

    async def _count_after_clearing(self) -> int:
        """Return how many NIMs flywheels have in the namespace, once our own that nobody holds are gone."""
        await clear(self._services, self._job.namespace, self._job.owner, self._holds)
        return sum(
            OWNER in (found.custom_fields or {})
            for found in await deployments(self._services)
            if found.namespace == self._job.namespace
        )


async def clear(services: Services, namespace: str, owner: str, holds: Holds) -> list[str]:
    """Take away a flywheel's own NIMs that nobody holds; return their names. The caller has the lock."""
    gone = []
    for found in await deployments(services):
        if found.namespace != namespace or (found.custom_fields or {}).get(OWNER) != owner or not found.name:
            continue
        if not await asyncio.to_thread(holds.are_there, found.name):
            await undeploy(services, namespace, found.name)
            gone.append(found.name)
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
