"""The endpoint's routes, its door, and its bounds; the passes themselves run in threads.

POST /v1/chat/completions    GET /v1/models, /v1/models/{name}    GET /health/live, /health/ready
GET /metrics
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from flywheel.common.errors import TeacherError
from flywheel.config import Config
from flywheel.serving.answered import TEACHER, Answered, Completion, Escalation, Listener
from flywheel.serving.batches import QueueFullError
from flywheel.serving.door import Caller, Door
from flywheel.serving.metrics import CONTENT_TYPE, Metrics, Passing
from flywheel.serving.models import Models, UnknownModelError
from flywheel.serving.openai import ApiError, EndpointReply, read_request
from flywheel.serving.production import Production
from flywheel.serving.student import Answer, NotYetError, Question, RefusedError
from flywheel.serving.teacher import Teacher
from flywheel.serving.tracing import TRACE_HEADER, trace_of
from flywheel.teacher.client import CallError

log = logging.getLogger(__name__)

# Bytes of a request: far more than any student's context holds.
MOST_BYTES = 1 << 20
ADAPTER_HEADER = "x-flywheel-adapter"
_OWNER = "flywheel"


class Serving:
    """The application.

    Args:
        config: of the experiment.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._door = Door(config.serving.keys)
        self.metrics = Metrics()
        self.models = Models(config)
        self.teacher = Teacher(config.teacher)
        # Each gets every answer before it is sent, in this order: see `flywheel.serving.answered`.
        self._production = Production(config, self.models)
        self.listeners: list[Listener] = self._production.listeners
        self._followed = False

    def app(self) -> Starlette:
        """Return it as ASGI."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._list),
                Route("/v1/models/{name:path}", self._describe),
                Route("/metrics", self._metrics),
                Route("/health/live", self._live),
                Route("/health/ready", self._ready),
            ],
            exception_handlers={ApiError: _refused, 404: _no_route, 405: _no_route, Exception: _broken},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._production:
            following = asyncio.create_task(self._follow())
            yield
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await self.models.close()
            await self.teacher.close()

    async def _follow(self) -> None:
        while True:
            try:
                await self.models.follow()
            except Exception:
                log.exception("the champions cannot be looked for; what answers goes on")
            self._followed = True
            await asyncio.sleep(self._config.serving.follow_seconds)

    # -- routes ----------------------------------------------------------------------------------------

    async def _complete(self, request: Request) -> Response:
        with self.metrics.request() as passing:
            try:
                response = await self._completed(request, passing)
            except ApiError as error:
                response = _said(error)
            passing.status = response.status_code
            return response

    async def _completed(self, request: Request, passing: Passing) -> Response:
        began, at = time.monotonic(), time.time()
        caller = self._admit(request)
        with caller.request() if caller else nullcontext():
            asked = read_request(await _body(request, self._config.serving.timeout_seconds))
            if caller and not caller.may_ask(asked.model):
                raise _unknown(asked.model)
            passing.model = self._series(asked.model)
            trace = trace_of(request.headers)
            by, adapter, answer, completion, escalation = await self._answer(asked, trace)
            answered = Answered(
                id=f"chatcmpl-{uuid.uuid4().hex}",
                at=at,
                seconds=time.monotonic() - began,
                caller=caller.name if caller else None,
                trace=trace.get(TRACE_HEADER),
                asked=asked,
                by=by,
                adapter=adapter,
                answer=answer,
                completion=completion,
                escalation=escalation,
            )
            for listener in self.listeners:
                with self.metrics.listener(getattr(listener, "__name__", type(listener).__name__)):
                    answered = await listener(answered)
        headers = {ADAPTER_HEADER: answered.adapter or TEACHER}
        reply = EndpointReply(answered)
        if asked.stream:
            return StreamingResponse(reply.chunks(), media_type="text/event-stream", headers=headers)
        return _json(reply.whole(), headers=headers)

    def _series(self, model: str) -> str:
        """Return a model's name as the metrics have it."""
        if model in self.teacher.names:
            return TEACHER
        return model if self.models.names_champion(model) else "candidate" if "@" in model else "unknown"

    async def _answer(
        self, asked: Completion, trace: Mapping[str, str]
    ) -> tuple[str, str | None, Answer, dict[str, Any] | None, Escalation | None]:
        """Return who answers, the key of its adapter, the answer, a teacher's whole completion, and why it.

        Raises:
            ApiError: there is no answer.
        """
        if asked.model in self.teacher.names:
            completion = await self.teacher.complete(asked, trace)
            text = completion["choices"][0]["message"].get("content") or ""
            return TEACHER, None, Answer(text), completion, None
        try:
            async with asyncio.timeout(self._config.serving.timeout_seconds):
                served = await self.models.get(asked.model)
                most = asked.max_completion_tokens or asked.max_tokens or 256
                answer = await served.ask(Question(asked.messages, asked.tools, most, trace))
        except TimeoutError:
            said = "no answer within serving.timeout_seconds"
            raise ApiError(503, said, kind="server_error", code="timeout", retry_after=1) from None
        except UnknownModelError:
            raise _unknown(asked.model) from None
        except NotYetError as error:
            cascade = self._production.cascade
            if cascade is not None and self.models.names_champion(asked.model):
                try:
                    answer, completion, why = await cascade.without_champion(asked)
                    return TEACHER, None, answer, completion, why
                except (TeacherError, CallError, RefusedError) as instead:
                    said = f"{error}; and the teacher gives no answer: {instead}"
                    raise ApiError(503, said, kind="server_error", code="not_ready", retry_after=5) from None
            raise ApiError(503, str(error), kind="server_error", code="not_ready", retry_after=5) from None
        except QueueFullError:
            raise ApiError(
                429,
                "too many requests wait for this model; come again",
                kind="rate_limit_error",
                code="queue_full",
                retry_after=1,
            ) from None
        except RefusedError as error:
            raise ApiError(400, str(error), param="messages", code="invalid_value") from None
        return served.source.name, served.adapter, answer, None, None

    async def _list(self, request: Request) -> Response:
        caller = self._admit(request)
        models = [*self.models.champions, *self.teacher.names]
        models = [name for name in models if caller is None or caller.may_ask(name)]
        return _json({"object": "list", "data": [_model(name) for name in models]})

    async def _describe(self, request: Request) -> Response:
        caller = self._admit(request)
        name = request.path_params["name"]
        if caller and not caller.may_ask(name):
            raise _unknown(name)
        if name in self.teacher.names:
            return _json(_model(name))
        try:
            served = await self.models.get(name)
        except UnknownModelError:
            raise _unknown(name) from None
        except NotYetError as error:
            raise ApiError(503, str(error), kind="server_error", code="not_ready", retry_after=5) from None
        source = served.source
        more = {
            "student": source.name,
            "adapter": source.adapter,
            "classes": source.workload.classes if source.classifies else (),
            "calibrated": source.temperature is not None,
        }
        return _json({**_model(name), "flywheel": more})

    async def _live(self, _: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _: Request) -> Response:
        """Say whether a champion answers; what is not as it should be is in `reasons`."""
        champions = {name: served.adapter for name, served in self.models.champions.items()}
        ready = self._followed and bool(champions)
        models = self.models
        body = {
            "ready": ready,
            "champions": champions,
            "reasons": models.reasons,
            "stopped": models.stopped,
            "answers": models.answers,
            "refused": models.refused,
        }
        return _json(body, status=200 if ready else 503)

    async def _metrics(self, _: Request) -> Response:
        stopped = self.models.stopped
        champions = {
            name: served.adapter for name, served in self.models.champions.items() if name not in stopped
        }
        return Response(self.metrics.exposition(champions), media_type=CONTENT_TYPE)

    def _admit(self, request: Request) -> Caller | None:
        return self._door.admit(request.headers.get("authorization", ""))


async def _body(request: Request, seconds: float) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise ApiError(413, f"the body is longer than {MOST_BYTES:,} bytes", code="too_large")
    except TimeoutError:
        raise ApiError(408, f"the body has not come within {seconds:g} seconds", code="timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "the request broke off") from None
    return bytes(body)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": _OWNER}


def _unknown(name: str) -> ApiError:
    said = (
        f"The model `{name}` does not exist: GET /v1/models lists the champions; a candidate is STUDENT@SIZE "
        "of the champion's run, or MODEL@ADAPTER"
    )
    return ApiError(404, said, param="model", code="model_not_found")


def _json(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def _said(error: ApiError) -> Response:
    retry = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
    return _json(error.body, status=error.status, headers=retry)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _said(error)


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    problem = ApiError(status, f"Invalid URL ({request.method} {request.url.path})", code="unknown_url")
    return _json(problem.body, status=status)


async def _broken(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    said = "the answer failed; the server's log has the reason"
    return _json(ApiError(500, said, kind="server_error").body, status=500)
