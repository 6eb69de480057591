"""The endpoint with a real vLLM on the CPU behind it: adapters by its API, each under its content's key."""

# ruff: noqa: F811  the wheel that has turned is a fixture of the unit tests
from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import read_champion
from flywheel.runs.run import Run
from flywheel.serving.app import Serving
from tests.unit.champion_endpoint import (
    HEADLINES,
    SMALL,
    WORKLOAD,
    ask,
    config_of,
    folder,  # noqa: F401
    of_user,
    predictions_of,
    put_into_force,
    until,
)
from tests.unit.teacher_servers import served
from tests.vllm_server import executable, vllm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if executable() is None:
        said = "no vLLM here: make install-vllm"
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said)
    with vllm(
        SMALL["weights"], tmp_path_factory.mktemp("vllm") / "log", options=("--dtype", "float32")
    ) as url:
        yield url


def adapters_at(url: str) -> set[str]:
    return {model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]} - {"base"}


def settings(url: str, **more: Any) -> dict[str, Any]:
    return {"engine": "vllm", "vllm": [{"student": "small", "url": url}], **more}


def champion_of(folder: Path) -> Any:
    champion = read_champion(ArtifactRoot(str(folder / "artifacts")), WORKLOAD.id, "desk")
    assert champion is not None
    return champion


def test_vllm_gives_the_classes_and_probabilities_of_our_own_engine(folder: Path, vllm_url: str) -> None:
    evaluated = predictions_of(folder)
    with served(Serving(config_of(folder, serving=settings(vllm_url))).app()) as url:
        until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        with ThreadPoolExecutor(8) as threads:
            bodies = [
                answer.json() for answer in threads.map(lambda text: ask(url, of_user(text)), evaluated)
            ]
    key = champion_of(folder).adapter
    assert adapters_at(vllm_url) >= {key}
    assert {body["system_fingerprint"] for body in bodies} == {f"fw_{key}"}
    assert {body["flywheel"]["label"] for body in bodies} <= set(WORKLOAD.classes)
    # vLLM writes the likeliest next token, ours weighs whole answers: where two are close they may differ.
    same = [
        body["flywheel"]["label"] == line["student"]
        for body, line in zip(bodies, evaluated.values(), strict=True)
    ]
    assert sum(same) >= 0.97 * len(same)


def test_another_champion_is_loaded_beside_the_one_before_which_is_unloaded_later(
    folder: Path,
    vllm_url: str,
) -> None:
    first = champion_of(folder)
    run = Run(ArtifactRoot(str(folder / "artifacts")), "night")
    other = next(size for size in (300, 600) if size != first.size)
    with served(Serving(config_of(folder, serving=settings(vllm_url, timeout_seconds=30))).app()) as url:
        until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
        put_into_force(run, other)
        second = champion_of(folder).adapter
        until(lambda: ask(url, of_user("Acme cuts jobs")).headers.get("x-flywheel-adapter") == second)
        assert second in adapters_at(vllm_url)
        until(lambda: adapters_at(vllm_url) == {second})
        # A vLLM that has lost it, being started anew or asked by another endpoint, is given it again.
        assert httpx.post(f"{vllm_url}/v1/unload_lora_adapter", json={"lora_name": second}).status_code == 200
        answer = ask(url, of_user("Acme cuts jobs"))
        assert (answer.status_code, answer.headers["x-flywheel-adapter"]) == (200, second)
        put_into_force(run, first.size)
        until(lambda: ask(url, of_user("Acme cuts jobs")).headers.get("x-flywheel-adapter") == first.adapter)


def test_what_is_no_classification_goes_to_vllm_and_classifications_stay_with_our_own_engine(
    folder: Path,
    vllm_url: str,
    tmp_path: Path,
) -> None:
    key = champion_of(folder).adapter
    own = {"evaluation_config": {"workload_type": "generic", "batch_size": 50}}
    shared = tmp_path / "shared"
    at = {"engine": "auto", "vllm": [{"student": "small", "url": vllm_url, "folder": str(shared)}]}
    name = f"{SMALL['model_name']}@{key}"
    with served(Serving(config_of(folder, serving=at, **own)).app()) as url:
        written = ask(url, of_user(HEADLINES[0].text), name).json()
    assert "label" not in written["flywheel"] and written["choices"][0]["finish_reason"] == "stop"
    classified = predictions_of(folder)
    with served(
        Serving(
            config_of(folder, serving={**at, "vllm": [{"student": "small", "url": "http://127.0.0.1:9"}]})
        ).app()
    ) as url:
        text, line = next(iter(classified.items()))
        assert ask(url, of_user(text), name).json()["flywheel"]["label"] == line["student"]


def test_a_vllm_that_is_gone_leaves_a_reason_and_errors_in_openais_form(folder: Path, tmp_path: Path) -> None:
    with served(Serving(config_of(folder, serving=settings("http://127.0.0.1:9"))).app()) as url:
        until(lambda: httpx.get(f"{url}/health/ready").json()["reasons"])
        reason = httpx.get(f"{url}/health/ready").json()["reasons"][WORKLOAD.id]
        assert "vLLM at http://127.0.0.1:9 cannot be reached" in reason
        answer = ask(url, of_user("x"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
