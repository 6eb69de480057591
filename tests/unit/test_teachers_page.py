"""docs/teachers.md: each config on it loads, and asks its endpoint for what that endpoint takes.

What they take is from their own references, read in 2026: platform.openai.com/docs/api-reference/chat,
learn.microsoft.com/azure/ai-foundry/openai/latest, docs.aws.amazon.com/bedrock (Chat Completions API),
ai.google.dev/gemini-api/docs/openai, docs.api.nvidia.com/nim, docs.vllm.ai (OpenAI-compatible server, reasoning
outputs), docs.ollama.com/api/openai-compatibility.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from flywheel.config import Config
from flywheel.config.loading import load_config
from flywheel.teacher.endpoint import resolve_endpoints
from flywheel.teacher.request import Requests
from flywheel.workloads.workload import Workload
from tests.unit.teacher_servers import Script, completion, served
from tests.unit.test_stages_label import label, make, write_headlines

PAGE = Path("docs/teachers.md").read_text()
SECTIONS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", PAGE, re.DOTALL | re.MULTILINE))
WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
KEY = "key-of-the-endpoint"

Check = Callable[[Any], bool]


def one_of(*values: Any) -> Check:
    return lambda value: value in values


def between(low: float, high: float) -> Check:
    return lambda value: low <= value <= high


COMMON: dict[str, Check] = {"model": bool, "messages": bool}
SAMPLING = {"temperature": between(0, 2), "max_tokens": between(1, 32_768)}


@dataclass(frozen=True)
class Takes:
    """What an endpoint takes: its address, the header with the key, and fields with their values.

    `least` tokens are needed for an answer and the thoughts before it.
    """

    url: str
    fields: dict[str, Check]
    header: tuple[str, str] | None = ("Authorization", f"Bearer {KEY}")
    least: int = 16
    bound: str = "max_tokens"
    further: list[str] = field(default_factory=list)


ENDPOINTS = {
    "OpenAI, chat models": Takes(
        "https://api.openai.com/v1/chat/completions",
        {**SAMPLING, "logprobs": one_of(True, False), "max_completion_tokens": between(1, 32_768)},
    ),
    "OpenAI, reasoning models": Takes(
        "https://api.openai.com/v1/chat/completions",
        {
            "temperature": one_of(1),
            "max_completion_tokens": between(1, 128_000),
            "reasoning_effort": one_of("minimal", "low", "medium", "high"),
        },
        least=1000,
        bound="max_completion_tokens",
    ),
    "Azure OpenAI": Takes(
        "https://my-resource.openai.azure.com/openai/v1/chat/completions",
        {**SAMPLING, "logprobs": one_of(True, False), "max_completion_tokens": between(1, 32_768)},
        ("api-key", KEY),
    ),
    "Amazon Bedrock": Takes(
        "https://bedrock-mantle.us-west-2.api.aws/v1/chat/completions",
        {
            "temperature": between(0, 2),
            "max_completion_tokens": between(1, 128_000),
            "reasoning_effort": one_of("low", "medium", "high"),
        },
        least=1000,
        bound="max_completion_tokens",
    ),
    "Gemini": Takes(
        "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
        {**SAMPLING, "reasoning_effort": one_of("none", "low", "medium", "high")},
    ),
    "NVIDIA NIM": Takes("https://integrate.api.nvidia.com/v1/chat/completions", SAMPLING),
    "vLLM with a reasoning parser": Takes(
        "http://vllm-a.internal:8000/v1/chat/completions",
        {**SAMPLING, "chat_template_kwargs": lambda value: isinstance(value, dict)},
        least=1000,
        further=["http://vllm-b.internal:8000/v1/chat/completions"],
    ),
    "Ollama": Takes(
        "http://localhost:11434/v1/chat/completions",
        {**SAMPLING, "reasoning_effort": one_of("none", "low", "medium", "high")},
    ),
}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLYWHEEL_TEACHER_BASE_URL", raising=False)
    monkeypatch.setenv("FLYWHEEL_TEACHER_API_KEY", KEY)


def piece(name: str) -> str:
    (text,) = re.findall(r"```yaml\n(.*?)```", SECTIONS[name], re.DOTALL)
    return str(text)


def config_of(folder: Path, name: str) -> Config:
    path = folder / "config.yaml"
    path.write_text("nims: [{model_name: a/b}]\n" + piece(name))
    return load_config(path)


def test_each_endpoint_of_the_page_is_checked() -> None:
    assert list(SECTIONS) == list(ENDPOINTS)
    assert len(re.findall("```yaml", PAGE)) == len(ENDPOINTS)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_config_of_the_page_asks_for_what_its_endpoint_takes(tmp_path: Path, name: str) -> None:
    takes, teacher = ENDPOINTS[name], config_of(tmp_path, name).teacher
    first, *further = resolve_endpoints(teacher)
    assert first.url == takes.url
    assert [endpoint.url for endpoint in further] == takes.further
    assert tuple(first.own_headers().items()) == (takes.header,)
    body = json.loads(Requests.of(WORKLOAD, teacher).body("Acme posts results"))
    fields = {**COMMON, **takes.fields}
    assert set(body) <= set(fields), "a field that the endpoint does not take"
    for key, value in body.items():
        assert fields[key](value), f"{key}: {value}"
    assert body[takes.bound] >= takes.least
    assert {message["role"] for message in body["messages"]} <= {"system", "user", "assistant"}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_what_a_config_of_the_page_sends_arrives_so(tmp_path: Path, name: str) -> None:
    takes = ENDPOINTS[name]
    write_headlines(tmp_path, [("Acme posts results", "2024-03-01", "")])
    teacher = {
        key: value
        for key, value in yaml.safe_load(piece(name))["teacher"].items()
        if key != "further_endpoints"
    }
    path = takes.url.split("/", 3)[3].removesuffix("/chat/completions")
    with served(script := Script([(200, {}, completion("[[[earnings]]]"))])) as url:
        teacher["base_url"] = f"{url}/{path}"
        result = label(make(tmp_path, None, **teacher), tmp_path)
    assert result.labelled == 1
    (call,) = script.calls
    assert call["path"] == f"/{path}/chat/completions"
    assert takes.header is not None
    assert call["headers"][takes.header[0].lower()] == takes.header[1]
    assert set(json.loads(call["body"])) <= {*COMMON, *takes.fields}


def test_the_older_addresses_of_azure_keep_their_version(tmp_path: Path) -> None:
    (older,) = re.findall(r"`(https://RESOURCE\.openai\.azure\.com/\S+)`", PAGE)
    teacher = config_of(tmp_path, "Azure OpenAI").teacher.model_copy(update={"base_url": older})
    (found,) = resolve_endpoints(teacher)
    assert found.url == (
        "https://RESOURCE.openai.azure.com/openai/deployments/DEPLOYMENT/chat/completions?api-version=2024-10-21"
    )


def test_the_short_pieces_of_the_page_load_as_well(tmp_path: Path) -> None:
    pieces = re.findall(r"`((?:request|headers|key_header|max_tokens): [^`]+)`", PAGE)
    assert len(pieces) >= 3
    for text in pieces:
        path = tmp_path / "config.yaml"
        path.write_text(f"nims: [{{model_name: a/b}}]\nteacher:\n  {text}\n")
        assert load_config(path).teacher != Config.model_fields["teacher"].default
