"""Models of NeMo's entity store: the adapters that Customizer makes, and the aliases that point to champions.

An alias is a model whose `api_endpoint` names the NIMs' address and the adapter there, so that who asks for
`NAMESPACE/ALIAS` learns where the champion answers, and by which name. Its custom fields say whose it is and
which NIM of ours has to stay for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemo_microservices import ConflictError, NotFoundError
from nemo_microservices.types import Model
from nemo_microservices.types.shared_params import APIEndpointData

from flywheel.artifacts.root import key_of
from flywheel.runtimes.base import RefusedJobError
from flywheel.runtimes.nemo.job import OWNER, slug
from flywheel.runtimes.nemo.services import Services, address

SERVICE = "entity store"
_LONGEST = 63


@dataclass(frozen=True)
class Alias:
    """Where an alias is to point.

    Attributes:
        name: of the alias.
        owner, champion_of: the flywheel, and the workload and client in it, that it belongs to.
        base_model: the student's name.
        model: the adapter's name on its NIM.
        deployment: of ours that has to stay for it; "" where somebody else's NIM is used.
        description: for people.
    """

    name: str
    owner: str
    champion_of: str
    base_model: str
    model: str
    deployment: str
    description: str


def alias_name(template: str, workload_id: str, client_id: str) -> str:
    """Return the name of a champion's alias.

    Args:
        template: `runtime.nemo.serving_alias`.
    """
    name = slug(template.format(workload_id=workload_id, client_id=client_id))
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 9]}-{key_of(name)[:8]}"


async def models(services: Services, namespace: str, *, adapters: bool) -> list[Model]:
    """Return the models of a namespace: its adapters, of which there may be thousands, or all others."""
    found: list[Model] = []
    page = 1
    while True:
        listed = await services.ask(
            SERVICE,
            lambda page=page: services.nemo.models.list(  # type: ignore[misc]  # mypy sees no type in a lambda's default
                filter={"namespace": namespace, "peft": adapters}, page=page, page_size=100
            ),
        )
        found += [model for model in listed.data if model.namespace == namespace]
        if len(listed.data) < 100:
            return found
        page += 1


async def find_adapter(services: Services, output_model: str) -> list[str]:
    """Return the names in the entity store of an adapter, of each of its versions, without the namespace.

    Args:
        output_model: NAMESPACE/NAME; the store may add a version to it: `@cust-…`.
    """
    namespace, _, name = output_model.partition("/")
    there = [model.name or "" for model in await models(services, namespace, adapters=True)]
    return [one for one in there if one == name or one.startswith(f"{name}@")]


async def remove_adapter(services: Services, output_model: str) -> None:
    """Take an adapter out of the entity store, where the NIMs find it."""
    namespace = output_model.partition("/")[0]
    for name in await find_adapter(services, output_model):
        await _delete(services, name, namespace)


async def serving_deployments(services: Services, namespace: str) -> set[str]:
    """Return the names of the NIMs that aliases of any flywheel point to."""
    aliases = await models(services, namespace, adapters=False)
    fields = [model.custom_fields or {} for model in aliases]
    return {str(one["deployment"]) for one in fields if OWNER in one and one.get("deployment")}


async def check_alias(services: Services, namespace: str, alias: Alias) -> bool:
    """Return whether an alias points where it is to point.

    Raises:
        RefusedJobError: there is a model of that name that is not this champion's.
    """
    found = await _retrieve(services, namespace, alias.name)
    if found is None:
        return False
    fields = found.custom_fields or {}
    if fields.get(OWNER) != alias.owner or fields.get("champion_of") != alias.champion_of:
        whose = (
            f"the champion of {fields['champion_of']}" if "champion_of" in fields else "a model of its own"
        )
        other = " of another flywheel" if fields.get(OWNER) not in (None, alias.owner) else ""
        raise RefusedJobError(
            f"runtime.nemo.serving_alias: {namespace}/{alias.name} is {whose}{other} already; choose another "
            "name for the alias"
        )
    endpoint = found.api_endpoint
    return (
        endpoint is not None
        and (endpoint.url, endpoint.model_id) == (_url(services), alias.model)
        and fields.get("deployment", "") == alias.deployment
    )


async def remove_alias(services: Services, namespace: str, name: str, owner: str) -> None:
    """Remove an alias that a flywheel has made; what is not there or another's stays as it is."""
    found = await _retrieve(services, namespace, name)
    if found is not None and (found.custom_fields or {}).get(OWNER) == owner:
        await _delete(services, name, namespace)


async def point(services: Services, namespace: str, alias: Alias) -> None:
    """Make an alias point where it is to point, in one call. The caller has the lock and has checked it."""
    endpoint: APIEndpointData = {"url": _url(services), "model_id": alias.model, "format": "nim"}
    fields: dict[str, object] = {
        OWNER: alias.owner,
        "champion_of": alias.champion_of,
        "deployment": alias.deployment,
    }
    entity: dict[str, Any] = {
        "namespace": namespace,
        "base_model": alias.base_model,
        "description": alias.description,
        "api_endpoint": endpoint,
        "custom_fields": fields,
    }
    while True:
        try:
            await services.ask(SERVICE, lambda: services.nemo.models.update(alias.name, **entity))
            break
        except NotFoundError:
            pass
        try:
            await services.ask(SERVICE, lambda: services.nemo.models.create(name=alias.name, **entity))
            break
        except ConflictError:  # a try whose answer was lost: the next update finds it
            continue
    services.say(f"alias {namespace}/{alias.name} points to {alias.model}")


async def _retrieve(services: Services, namespace: str, name: str) -> Model | None:
    try:
        return await services.ask(SERVICE, lambda: services.nemo.models.retrieve(name, namespace=namespace))
    except NotFoundError:
        return None


async def _delete(services: Services, name: str, namespace: str) -> None:
    try:
        await services.ask(SERVICE, lambda: services.nemo.models.delete(name, namespace=namespace))
    except NotFoundError:
        return
    services.say(f"model {namespace}/{name} removed")


def _url(services: Services) -> str:
    return f"{address(services.nmp, 'nim_base_url')}/v1/chat/completions"
