"""POST /api/records: log records of an application, a JSON object a line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from flywheel.web import settings
from flywheel.web.access import Trigger
from flywheel.web.artifact_names import NDJSON
from flywheel.web.problems import Problem
from flywheel.web.record_process import Task, take_apart
from flywheel.web.record_stream import AnswerFile, Body, Taken, take
from flywheel.web.routes.parts import problems
from flywheel.workloads.workload import Workload

router = APIRouter(tags=["records"])

_MEDIA_TYPES = (NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines")
_PIECE = 1 << 19
_SMALL_BYTES = 2_000_000
_AT_ONCE = 2
_places = asyncio.Semaphore(_AT_ONCE)

_EXAMPLE = (
    '{"request": {"model": "meta/llama-3.3-70b-instruct", "messages": [{"role": "user", "content": "…"}]}, '
    '"response": {"choices": [{"message": {"role": "assistant", "content": "[[[earnings]]]"}}]}, '
    '"workload_id": "news_classifier", "client_id": "desk", "timestamp": 1760845128}\n'
)
_ANSWER = (
    '{"line":1,"status":"accepted","id":"0f343b0931126a20f133d67c2b018a3b"}\n'
    '{"line":2,"status":"quarantined","reason":"not valid JSON"}\n'
    '{"summary":{"lines":2,"accepted":1,"written":1,"already_there":0,"quarantined":1}}\n'
)


@router.post(
    "/records",
    response_class=Response,
    responses={
        **problems(400, 413, 415),
        200: {
            "description": "An answer for each line, then a summary.",
            "content": {NDJSON: {"schema": {"type": "string"}, "example": _ANSWER}},
        },
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {NDJSON: {"schema": {"type": "string"}, "example": _EXAMPLE}},
        }
    },
)
async def post_records(
    request: Request,
    user: Trigger,
    workload_id: Annotated[
        str | None, Query(min_length=1, max_length=256, description="Set aside records of other workloads.")
    ] = None,
    client_id: Annotated[
        str | None, Query(min_length=1, max_length=256, description="Set aside records of other clients.")
    ] = None,
    answers: Annotated[
        Literal["all", "quarantined"], Query(description="Which lines to answer: all, or the bad ones.")
    ] = "all",
) -> Response:
    """Send records into the store: any number of lines, up to `api.max_records_mb`, in flat memory.

    Each line is answered: accepted with its id, or quarantined with the reason. Ids are made from the
    content, so sending the same again changes nothing: no Idempotency-Key is needed. What was accepted is in
    the store when the answer comes. Where the store fails on the way, the answer is a 503 that says how many
    records are in it.
    """
    _check_media(request)
    config = settings.config()
    root = settings.artifact_root(config.artifacts.root)
    workload = await run_in_threadpool(settings.workload)
    task = Task(
        store=config.store,
        root=root.url,
        workload=config.workload,
        workload_type=config.evaluation_config.workload_type,
        parse_arguments=config.data_split_config.parse_function_arguments,
        workload_id=workload_id,
        client_id=client_id,
        tell_accepted=answers == "all",
        students=tuple(sorted(config.student_names)),
        log_level=config.logging_config.level,
    )
    if _places.locked():
        said = "Other records are being taken; try again."
        raise Problem(429, said, headers={"Retry-After": "5"})
    async with _places:
        told = AnswerFile()
        try:
            if _is_small(request):
                taken = await _take_here(request, told, task, workload)
            else:
                taken = await take_apart(request.stream(), told, task)
        except BaseException:
            told.close()
            raise
    if taken.stopped:
        told.close()
        status = 503 if "store" in taken.stopped else 400
        raise Problem(status, f"Line {taken.lines}: {taken.stopped}.", **_summary(taken))
    return StreamingResponse(_all(told, taken), media_type=NDJSON)


def _is_small(request: Request) -> bool:
    """Return whether to take a body is less work than to start a process for it."""
    return int(request.headers.get("content-length", _SMALL_BYTES)) < _SMALL_BYTES


async def _take_here(request: Request, told: AnswerFile, task: Task, workload: Workload) -> Taken:
    """Take the records of a body in a thread."""
    body = Body()
    try:
        reader = asyncio.create_task(_read(request, body))
        taken = await run_in_threadpool(
            take,
            body,
            told,
            store=task.store,
            root=settings.artifact_root(task.root),
            workload=workload,
            workload_type=task.workload_type,
            parse_arguments=task.parse_arguments,
            workload_id=task.workload_id,
            client_id=task.client_id,
            tell_accepted=task.tell_accepted,
            students=frozenset(task.students),
        )
        await reader
    except BaseException:
        body.give_up()
        raise
    return taken


async def _read(request: Request, body: Body) -> None:
    """Hand the body on in larger pieces: a thread is changed for each."""
    piece = bytearray()
    broken = True
    try:
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= _PIECE:
                if not await run_in_threadpool(body.put, bytes(piece)):
                    break
                piece.clear()
        else:
            await run_in_threadpool(body.put, bytes(piece))
            broken = False
    except ClientDisconnect:
        pass
    except HTTPException:  # the body is too large
        raise
    finally:
        await run_in_threadpool(body.end, broken=broken)


def _all(told: AnswerFile, taken: Taken) -> Iterator[bytes]:
    yield from told.chunks()
    yield orjson.dumps({"summary": _summary(taken)}, option=orjson.OPT_APPEND_NEWLINE)


def _summary(taken: Taken) -> dict[str, Any]:
    summary = asdict(taken)
    del summary["stopped"]
    return summary


def _check_media(request: Request) -> None:
    kind = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind not in _MEDIA_TYPES:
        raise Problem(415, f"Content-Type: {NDJSON} is expected, a JSON object a line.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "Content-Encoding: the body is expected as it is, not compressed.")
