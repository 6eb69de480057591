"""teacher.request: further fields of each request, what they do to the key of an answer, and who names them."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from flywheel.common.errors import ConfigError, TeacherError
from flywheel.config.loading import validate_config
from flywheel.config.teacher import TeacherConfig
from flywheel.teacher.request import Requests
from flywheel.workloads.workload import Workload
from tests.unit.teacher_servers import Script, completion, served
from tests.unit.test_stages_label import figures, label, make, write_headlines

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
REASONING = {
    "max_tokens": None,
    "temperature": None,
    "max_completion_tokens": 2000,
    "reasoning_effort": "low",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FLYWHEEL_TEACHER_BASE_URL", "FLYWHEEL_TEACHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    write_headlines(
        tmp_path, [(f"Acme unit {number} posts results", "2024-03-01", "") for number in range(20)]
    )
    return tmp_path


def requests(**settings: Any) -> Requests:
    return Requests.of(WORKLOAD, TeacherConfig.model_validate({"model": "m", **settings}))


def sent(**settings: Any) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(requests(**settings).body("Acme posts results"))
    del body["messages"]
    return body


class Refusing(Script):
    """As OpenAI's reasoning models: refuses max_tokens and temperature 0, answers without them."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        first, *parts = [await receive()]
        while first.get("more_body"):
            first = await receive()
            parts.append(first)
        body = b"".join(part.get("body", b"") for part in (first, *parts))
        self.calls.append({"body": body})
        fields = json.loads(body)
        status, data = 200, completion("[[[earnings]]]")
        for name, message in (
            (
                "max_tokens",
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
            ),
            ("temperature", "Unsupported value: only the default (1) is supported."),
        ):
            if name in fields and status == 200:
                status, data = 400, json.dumps({"error": {"message": message, "param": name}}).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": data})


def test_fields_are_added_to_each_request_and_null_leaves_a_default_one_out() -> None:
    assert sent() == {"model": "m", "temperature": 0.0, "max_tokens": 32}
    assert sent(request=REASONING) == {
        "model": "m",
        "max_completion_tokens": 2000,
        "reasoning_effort": "low",
    }
    thinking = {"chat_template_kwargs": {"enable_thinking": False}, "logit_bias": {1234: -100}}
    assert sent(request=thinking, logprobs=True) == {
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 32,
        "logprobs": True,
        "chat_template_kwargs": {"enable_thinking": False},
        "logit_bias": {"1234": -100},
    }


def test_the_key_of_an_answer_changes_with_what_changes_the_answer_and_with_nothing_else() -> None:
    def key(**settings: Any) -> str:
        return requests(**settings).key("a")

    plain = key()
    assert key(request={}) == plain == key(request={"user": "desk", "service_tier": "flex"}, logprobs=True)
    keys = [
        key(request=request)
        for request in (
            {"seed": 1},
            {"seed": 2},
            {"temperature": None},
            {"max_tokens": None},
            REASONING,
            REASONING | {"reasoning_effort": "high"},
            {"chat_template_kwargs": {"enable_thinking": True}},
            {"chat_template_kwargs": {"enable_thinking": False}},
        )
    ]
    assert len({plain, *keys}) == 1 + len(keys)
    assert key(request=dict(reversed(REASONING.items()))) == key(request=REASONING)
    # What was kept before there was such a key is still found.
    assert plain == key(request={"user": "x"})
    assert requests().body("a").endswith(b'"temperature":0.0,"max_tokens":32}')


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"model": "x"}, "teacher.model says it"),
        ({"stream": True}, "answers are read whole"),
        ({"temperature": 1}, "its value is set with teacher.temperature"),
        ({"reasoning_effort": None}, "'reasoning_effort' is not sent without it"),
    ],
)
def test_a_field_with_a_key_of_its_own_is_refused_with_that_key(request_: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"teacher.request.*{message}"):
        validate_config({"nims": [{"model_name": "a/b"}], "teacher": {"request": request_}}, "x")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, r"max_tokens: null, max_completion_tokens: 32\}"),
        (
            {"max_tokens": None, "max_completion_tokens": 99},
            r"field 'temperature'.*teacher\.temperature.*\{temperature: null\}",
        ),
    ],
)
def test_a_refused_field_is_named_with_the_key_that_leaves_it_out(
    folder: Path, request_: Any, message: str
) -> None:
    script = Refusing([])
    with served(script) as url, pytest.raises(TeacherError, match=f"(?s)10 calls.*{message}"):
        label(make(folder, url, request=request_), folder)


def test_a_reasoning_model_that_takes_neither_max_tokens_nor_temperature_labels(folder: Path) -> None:
    script = Refusing([])
    with served(script) as url:
        result = label(make(folder, url, request=REASONING), folder)
        assert figures(result) == (20, 20, 20, 0, 0)
        again = label(make(folder, url, request=REASONING), folder)
        assert (again.asked, again.found) == (0, 20)
        # Other requests, other answers.
        other = label(make(folder, url, request=REASONING | {"reasoning_effort": "high"}), folder)
    assert other.asked == 20


def test_a_message_that_names_no_field_gets_no_advice() -> None:
    of = requests(request={"seed": 1})
    assert of.advice_on("the temperature is too high") != ""
    assert of.advice_on("400: this seed investor was flagged") == ""
    assert of.advice_on("unknown field `seed`") == "teacher.request.seed sets this field"
    assert of.advice_on("DEGRADED function cannot be invoked") == ""
