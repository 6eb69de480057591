"""Students at a vLLM, whose API is played here word for word as vLLM 0.32 speaks it; the real one: tests/integration."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import ConfigError, StudentError
from flywheel.config.loading import validate_config
from flywheel.config.serving import ServingConfig, VllmServer
from flywheel.config.student import Student
from flywheel.serving.student import Answer, NotYetError, Question, RefusedError, Source
from flywheel.serving.vllm import VllmStudent
from flywheel.workloads.workload import Workload
from tests.unit.teacher_servers import body_of, served

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
KEY = "a" * 20


class Vllm:
    """vLLM's answers, to the letter of 0.32.0."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.says: tuple[int, dict[str, Any]] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = json.loads(await body_of(receive))
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.calls.append((scope["path"], body, headers))
        status, data = self._answer(scope["path"], body)
        content = data.encode() if isinstance(data, str) else json.dumps(data).encode()
        head = [(b"content-length", str(len(content)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = body.get("lora_name", "")
        if path == "/v1/load_lora_adapter":
            assert "load_inplace" not in body
            if name in self.adapters:
                said = (
                    f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in "
                )
                return 400, _error(f"{said}place, set 'load_inplace' to True.", "InvalidUserInput", 400)
            self.adapters[name] = body["lora_path"]
            return 200, f"Success: LoRA adapter '{name}' added successfully."
        if path == "/v1/unload_lora_adapter":
            del self.adapters[name]
            return 200, f"Success: LoRA adapter '{name}' removed successfully."
        if self.says is not None:
            return self.says
        if body["model"] not in self.adapters:
            said = f"The model `{body['model']}` does not exist. Valid aliases: base."
            return 404, _error(said, "NotFoundError", 404)
        text = body["structured_outputs"]["choice"][0] if "structured_outputs" in body else "free words"
        tokens = [{"token": text, "logprob": math.log(0.9)}, {"token": "<|end|>", "logprob": math.log(0.5)}]
        choice = {"message": {"content": text}, "finish_reason": "stop", "logprobs": {"content": tokens}}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}


def _error(message: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def source(folder: Path, *, classifies: bool) -> Source:
    student = Student(model_name="a/b", name="small")
    return Source(
        name="small @ 300",
        student=student,
        adapter=KEY,
        folder=folder,
        workload=WORKLOAD,
        asked_text=True,
        temperature=None,
        classifies=classifies,
    )


class Slow(Vllm):
    """Takes its time for the first answer, and then for each that is asked for slowness."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if len(self.calls) == self.slow_at:
            await asyncio.sleep(0.6)
        await super().__call__(scope, receive, send)

    slow_at = 1


def run(vllm: Vllm, adapter: Path, *questions: Question, classifies: bool = True, **server: Any) -> list[Any]:
    """Start a student at a vLLM, ask it, and stop it; what it raises is in place of the answer."""
    with served(vllm) as url:
        place = VllmServer(student="small", url=url, **server)

        async def all_of_it() -> list[Any]:
            student = VllmStudent(source(adapter, classifies=classifies), place, 10)
            await student.start()
            found = [(await asyncio.gather(student.ask(one), return_exceptions=True))[0] for one in questions]
            await student.stop()
            return found

        return asyncio.run(all_of_it())


def asking(text: str, **more: Any) -> Question:
    return Question([{"role": "user", "content": text}], **more)


def test_an_adapter_is_loaded_under_its_contents_key_warmed_and_unloaded(tmp_path: Path) -> None:
    vllm = Vllm()
    trace = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
    (answer,) = run(vllm, tmp_path, asking("Acme <|end|> cuts jobs", trace=trace))
    assert [path for path, *_ in vllm.calls] == [
        "/v1/load_lora_adapter",
        "/v1/chat/completions",
        "/v1/chat/completions",
        "/v1/unload_lora_adapter",
    ]
    assert vllm.calls[0][1] == {"lora_name": KEY, "lora_path": str(tmp_path.resolve())}
    _, body, headers = vllm.calls[2]
    assert (body["model"], body["temperature"], headers["traceparent"]) == (KEY, 0, trace["traceparent"])
    # The text alone, its special tokens broken up, as in training; the answer is one of the classes.
    assert body["messages"][0]["content"] == "Acme < |end|> cuts jobs"
    assert len(body["structured_outputs"]["choice"]) == len(WORKLOAD.classes)
    assert answer.label == WORKLOAD.classes[0]
    assert answer.probabilities == {answer.label: pytest.approx(0.45)}
    assert vllm.adapters == {}


def test_one_that_is_there_is_the_same_and_one_that_was_lost_is_loaded_again(tmp_path: Path) -> None:
    vllm = Vllm()
    vllm.adapters[KEY] = "there already"
    (answer,) = run(vllm, tmp_path, asking("x"))
    assert isinstance(answer, Answer)

    class Forgetful(Vllm):
        def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
            if len(self.calls) == 3:  # after the warm-up it was started anew
                self.adapters.clear()
            return super()._answer(path, body)

    (answer,) = run(Forgetful(), tmp_path, asking("x"))
    assert isinstance(answer, Answer)


def test_calls_are_told_from_texts_by_us_and_a_shared_folder_gets_the_adapter_whole(tmp_path: Path) -> None:
    adapter, shared = tmp_path / "adapter", tmp_path / "shared"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    vllm = Vllm()
    tools = [{"type": "function", "function": {"name": "quote"}}]
    (answer,) = run(vllm, adapter, asking("x", tools=tools), classifies=False, folder=str(shared))
    assert (answer.text, answer.label) == ("free words", None)
    assert vllm.calls[2][1]["tool_choice"] == "none" and vllm.calls[2][1]["tools"]
    assert vllm.calls[0][1]["lora_path"] == str(shared / KEY)
    assert [path.name for path in shared.iterdir()] == [KEY]
    assert (shared / KEY / "adapter_model.safetensors").read_bytes() == b"weights"


def test_what_vllm_refuses_is_told_in_its_words_and_what_it_cannot_is_for_later(tmp_path: Path) -> None:
    class Says(Vllm):
        def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
            if body.get("messages", [{}])[0].get("content") == "long":
                return 400, _error("maximum context length is 2048 tokens", "BadRequestError", 400)
            if body.get("messages", [{}])[0].get("content") == "ill":
                return 500, _error("EngineCore died", "InternalServerError", 500)
            return super()._answer(path, body)

    long, ill, good = run(Says(), tmp_path, asking("long"), asking("ill"), asking("x"))
    assert isinstance(long, RefusedError) and "maximum context length" in str(long)
    assert isinstance(ill, NotYetError) and "EngineCore died" in str(ill)
    assert isinstance(good, Answer)


def test_the_first_answer_may_take_longer_and_a_late_one_says_so(tmp_path: Path) -> None:
    def asked(vllm: Slow) -> list[Any]:
        with served(vllm) as url:
            place = VllmServer(student="small", url=url)

            async def all_of_it() -> list[Any]:
                student = VllmStudent(source(tmp_path, classifies=True), place, 0.3)
                await student.start()
                found = await asyncio.gather(student.ask(asking("x")), return_exceptions=True)
                await student.stop()
                return list(found)

            return asyncio.run(all_of_it())

    (answer,) = asked(Slow())
    assert isinstance(answer, Answer)
    late = Slow()
    late.slow_at = 2
    (answer,) = asked(late)
    assert isinstance(answer, NotYetError) and "ReadTimeout" in str(answer)


def test_a_vllm_that_is_gone_stops_the_start_with_its_address(tmp_path: Path) -> None:
    server = VllmServer(student="small", url="http://127.0.0.1:9")
    with pytest.raises(StudentError, match=r"vLLM at http://127\.0\.0\.1:9 cannot be reached"):
        asyncio.run(VllmStudent(source(tmp_path, classifies=True), server, 1).start())


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        ({"vllm": [{"student": "nobody", "url": "http://v:8000"}]}, "got 'nobody'"),
        ({"vllm": [{"student": "b", "url": "http://v:8000"}] * 2}, "once each; got 'b'"),
        (
            {
                "engine": "vllm",
                "vllm": [{"student": "b", "url": "http://v:8000"}],
                "cascade": {"agreement": 0.9},
            },
            "as serving.cascade is set",
        ),
    ],
)
def test_a_vllm_of_no_student_or_under_a_cascade_is_refused(serving: dict[str, Any], said: str) -> None:
    data = {
        "nims": [{"model_name": "a/b", "name": "b"}],
        "serving": serving,
        "evaluation_config": {"decoding": "labels"},
        "data_split_config": {"calibration_ratio": 0.1},
    }
    with pytest.raises(ConfigError, match=said):
        validate_config(data, "config.yaml")


@pytest.mark.parametrize(
    ("engine", "classifies", "at_vllm"),
    [("auto", True, False), ("auto", False, True), ("vllm", True, True), ("own", False, False)],
)
def test_who_answers_is_told_by_the_engine_and_the_task(engine: Any, classifies: bool, at_vllm: bool) -> None:
    config = ServingConfig(engine=engine, vllm=(VllmServer(student="small", url="http://v:8000"),))
    assert (config.server_for("small", classifies=classifies) is not None) is at_vllm
    assert config.server_for("large", classifies=classifies) is None
