"""The Deployment Manager, and the NIMs that it deploys: they answer by flywheel's own generation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from nemo_microservices.lib.custom_types.inference.model_list_response import Data
from nemo_microservices.types.chat import ChatCompletionResponse, completion_create_params
from nemo_microservices.types.deployment import ModelDeployment, model_deployment_create_params
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flywheel.artifacts.root import ArtifactRoot
from flywheel.workloads.tool_calls import parse_calls, with_arguments
from flywheel_stand_ins.nemo.checks import check_answer, check_request
from flywheel_stand_ins.nemo.entities import Entities
from flywheel_stand_ins.nemo.state import Entity, NemoBehaviour, State, new_id, problem, reply
from flywheel_stand_ins.nemo.students import Students

GATHER_SECONDS = 0.03
_MOST_AT_ONCE = 64

# Base model and key, by the name of an adapter.
Adapters = Callable[[], dict[str, tuple[str, str]]]


class Deployments(Entities):
    """The Deployment Manager's application.

    Args:
        state: where deployments are kept.
        students: what can be deployed.
        behaviour: how long a deployment takes, and which fail.
    """

    def __init__(self, state: State, students: Students, behaviour: NemoBehaviour) -> None:
        super().__init__(
            state,
            "/v1/deployment/model-deployments",
            model_deployment_create_params.ModelDeploymentCreateParams,
            ModelDeployment,
            "",
        )
        self._students = students
        self._behaviour = behaviour

    def described(self, body: Entity) -> Entity:
        """Begin a deployment."""
        model = body["config"]["model"]
        ends = "ready"
        said = ""
        if model not in self._students.names:
            ends, said = "failed", f"image {body['config']['nim_deployment']['image_name']} cannot be pulled"
        elif self._behaviour.must_fail(model):
            ends, said = "failed", "the NIM's pod is in CrashLoopBackOff, as the stand-in was told to"
        elif self._behaviour.never_ready and self._behaviour.never_ready in model:
            ends, said = "pending", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
        self.state.reach("most deployments at once", len(self.state.all(self.kind)) + 1)
        config = {**body["config"], "name": new_id("cfg")}
        return {
            **body,
            "config": config,
            "ends": ends,
            "said": said,
            "ready_at": time.time() + self._behaviour.pending_seconds,
        }

    def shown(self, entity: Entity) -> Entity:
        """Return a deployment with the status that it has by now."""
        status = entity["ends"] if time.time() >= entity["ready_at"] else "pending"
        details = {
            "status": status,
            "description": entity["said"] or f"deployment {entity['name']} is {status}",
        }
        hidden = ("ends", "said", "ready_at")
        shown = {key: value for key, value in entity.items() if key not in hidden}
        return {**shown, "url": "", "deployed": status == "ready", "status_details": details}

    def ready(self) -> set[str]:
        """Return the models that are deployed and ready."""
        found = (self.shown(entity) for entity in self.state.all(self.kind).values())
        return {entity["config"]["model"] for entity in found if entity["deployed"]}


class Nim:
    """The NIM proxy: it answers for every ready model, and for the adapters of those.

    Args:
        deployments: what is ready.
        adapters: what has been customized.
        students: the weights.
        root: where adapters are.
    """

    def __init__(
        self, deployments: Deployments, adapters: Adapters, students: Students, root: ArtifactRoot
    ) -> None:
        self._deployments = deployments
        self._adapters = adapters
        self._students = students
        self._root = root
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._waiting: dict[str, list[tuple[Any, Any, int, asyncio.Future[str]]]] = {}
        self._torch = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
        ]

    async def _models(self, request: Request) -> Response:
        models = [
            check_answer(Data, {"id": name, "object": "model", "created": 0, "owned_by": "stand-in"})
            for name in self._served()
        ]
        return reply({"object": "list", "data": models})

    async def _complete(self, request: Request) -> Response:
        asked = await request.json()
        # OpenAI's objects, as NIMs take them; the client's type of this one field is a list of texts.
        tools = asked.pop("tools", None)
        body = check_request(completion_create_params.CompletionCreateParamsNonStreaming, asked)
        model = body["model"]
        if model not in self._served():
            return problem(404, f"the model `{model}` does not exist")
        messages = with_arguments(body["messages"], as_text=False)
        text = await self._answer(model, messages, tools, body.get("max_tokens", 16))
        message: dict[str, Any] = {"role": "assistant", "content": text}
        calls = parse_calls(text) if tools else ()
        if calls:
            logged = [{"id": new_id("call"), **call.to_json()} for call in calls]
            message = with_arguments([{**message, "content": None, "tool_calls": logged}], as_text=True)[0]
        completion = {
            "id": new_id("chat"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }
        self._deployments.state.count("prompts answered")
        return reply(check_answer(ChatCompletionResponse, completion))

    def _served(self) -> list[str]:
        ready = self._deployments.ready()
        adapters = [name for name, (base, _) in self._adapters().items() if base in ready]
        return [*sorted(ready), *adapters]

    async def _answer(self, model: str, messages: list[dict[str, Any]], tools: Any, most: int) -> str:
        """Answer a request together with those for the same model that come in the next moment."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(model, [])
        waiting.append((messages, tools, most, answer))
        if len(waiting) == 1:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._begin, model)
        return await answer

    def _begin(self, model: str) -> None:
        task = asyncio.ensure_future(self._answer_waiting(model))
        task.add_done_callback(lambda done: done.exception())

    async def _answer_waiting(self, model: str) -> None:
        async with self._torch:
            batch = self._waiting.pop(model, [])
            try:
                texts = await asyncio.to_thread(self._generate, model, batch)
            except Exception as error:
                for *_, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                raise
        for (*_, answer), text in zip(batch, texts, strict=True):
            if not answer.done():
                answer.set_result(text)

    def _generate(self, model: str, batch: list[tuple[Any, Any, int, Any]]) -> list[str]:
        from flywheel.students.generation import generate

        chat, decoder = self._load(model)
        prompts, _ = chat.prompts([messages for messages, *_ in batch], [tools for _, tools, *_ in batch])
        answers = generate(
            decoder,
            [prompt for prompt in prompts if prompt is not None],
            chat.stops,
            max_new_tokens=max(most for *_, most, _ in batch),
            batch_size=_MOST_AT_ONCE,
        )
        texts = iter(answers.given)
        return [chat.text(next(texts)) if prompt is not None else "" for prompt in prompts]

    def _load(self, model: str) -> tuple[Any, Any]:
        """Return a model's chat and decoder, loaded once."""
        if model not in self._loaded:
            import torch

            from flywheel.students.adapter import load_adapter
            from flywheel.students.decoder import Decoder
            from flywheel.students.loading import load_student, prepare_process

            torch.set_num_threads(1)
            base, key = self._adapters().get(model, (model, ""))
            student = load_student(self._students.student(base), prepare_process())
            weights = load_adapter(student.model, self._root.fetch("adapters", key)) if key else student.model
            decoder = Decoder(weights)
            if decoder.device.type == "cpu":
                decoder.merge()
            self._loaded[model] = (student.chat, decoder)
        return self._loaded[model]
