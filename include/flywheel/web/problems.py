"""Errors as RFC 9457 problem details: what is wrong, in a sentence, and nothing of how the server is built.

The routes of the blueprint's contract answer a request that does not validate as its clients expect it:
`detail` is the list of what is wrong, as JSON. A client that accepts problem details gets these there too.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException, RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flywheel.common.errors import ArtifactError, ConfigError, FlywheelError, StoreError, WorkloadError

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
_MOST_ERRORS = 20


class Problem(Exception):  # noqa: N818  the word of RFC 9457
    """A request that cannot be done, as the client is told.

    Args:
        status: of HTTP.
        detail: a sentence about this request.
        headers: of the answer.
        more: further members of the problem.
    """

    def __init__(
        self, status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.more = more


class ProblemDetails(BaseModel):
    """A problem, as the document of the API describes it (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field("about:blank", description="A URI of the kind of problem.")
    title: str = Field(description="The kind of problem in words: that of the HTTP status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field("", description="What is wrong with this request.")


class InvalidRequest(BaseModel):
    """A request to a route of the blueprint's contract that does not validate."""

    class Fault(BaseModel):
        """One thing that is wrong."""

        loc: list[str | int]
        msg: str
        type: str

    detail: list[Fault] = Field(default_factory=list)


def problem_response(problem: Problem) -> Response:
    """Return the answer that tells a problem."""
    body = {
        "type": "about:blank",
        "title": _title(problem.status),
        "status": problem.status,
        "detail": problem.detail,
        **problem.more,
    }
    return Response(orjson.dumps(body), problem.status, headers=problem.headers, media_type=PROBLEM_JSON)


def install_handlers(app: FastAPI) -> None:
    """Make an application tell its errors as problems."""

    @app.exception_handler(Problem)
    async def _(request: Request, error: Problem) -> Response:
        return problem_response(error)

    @app.exception_handler(StarletteHTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        detail = error.detail if isinstance(error.detail, str) else _title(error.status_code)
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.UNAUTHORIZED:
            headers.setdefault("WWW-Authenticate", "Bearer")
        return problem_response(Problem(error.status_code, detail, headers=headers))

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        faults = _faults(error.errors())
        if _is_of_contract(request):
            return Response(orjson.dumps({"detail": faults}), 422, media_type="application/json")
        return problem_response(Problem(422, _sentence(faults), errors=faults))

    @app.exception_handler(FlywheelError)
    async def _(request: Request, error: FlywheelError) -> Response:
        return problem_response(problem_of(error))


def problem_of(error: FlywheelError) -> Problem:
    """Return an error of flywheel's as a problem; its message may name files here, so only the log has it."""
    number = uuid.uuid4().hex[:12]
    log.warning("problem %s: %s: %s", number, type(error).__name__, error)
    if isinstance(error, ConfigError | WorkloadError):
        said = "The server's configuration is wrong"
    elif isinstance(error, StoreError):
        said = "The record store cannot be used now"
    elif isinstance(error, ArtifactError):
        said = "Something in the artifact root is missing, damaged or out of reach"
    else:
        said = "The server cannot do this now"
    return Problem(503, f"{said}; its log has the reason under {number}.", incident=number)


def invalid(field: str, message: str, *, where: str = "body") -> RequestValidationError:
    """Return the error of a field that a schema cannot check."""
    return RequestValidationError([{"loc": (where, field), "msg": message, "type": "value_error"}])


class Guard:
    """The outermost part of the application: what nobody expected is logged, and told without its stack."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and answer for it where it fails."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Problem as problem:
            if not started:
                await problem_response(problem)(scope, receive, send)
        except Exception:
            number = uuid.uuid4().hex[:12]
            log.exception("problem %s: %s %r", number, scope["method"], scope["path"])
            if started:
                raise
            said = f"Something went wrong here; the server's log has it under {number}."
            await problem_response(Problem(500, said, incident=number))(scope, receive, send)


def _faults(errors: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what is wrong, without the input: it may be huge, secret or no JSON."""
    return [
        {
            "loc": [part if isinstance(part, int) else str(part)[:100] for part in error["loc"]],
            "msg": str(error["msg"])[:300],
            "type": str(error["type"]),
        }
        for error in errors[:_MOST_ERRORS]
    ]


def _sentence(faults: list[dict[str, Any]]) -> str:
    first = faults[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where or first['loc'][0]}: {first['msg']}{more}"


def _is_of_contract(request: Request) -> bool:
    path = request.url.path.rstrip("/")
    return "/api/jobs" in path and PROBLEM_JSON not in request.headers.get("accept", "")


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
