"""The Customizer: targets, configs, and jobs that train a student with flywheel's own code."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

from nemo_microservices.types import CustomizationConfig, CustomizationTarget
from nemo_microservices.types.customization import (
    CustomizationJob,
    CustomizationJobListFilterParam,
    CustomizationStatusDetails,
    config_create_params,
    job_create_params,
    target_create_params,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flywheel.common.errors import ArtifactError, FlywheelError
from flywheel.config.schema import RuntimeConfig
from flywheel.jobs.result import CustomizeResult
from flywheel.runtimes.base import Job
from flywheel.runtimes.local.processes import Processes
from flywheel_stand_ins.nemo.checks import BadRequestError, check_answer, check_request
from flywheel_stand_ins.nemo.datastore import DatastoreStandIn
from flywheel_stand_ins.nemo.entities import Entities, filters_of, page_of
from flywheel_stand_ins.nemo.state import Entity, NemoBehaviour, State, new_id, now, problem, reply
from flywheel_stand_ins.nemo.students import VERSION, Students
from flywheel_stand_ins.nemo.training import Trainings, path_of

KIND = "customization/jobs"
OVER = ("completed", "failed", "cancelled")


class CustomizerStandIn:
    """The Customizer's application.

    Args:
        state: where jobs are kept; their work is in its folder.
        datastore: where data sets are, and what jobs make.
        models: of the entity store.
        students: what can be customized.
        behaviour: when to fail, and how many jobs run at once.
    """

    def __init__(
        self,
        state: State,
        datastore: DatastoreStandIn,
        models: Entities,
        students: Students,
        behaviour: NemoBehaviour,
    ) -> None:
        self._state = state
        self._models = models
        self._students = students
        self._behaviour = behaviour
        self._trainings = Trainings(state, datastore, models, students)
        self._root = self._trainings.root
        self._places = asyncio.Semaphore(behaviour.running_jobs)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runtimes: dict[str, Processes] = {}
        self.targets = Entities(
            state,
            "/v1/customization/targets",
            target_create_params.TargetCreateParams,
            CustomizationTarget,
            "tgt",
        )
        self.configs = _Configs(
            state,
            "/v1/customization/configs",
            config_create_params.ConfigCreateParams,
            CustomizationConfig,
            "",
        )
        self.configs.targets = self.targets
        for name in students.names:
            self._offer(name)

    def routes(self) -> list[Route]:
        """Return the routes."""
        jobs = "/v1/customization/jobs"
        return [
            Route(jobs, self._create, methods=["POST"]),
            Route(jobs, self._list, methods=["GET"]),
            Route(f"{jobs}/{{id}}", self._retrieve),
            Route(f"{jobs}/{{id}}/status", self._status),
            Route(f"{jobs}/{{id}}/cancel", self._cancel, methods=["POST"]),
            *self.targets.routes(),
            *self.configs.routes(),
        ]

    def adapters(self) -> dict[str, tuple[str, str]]:
        """Return the adapters that are done and not removed: base model and key, by output model."""
        return {
            job["output_model"]: (job["base"], job["adapter"])
            for job in self._state.all(KIND).values()
            if job["status"] == "completed" and self._models.find(job["output_model"] or "") is not None
        }

    async def start(self) -> None:
        """Go on with the jobs that a restart has interrupted."""
        for job in self._state.all(KIND).values():
            if job["status"] == "cancelling":
                self._change(job, "cancelled")
            elif job["status"] not in OVER:
                self._run(job)

    async def stop(self) -> None:
        """End the work; the jobs stay as they are, for the next start."""
        for runtime in list(self._runtimes.values()):
            runtime.kill()
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    # -- requests ------------------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        body = check_request(job_create_params.JobCreateParams, await request.json())
        namespace = body.get("namespace", "default")
        name = body.get("name")
        if name and any(job["name"] == f"{namespace}/{name}" for job in self._state.all(KIND).values()):
            return problem(409, f"customization job {namespace}/{name} already exists")
        config = self.configs.find(body["config"]) if isinstance(body["config"], str) else body["config"]
        if config is None:
            return problem(404, f"customization config {body['config']} not found")
        target = self.targets.find(config["target"])
        dataset = body["dataset"]
        dataset = (
            dataset
            if isinstance(dataset, str)
            else f"{dataset.get('namespace', 'default')}/{dataset['name']}"
        )
        if dataset not in self._state.all("datasets"):
            return problem(404, f"dataset {dataset} not found")
        assert target is not None
        job = {
            "id": new_id("cust"),
            "name": f"{namespace}/{name}" if name else "",
            "shown": {
                "config": self.configs.shown(config),
                "dataset": dataset,
                **{key: body[key] for key in _KEPT if key in body},
                "namespace": namespace,
            },
            "base": target["base_model"],
            "output_model": body.get("output_model"),
            "status": "created",
            "created_at": now(),
            "updated_at": now(),
            "logs": [],
            "adapter": None,
        }
        shown = check_answer(CustomizationJob, self._shown(job))
        self._state.put(KIND, job["id"], job)
        self._state.count("customizations made")
        self._state.count(f"customizations of {job['output_model']}")
        self._run(job)
        return reply(shown)

    async def _list(self, request: Request) -> Response:
        wanted = filters_of(request, CustomizationJobListFilterParam)
        found = [self._shown(job) for job in self._state.all(KIND).values()]
        for field in ("namespace", "status", "dataset", "project"):
            if field in wanted:
                found = [job for job in found if job.get(field) == wanted[field]]
        return reply(page_of([check_answer(CustomizationJob, job) for job in found], request))

    async def _retrieve(self, request: Request) -> Response:
        job = self._state.all(KIND).get(request.path_params["id"])
        if job is None:
            return problem(404, f"customization job {request.path_params['id']} not found")
        return reply(check_answer(CustomizationJob, self._shown(job)))

    async def _status(self, request: Request) -> Response:
        job = self._state.all(KIND).get(request.path_params["id"])
        if job is None:
            return problem(404, f"customization job {request.path_params['id']} not found")
        return reply(check_answer(CustomizationStatusDetails, self._details(job)))

    async def _cancel(self, request: Request) -> Response:
        job = self._state.all(KIND).get(request.path_params["id"])
        if job is None:
            return problem(404, f"customization job {request.path_params['id']} not found")
        if job["status"] in OVER:
            return problem(409, f"customization job {job['id']} is {job['status']}")
        self._change(job, "cancelling", "cancelled by the user")
        if job["id"] in self._runtimes:
            self._runtimes[job["id"]].kill()
        elif job["id"] in self._tasks:
            self._tasks[job["id"]].cancel()
            self._change(job, "cancelled")
        self._state.count("customizations cancelled")
        return reply(check_answer(CustomizationJob, self._shown(job)))

    # -- the work ------------------------------------------------------------------------------------

    def _run(self, job: Entity) -> None:
        self._tasks[job["id"]] = asyncio.create_task(self._work(job))

    async def _work(self, job: Entity) -> None:
        self._change(job, "pending", "waiting for a GPU")
        async with self._places:
            await asyncio.sleep(self._behaviour.pending_seconds)
            self._change(job, "running", "TrainingJobRunning")
            running = sum(one["status"] == "running" for one in self._state.all(KIND).values())
            self._state.reach("most customizations at once", running)
            try:
                if self._behaviour.must_fail(job["output_model"] or ""):
                    raise BadRequestError("the training pod was evicted, as the stand-in was told to")
                spec = await asyncio.to_thread(self._trainings.spec, job)
                runtime = self._runtimes[job["id"]] = Processes(RuntimeConfig(parallel=2, threads=1))
                made = Job("customize", f"{self._root.url}/{path_of(job)}.spec.json", job["id"])
                await asyncio.to_thread(runtime.run, made, lambda line: None)
                job["adapter"] = spec.key
                if job["output_model"]:
                    self._trainings.publish(job, spec)
                self._change(job, "completed")
            except asyncio.CancelledError:
                raise
            except (FlywheelError, BadRequestError, KeyError) as error:
                if job["status"] == "cancelling":
                    self._change(job, "cancelled")
                else:
                    self._change(job, "failed", "Failed", str(error))
            finally:
                self._runtimes.pop(job["id"], None)

    # -- small things --------------------------------------------------------------------------------

    def _offer(self, model: str) -> None:
        """Have a target for a model, as an installation of NeMo has it."""
        name = f"{model}@{VERSION}"
        if self.targets.find(name) is None:
            namespace, _, rest = name.partition("/")
            target = {
                "id": new_id("tgt"),
                "namespace": namespace,
                "name": rest,
                "base_model": model,
                "model_path": rest.replace("@", "_"),
                "num_parameters": self._students.parameters(model),
                "precision": "fp32",
                "enabled": True,
                "status": "ready",
                "created_at": now(),
                "updated_at": now(),
            }
            self._state.put(self.targets.kind, name, check_answer(CustomizationTarget, target))

    def _change(self, job: Entity, status: str, message: str = "", detail: str = "") -> None:
        job.update(status=status, updated_at=now())
        if status == "running":
            job.setdefault("started", time.time())
        if status in OVER:
            job["seconds"] = time.time() - job.get("started", time.time())
        if message:
            log = {"updated_at": now(), "message": message}
            job["logs"].append({**log, "detail": detail} if detail else log)
        self._state.save()

    def _shown(self, job: Entity) -> Entity:
        return {
            **job["shown"],
            "id": job["id"],
            "status": job["status"],
            "created_at": job["created_at"],
            "updated_at": job["updated_at"],
        }

    def _details(self, job: Entity) -> Entity:
        details: Entity = {
            "status": job["status"],
            "created_at": job["created_at"],
            "updated_at": job["updated_at"],
            "status_logs": job["logs"],
            "elapsed_time": job.get("seconds", time.time() - job.get("started", time.time())),
        }
        if job["status"] == "completed":
            result = CustomizeResult.model_validate(self._root.read_json(f"{path_of(job)}.json")["result"])
            epochs = job["shown"]["hyperparameters"].get("epochs", 1)
            details.update(
                percentage_done=100.0,
                epochs_completed=epochs,
                best_epoch=epochs - 1,
                steps_completed=result.steps,
                steps_per_epoch=result.steps // epochs,
                train_loss=result.train_loss,
                elapsed_time=result.train_seconds,
                metrics=_metrics([point.model_dump() for point in result.losses]),
            )
            if result.val_loss is not None:
                details["val_loss"] = result.val_loss
        elif job["status"] == "running":
            with suppress(ArtifactError, KeyError, json.JSONDecodeError):
                seen = self._root.read_json(f"{path_of(job)}.progress.json")
                details.update(
                    percentage_done=100.0 * seen["step"] / max(1, seen["steps"]),
                    steps_completed=seen["step"],
                    epochs_completed=0,
                    metrics=_metrics(seen["losses"]),
                )
                if seen["loss"] is not None:
                    details["train_loss"] = seen["loss"]
        return details


class _Configs(Entities):
    """Configs name their target, and show it whole."""

    targets: Entities

    def described(self, body: Entity) -> Entity:
        target = body.get("target")
        if not isinstance(target, str) or self.targets.find(target) is None:
            raise BadRequestError(f"target: {target} not found")
        return body

    def shown(self, entity: Entity) -> Entity:
        target = self.targets.find(entity["target"])
        return {**entity, "target": target or entity["target"]}


_KEPT = ("hyperparameters", "output_model", "custom_fields", "description", "project")


def _metrics(points: list[dict[str, Any]]) -> Entity:
    train = [{"step": point["step"], "timestamp": now(), "value": point["loss"]} for point in points]
    val = [
        {"step": point["step"], "timestamp": now(), "value": point["val_loss"]}
        for point in points
        if point.get("val_loss") is not None
    ]
    return {"keys": ["train_loss", "val_loss"], "metrics": {"train_loss": train, "val_loss": val}}
