"""What all services have: entities with a namespace and a name that are made, read, listed and removed."""

from __future__ import annotations

import re
from typing import Any

from nemo_microservices import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flywheel_stand_ins.nemo.checks import BadRequestError, check_answer, check_request
from flywheel_stand_ins.nemo.state import Entity, State, new_id, now, problem, reply


class Entities:
    """One kind of entity.

    Args:
        state: where they are kept.
        path: of the collection, such as /v1/datasets.
        asks: the client's type of a request for a new one.
        answers: the client's type of one.
        prefix: of the ids; "" where the type has no id.
        changes: the client's type of a request for a change; None where none is allowed.
    """

    def __init__(
        self,
        state: State,
        path: str,
        asks: Any,
        answers: type[BaseModel],
        prefix: str,
        changes: Any = None,
    ) -> None:
        self.state = state
        self.kind = path.removeprefix("/v1/")
        self.path = path
        self._asks = asks
        self.answers = answers
        self._prefix = prefix
        self._changes = changes

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = f"{self.path}/{{namespace}}/{{name:path}}"
        return [
            Route(self.path, self._create, methods=["POST"]),
            Route(self.path, self._list, methods=["GET"]),
            Route(one, self._retrieve, methods=["GET"]),
            Route(one, self._delete, methods=["DELETE"]),
            *([Route(one, self._update, methods=["PATCH"])] if self._changes is not None else ()),
        ]

    def find(self, name: str) -> Entity | None:
        """Return the entity NAMESPACE/NAME."""
        return self.state.all(self.kind).get(name)

    def described(self, body: Entity) -> Entity:
        """Return what becomes of a request's body; a kind of its own may add to it."""
        return body

    def shown(self, entity: Entity) -> Entity:
        """Return an entity as it is answered."""
        return entity

    async def removed(self, entity: Entity) -> None:
        """Do what the end of an entity means."""

    async def _create(self, request: Request) -> Response:
        body = check_request(self._asks, await request.json())
        namespace, name = body.get("namespace", "default"), body.get("name") or new_id(self._prefix or "e")
        full = f"{namespace}/{name}"
        if self.find(full) is not None:
            return problem(409, f"{self.kind} {full} already exists")
        made = {
            **self.described(body),
            "namespace": namespace,
            "name": name,
            "created_at": now(),
            "updated_at": now(),
        }
        if self._prefix:
            made["id"] = new_id(self._prefix)
        self.state.count(f"{self.kind} made")
        shown = check_answer(self.answers, self.shown(made))
        self.state.put(self.kind, full, made)
        return reply(shown)

    async def _retrieve(self, request: Request) -> Response:
        full = f"{request.path_params['namespace']}/{request.path_params['name']}"
        found = self.find(full)
        if found is None:
            return problem(404, f"{self.kind} {full} not found")
        return reply(check_answer(self.answers, self.shown(found)))

    async def _list(self, request: Request) -> Response:
        shown = [self.shown(entity) for entity in self.state.all(self.kind).values()]
        namespace = request.query_params.get("filter[namespace]")
        if namespace is not None:
            shown = [entity for entity in shown if entity["namespace"] == namespace]
        peft = request.query_params.get("filter[peft]")
        if peft is not None:  # of models: those that have that property, or those that have not
            shown = [entity for entity in shown if ("peft" in entity) == (peft == "true")]
        return reply(page_of([check_answer(self.answers, entity) for entity in shown], request))

    async def _update(self, request: Request) -> Response:
        full = f"{request.path_params['namespace']}/{request.path_params['name']}"
        found = self.find(full)
        if found is None:
            return problem(404, f"{self.kind} {full} not found")
        # The namespace is in the path; the client's type has it as an argument of the call.
        asked = {**await request.json(), "namespace": request.path_params["namespace"]}
        made = {**found, **check_request(self._changes, asked), "updated_at": now()}
        shown = check_answer(self.answers, self.shown(made))
        self.state.count(f"{self.kind} changed")
        self.state.put(self.kind, full, made)
        return reply(shown)

    async def _delete(self, request: Request) -> Response:
        full = f"{request.path_params['namespace']}/{request.path_params['name']}"
        found = self.state.remove(self.kind, full)
        if found is None:
            return problem(404, f"{self.kind} {full} not found")
        self.state.count(f"{self.kind} removed")
        await self.removed(found)
        return reply({"message": f"{full} deleted", "id": str(found.get("id", full)), "deleted_at": now()})


def page_of(entities: list[Entity], request: Request) -> dict[str, Any]:
    """Return one page of a list, as the query asks for it."""
    page, size = int(request.query_params.get("page", 1)), int(request.query_params.get("page_size", 10))
    if page < 1 or size < 1:
        raise BadRequestError("page and page_size: from 1 on")
    if request.query_params.get("sort", "").startswith("-"):
        entities = entities[::-1]
    some = entities[(page - 1) * size : page * size]
    return {
        "object": "list",
        "data": some,
        "pagination": {
            "page": page,
            "page_size": size,
            "current_page_size": len(some),
            "total_pages": -(-len(entities) // size),
            "total_results": len(entities),
        },
    }


def filters_of(request: Request, kind: Any) -> dict[str, Any]:
    """Return the filter of a query, `filter[a]=…&filter[b][c]=…`, checked against the client's type."""
    found: dict[str, Any] = {}
    for name, value in request.query_params.items():
        match = re.fullmatch(r"filter\[(\w+)\](?:\[(\w+)\])?", name)
        if match and match[2]:
            found.setdefault(match[1], {})[match[2]] = value
        elif match:
            found[match[1]] = value
    return check_request(kind, found)
