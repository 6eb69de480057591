"""The endpoint with OpenAI's official client, as applications use it."""

# ruff: noqa: F811  the wheel that has turned is a fixture of the endpoint's tests
from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from flywheel.serving.app import Serving
from tests.unit.champion_endpoint import (
    WORKLOAD,
    config_of,
    folder,  # noqa: F401
    of_user,
    predictions_of,
    until,
    url,  # noqa: F401
)
from tests.unit.teacher_servers import Script, completion, served


def client(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


def test_a_champion_answers_whole_and_as_a_stream_and_its_classes_are_logprobs(
    folder: Path, url: str
) -> None:
    text, evaluated = next(iter(predictions_of(folder).items()))
    asked: dict[str, Any] = {"model": WORKLOAD.id, "messages": of_user(text)}
    whole = client(url).chat.completions.create(**asked, logprobs=True, top_logprobs=20)
    choice = whole.choices[0]
    assert (choice.message.content, choice.finish_reason) == (evaluated["answer"], "stop")
    assert whole.system_fingerprint and whole.usage and whole.usage.total_tokens > 0
    assert choice.logprobs and choice.logprobs.content
    token = choice.logprobs.content[0]
    probabilities = {one.token: math.exp(one.logprob) for one in token.top_logprobs}
    assert set(probabilities) == {WORKLOAD.answer_for(label) for label in WORKLOAD.classes}
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-3)
    assert max(probabilities, key=lambda name: probabilities[name]) == token.token == choice.message.content
    with client(url).chat.completions.create(**asked, stream=True) as stream:
        pieces = [event.choices[0].delta.content or "" for event in stream if event.choices]
    assert "".join(pieces) == choice.message.content


def test_candidates_and_models_are_found_by_name(url: str) -> None:
    asked = client(url)
    assert WORKLOAD.id in {model.id for model in asked.models.list()}
    assert asked.models.retrieve(WORKLOAD.id).id == WORKLOAD.id
    answer = asked.chat.completions.create(model="small@300", messages=of_user("Acme cuts jobs"))  # type: ignore[arg-type]
    assert answer.choices[0].message.content in {WORKLOAD.answer_for(label) for label in WORKLOAD.classes}


def test_a_teachers_calls_come_as_calls_whole_and_as_a_stream(folder: Path) -> None:
    function = {"name": "quote", "arguments": '{"ticker": "ACME"}'}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    body = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    with served(Script([(200, {}, httpx.Response(200, json=body).content)])) as address:
        config = config_of(folder, teacher={"base_url": f"{address}/v1"})
        with served(Serving(config).app()) as url:
            asked: dict[str, Any] = {
                "model": "teacher",
                "messages": of_user("Price of Acme?"),
                "tools": [{"type": "function", "function": {"name": "quote", "parameters": {}}}],
            }
            (call,) = client(url).chat.completions.create(**asked).choices[0].message.tool_calls or ()
            assert (call.function.name, call.function.arguments) == ("quote", '{"ticker": "ACME"}')  # type: ignore[union-attr]
            events = list(client(url).chat.completions.create(**asked, stream=True))
    found = [call for event in events for choice in event.choices for call in choice.delta.tool_calls or ()]
    assert [(one.index, one.function.name) for one in found if one.function] == [(0, "quote")]
    assert events[-1].choices[0].finish_reason == "tool_calls"


def test_errors_are_openais_classes(folder: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"fw-secret").hexdigest()
    keys = [{"name": "desk", "sha256": digest, "per_minute": 3}]
    with (
        served(Script([(429, {"retry-after": "7"}, completion("x"))])) as address,
        served(
            Serving(config_of(folder, serving={"keys": keys}, teacher={"base_url": f"{address}/v1"})).app()
        ) as url,
    ):
        until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        messages: Any = of_user("x")
        with pytest.raises(openai.AuthenticationError) as refused:
            client(url).chat.completions.create(model=WORKLOAD.id, messages=messages)
        assert refused.value.code == "invalid_api_key"
        asked = client(url, "fw-secret")
        with pytest.raises(openai.NotFoundError) as unknown:
            asked.chat.completions.create(model="nobody", messages=messages)
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as wrong:
            asked.chat.completions.create(model=WORKLOAD.id, messages=[])
        assert wrong.value.param == "messages"
        # The teacher's own refusal, and then this key's.
        for code, after in (("teacher_refused", "7"), ("rate_limit_exceeded", "20")):
            with pytest.raises(openai.RateLimitError) as busy:
                asked.chat.completions.create(model="teacher", messages=messages)
            assert (busy.value.code, busy.value.response.headers["retry-after"]) == (code, after)
    with served(Serving(config_of(tmp_path)).app()) as url, pytest.raises(openai.InternalServerError) as none:
        client(url).chat.completions.create(model=WORKLOAD.id, messages=messages)
    assert none.value.status_code == 503 and none.value.code == "not_ready"
