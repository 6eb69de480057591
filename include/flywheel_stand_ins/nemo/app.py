"""The whole stand-in: one server for all services, its faults, and what it tells of itself."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# Only the orchestrator and the development environment have these two; no other module imports this one.
import uvicorn
from nemo_microservices.types import (
    Dataset,
    Model,
    Namespace,
    Project,
    dataset_create_params,
    model_create_params,
    model_update_params,
    namespace_create_params,
    project_create_params,
)
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import StudentError
from flywheel.common.listening import listen
from flywheel_stand_ins.nemo.checks import BadAnswerError, BadRequestError, check_answer, check_request
from flywheel_stand_ins.nemo.customizer import CustomizerStandIn
from flywheel_stand_ins.nemo.datastore import DatastoreStandIn
from flywheel_stand_ins.nemo.entities import Entities
from flywheel_stand_ins.nemo.evaluator import EvaluatorStandIn
from flywheel_stand_ins.nemo.nims import Deployments, Nim
from flywheel_stand_ins.nemo.state import Fault, NemoBehaviour, State, now, problem, reply
from flywheel_stand_ins.nemo.students import Students


class NemoStandIn:
    """The application.

    Args:
        folder: where all that it knows and makes is kept.
        weights: folders of models by name; default: the demo students under names of the NIM catalogue.
        behaviour: how it misbehaves.
    """

    def __init__(
        self, folder: Path, weights: Mapping[str, str] | None = None, behaviour: NemoBehaviour | None = None
    ) -> None:
        self.state = State(folder)
        self.behaviour = behaviour or NemoBehaviour()
        self.wrong: list[str] = []
        students = Students(weights)
        self.datastore = DatastoreStandIn(self.state)
        models = Entities(
            self.state,
            "/v1/models",
            model_create_params.ModelCreateParams,
            Model,
            "",
            changes=model_update_params.ModelUpdateParams,
        )
        self.customizer = CustomizerStandIn(self.state, self.datastore, models, students, self.behaviour)
        self.evaluator = EvaluatorStandIn(self.state, self.behaviour)
        self.deployments = Deployments(self.state, students, self.behaviour)
        root = ArtifactRoot(str(folder / "artifacts"))
        self.nim = Nim(self.deployments, self.customizer.adapters, students, root)
        datasets = Entities(
            self.state, "/v1/datasets", dataset_create_params.DatasetCreateParams, Dataset, "dataset"
        )
        projects = Entities(
            self.state, "/v1/projects", project_create_params.ProjectCreateParams, Project, "project"
        )
        services = [
            *self.customizer.routes(),
            *self.evaluator.routes(),
            *self.deployments.routes(),
            *datasets.routes(),
            *models.routes(),
            *projects.routes(),
            Route("/v1/namespaces", self._make_namespace, methods=["POST"]),
        ]
        application = Starlette(
            routes=[
                Mount("/nemo", routes=services),
                Mount("/nim", routes=self.nim.routes()),
                Mount("/datastore", routes=self.datastore.routes()),
                Route("/health", self._health),
                Route("/stand-in/stats", self._stats),
                Route("/stand-in/behaviour", self._behave, methods=["POST"]),
            ],
            exception_handlers={BadRequestError: self._bad_request, BadAnswerError: self._bad_answer},
            lifespan=self._life,
        )
        self.app: ASGIApp = _Faults(application, self)

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        await self.customizer.start()
        await self.evaluator.start()
        try:
            yield
        finally:
            await self.customizer.stop()
            await self.evaluator.stop()

    async def _make_namespace(self, request: Request) -> Response:
        body = check_request(namespace_create_params.NamespaceCreateParams, await request.json())
        name = body.get("id", "default")
        if name in self.state.all("namespaces"):
            return problem(409, f"namespace {name} already exists")
        made = check_answer(Namespace, {**body, "id": name, "created_at": now(), "updated_at": now()})
        return reply(self.state.put("namespaces", name, made))

    async def _health(self, request: Request) -> Response:
        return reply({"status": "ok"})

    async def _stats(self, request: Request) -> Response:
        deployed = list(self.state.all(self.deployments.kind))
        return reply({"counts": dict(self.state.counts), "deployed": deployed, "wrong": self.wrong})

    async def _behave(self, request: Request) -> Response:
        """Change the behaviour while it runs."""
        for name, value in (await request.json()).items():
            if name not in {field.name for field in dataclasses.fields(NemoBehaviour)}:
                return problem(422, f"{name}: no such behaviour")
            setattr(self.behaviour, name, [Fault(**fault) for fault in value] if name == "faults" else value)
        return reply({})

    async def _bad_request(self, request: Request, error: Exception) -> Response:
        self.wrong.append(f"{request.method} {request.url.path}: {error}")
        return problem(422, str(error))

    async def _bad_answer(self, request: Request, error: Exception) -> Response:
        self.wrong.append(f"answer to {request.method} {request.url.path}: {error}")
        return problem(500, str(error))


class _Faults:
    """Stands before the application: latency, the key, and the faults of each service."""

    def __init__(self, app: ASGIApp, stand_in: NemoStandIn) -> None:
        self._app = app
        self._stand_in = stand_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        behaviour, state = self._stand_in.behaviour, self._stand_in.state
        service = service_of(scope.get("path", "")) if scope["type"] == "http" else ""
        if not service:
            await self._app(scope, receive, send)
            return
        await asyncio.sleep(behaviour.latency_seconds)
        key = behaviour.api_key
        # Where to put an LFS file is told in an address that needs no token of its own.
        is_open = scope["path"].startswith("/datastore/v1/hf/lfs/")
        if key and not is_open and Request(scope).headers.get("authorization") != f"Bearer {key}":
            await problem(401, "wrong or missing token")(scope, receive, send)
            return
        fault = behaviour.fault_of(service, scope["method"], scope["path"])
        if fault is None:
            await self._app(scope, receive, send)
            return
        state.count(f"faults of {service}")
        if fault.after:
            await self._app(scope, receive, _nowhere)
        if fault.name:
            state.count(f"fault {fault.name}")
        await asyncio.sleep(fault.seconds)
        if fault.status == 0:
            # A server that dies in the middle of an answer: uvicorn closes what has begun and does not end.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            raise ClientDisconnect
        headers = {"Retry-After": f"{fault.retry_after:g}"} if fault.retry_after else None
        body = {"detail": f"the stand-in's {service} fails, as it was told to"}
        await reply(body, fault.status, headers)(scope, receive, send)


async def _nowhere(message: Any) -> None:
    """Send nothing."""


def service_of(path: str) -> str:
    """Return which service a path belongs to; "" for the stand-in's own."""
    for start, service in _SERVICES:
        if path.startswith(start):
            return service
    return ""


_SERVICES = (
    ("/nemo/v1/customization", "customizer"),
    ("/nemo/v1/evaluation", "evaluator"),
    ("/nemo/v1/deployment", "deployment"),
    ("/nemo/", "entities"),
    ("/nim/", "nim"),
    ("/datastore/", "datastore"),
)


def serve(
    folder: Path,
    *,
    weights: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    behaviour: NemoBehaviour | None = None,
) -> None:
    """Serve until interrupted; says its addresses once it answers.

    Raises:
        StudentError: the address cannot be had.
    """
    listening = listen(host, port, StudentError)
    url = f"http://{host}:{listening.getsockname()[1]}"
    stand_in = NemoStandIn(folder, weights, behaviour)
    print(f"stand-in NeMo: {url}/nemo, {url}/nim, {url}/datastore", flush=True)  # noqa: T201  what was started by hand says where it is
    config = uvicorn.Config(stand_in.app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])
