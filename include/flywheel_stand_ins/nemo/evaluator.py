"""The Evaluator: jobs that score rows by string checks, the kind that flywheel asks for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from nemo_microservices.types import EvaluationResult, EvaluationStatusDetails
from nemo_microservices.types.evaluation import EvaluationJob, EvaluationJobFilterParam, job_create_params
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flywheel_stand_ins.nemo.checks import BadRequestError, check_answer, check_request
from flywheel_stand_ins.nemo.entities import filters_of, page_of
from flywheel_stand_ins.nemo.state import Entity, NemoBehaviour, State, new_id, now, problem, reply

KIND = "evaluation/jobs"
OVER = ("completed", "failed", "cancelled")
_CHECKS: dict[str, Callable[[str, str], bool]] = {
    "equals": lambda left, right: left == right,
    "not equals": lambda left, right: left != right,
    "contains": lambda left, right: right in left,
    "startswith": lambda left, right: left.startswith(right),
    "endswith": lambda left, right: left.endswith(right),
}


class EvaluatorStandIn:
    """The Evaluator's application.

    Args:
        state: where jobs are kept.
        behaviour: when to fail.
    """

    def __init__(self, state: State, behaviour: NemoBehaviour) -> None:
        self._state = state
        self._behaviour = behaviour
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self) -> list[Route]:
        """Return the routes."""
        jobs = "/v1/evaluation/jobs"
        return [
            Route(jobs, self._create, methods=["POST"]),
            Route(jobs, self._list, methods=["GET"]),
            Route(f"{jobs}/{{id}}", self._retrieve, methods=["GET"]),
            Route(f"{jobs}/{{id}}/status", self._status),
            Route(f"{jobs}/{{id}}/results", self._results),
            Route(f"{jobs}/{{id}}/cancel", self._cancel, methods=["POST"]),
        ]

    async def start(self) -> None:
        """Go on with the jobs that a restart has interrupted."""
        for job in self._state.all(KIND).values():
            if job["status"] not in OVER:
                self._run(job)

    async def stop(self) -> None:
        """End the work; the jobs stay as they are, for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _create(self, request: Request) -> Response:
        body = check_request(job_create_params.JobCreateParams, await request.json())
        target, config = body["target"], body["config"]
        if not isinstance(target, dict) or target["type"] != "rows" or not isinstance(config, dict):
            raise BadRequestError("this stand-in evaluates `rows` by a config in the request")
        job: Entity = {
            **{key: body[key] for key in ("custom_fields", "description", "project") if key in body},
            "id": new_id("eval"),
            "namespace": body.get("namespace", "default"),
            "target": target,
            "config": config,
            "status": "created",
            "status_details": {"message": "Job created", "progress": 0.0},
            "created_at": now(),
            "updated_at": now(),
        }
        shown = check_answer(EvaluationJob, job)
        self._state.put(KIND, job["id"], job)
        self._state.count("evaluations made")
        self._run(job)
        return reply(shown)

    async def _list(self, request: Request) -> Response:
        wanted = filters_of(request, EvaluationJobFilterParam)
        found = list(self._state.all(KIND).values())
        for field in ("namespace", "status", "project"):
            if field in wanted:
                found = [job for job in found if job.get(field) == wanted[field]]
        for name, value in wanted.get("custom_fields", {}).items():
            found = [job for job in found if job.get("custom_fields", {}).get(name) == value]
        return reply(page_of([check_answer(EvaluationJob, job) for job in found], request))

    async def _retrieve(self, request: Request) -> Response:
        job = self._state.all(KIND).get(request.path_params["id"])
        return reply(check_answer(EvaluationJob, job)) if job else _missing(request)

    async def _status(self, request: Request) -> Response:
        job = self._state.all(KIND).get(request.path_params["id"])
        return (
            reply(check_answer(EvaluationStatusDetails, job["status_details"])) if job else _missing(request)
        )

    async def _results(self, request: Request) -> Response:
        job = self._state.all(KIND).get(request.path_params["id"])
        if job is None:
            return _missing(request)
        if job["status"] != "completed":
            return problem(404, f"evaluation job {job['id']} is {job['status']}: it has no results")
        result = {
            "id": new_id("evalresult"),
            "job": job["id"],
            "namespace": job["namespace"],
            "tasks": score(job),
        }
        return reply(check_answer(EvaluationResult, result))

    async def _cancel(self, request: Request) -> Response:
        job = self._state.all(KIND).get(request.path_params["id"])
        if job is None:
            return _missing(request)
        if job["status"] in OVER:
            return problem(400, f"evaluation job {job['id']} is {job['status']}")
        self._change(job, "cancelled", "cancelled by the user", 0.0)
        return reply(check_answer(EvaluationJob, job))

    def _run(self, job: Entity) -> None:
        task = asyncio.create_task(self._work(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, job: Entity) -> None:
        await asyncio.sleep(self._behaviour.pending_seconds)
        if job["status"] in OVER:
            return
        self._change(job, "running", "Job is running", 10.0)
        await asyncio.sleep(self._behaviour.pending_seconds)
        if job["status"] in OVER:
            return
        try:
            score(job)
        except BadRequestError as error:
            self._change(job, "failed", str(error), 100.0)
        else:
            self._change(job, "completed", "Job completed successfully.", 100.0)

    def _change(self, job: Entity, status: str, message: str, progress: float) -> None:
        job.update(status=status, updated_at=now(), status_details={"message": message, "progress": progress})
        self._state.save()


def score(job: Entity) -> dict[str, Any]:
    """Return the result of each task: the mean of each string check over the rows.

    Raises:
        BadRequestError: a metric that the stand-in does not know.
    """
    rows = job["target"]["rows"]
    tasks = {}
    for name, task in job["config"].get("tasks", {}).items():
        metrics = {}
        for metric, asked in task.get("metrics", {}).items():
            check = asked.get("params", {}).get("check", [])
            if asked["type"] != "string-check" or len(check) != 3 or check[1] not in _CHECKS:
                raise BadRequestError(f"{name}.{metric}: this stand-in knows string-check alone")
            left, how, right = check
            hits = [_CHECKS[how](_filled(left, row), _filled(right, row)) for row in rows]
            value = sum(hits) / max(1, len(hits))
            metrics[metric] = {
                "scores": {"string-check": {"value": value, "stats": {"count": len(rows), "mean": value}}}
            }
        tasks[name] = {"metrics": metrics}
    return tasks


def _filled(template: str, row: dict[str, Any]) -> str:
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: str(row.get(match[1], "")), template)


def _missing(request: Request) -> Response:
    return problem(404, f"evaluation job {request.path_params['id']} not found")
