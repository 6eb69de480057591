"""The endpoint's door: keys, what each may ask and how much, bodies that do not come, metrics."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from flywheel.common.errors import ConfigError
from flywheel.config.serving import ServingKey
from flywheel.serving.app import Serving
from flywheel.serving.door import Caller, Door
from flywheel.serving.models import Served
from flywheel.serving.openai import ApiError
from flywheel.serving.student import Answer
from tests.unit.champion_endpoint import WORKLOAD, ask, config_of, of_user, until
from tests.unit.teacher_servers import Script, completion, served


def key(**changes: Any) -> ServingKey:
    return ServingKey(**{"name": "desk", "sha256": hashlib.sha256(b"fw-secret").hexdigest(), **changes})


class TestKeys:
    def test_a_key_of_a_connection_is_its_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_DESK_KEY", '{"conn_type": "http", "password": "fw-other"}')
        door = Door([key(sha256=None, connection="desk_key")])
        caller = door.admit("Bearer fw-other")
        assert caller is not None and caller.name == "desk"
        with pytest.raises(ApiError, match="asks for a key"):
            door.admit("Bearer fw-secret")

    def test_a_connection_without_a_key_stops_the_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_DESK_KEY", '{"conn_type": "http"}')
        with pytest.raises(ConfigError, match="desk_key is missing or has no password"):
            Door([key(sha256=None, connection="desk_key")])

    @pytest.mark.parametrize("changes", [{"sha256": None}, {"connection": "desk_key"}])
    def test_a_key_is_a_hash_or_a_connection(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="sha256 or connection"):
            key(**changes)

    def test_a_key_asks_for_its_own_models_alone(self, tmp_path: Path) -> None:
        with served(Script([(200, {}, completion("[[[jobs]]]"))])) as address:
            limits = key(models=["teacher", "news_*"]).model_dump(exclude_unset=True)
            config = config_of(
                tmp_path,
                teacher={"base_url": f"{address}/v1", "model": "big"},
                serving={"keys": [limits]},
            )
            with served(Serving(config).app()) as url:
                bearer = {"authorization": "Bearer fw-secret"}
                listed = httpx.get(f"{url}/v1/models", headers=bearer).json()["data"]
                assert [model["id"] for model in listed] == ["teacher"]
                assert httpx.get(f"{url}/v1/models/big", headers=bearer).status_code == 404
                found = {}
                for model in ("teacher", "big", WORKLOAD.id):
                    body = {"model": model, "messages": of_user("x")}
                    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=bearer)
                    found[model] = answer.status_code
        assert found == {"teacher": 200, "big": 404, WORKLOAD.id: 503}


class TestLimits:
    def test_a_minutes_requests_may_come_at_once_and_then_as_they_are_due(self) -> None:
        now = [0.0]
        caller = Caller(key(per_minute=30), lambda: now[0])

        def one() -> int | None:
            try:
                with caller.request():
                    return None
            except ApiError as error:
                assert error.status == 429
                return error.retry_after

        assert [one() for _ in range(31)] == [None] * 30 + [2]
        now[0] = 2.0
        assert [one(), one()] == [None, 2]
        now[0] = 1000.0
        assert [one() for _ in range(31)] == [None] * 30 + [2]

    def test_requests_on_their_way_at_once_are_bounded(self) -> None:
        caller = Caller(key(at_once=1))
        with caller.request(), pytest.raises(ApiError, match="answered at once"), caller.request():
            pass
        with caller.request():
            pass

    def test_a_refusal_says_when_to_come_again_in_openais_form(self, tmp_path: Path) -> None:
        limits = key(per_minute=1).model_dump(exclude_unset=True)
        with served(Serving(config_of(tmp_path, serving={"keys": [limits]})).app()) as url:
            bearer = {"authorization": "Bearer fw-secret"}
            body = {"model": "nobody", "messages": of_user("x")}
            answers = [httpx.post(f"{url}/v1/chat/completions", json=body, headers=bearer) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [404, 429]
        error = answers[1].json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(answers[1].headers["retry-after"]) <= 60


class TestTimes:
    def test_a_body_that_does_not_come_is_told_so_and_others_are_answered(self, tmp_path: Path) -> None:
        serving = {"timeout_seconds": 0.2}
        with served(Serving(config_of(tmp_path, serving=serving)).app()) as url:
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=30) as slow:
                head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
                slow.sendall(head)
                assert ask(url, of_user("x"), "nobody").status_code == 404
                assert slow.recv(200).startswith(b"HTTP/1.1 408 ")

    def test_an_answer_that_does_not_come_is_told_so(self, tmp_path: Path) -> None:
        serving = Serving(config_of(tmp_path, serving={"timeout_seconds": 0.05}))

        async def never(name: str) -> Any:
            await asyncio.Event().wait()

        serving.models.get = never  # type: ignore[method-assign]
        with served(serving.app()) as url:
            answer = ask(url, of_user("x"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")
        assert answer.headers["retry-after"] == "1"


def test_a_candidate_is_loaded_to_the_end_though_who_asked_first_has_gone(tmp_path: Path) -> None:
    serving = Serving(config_of(tmp_path, serving={"timeout_seconds": 0.05}))
    loads: list[str] = []
    go_on = threading.Event()

    def slow(name: str) -> Any:
        loads.append(name)
        assert go_on.wait(60)
        return SimpleNamespace(adapter="a" * 20)

    async def load(source: Any) -> Any:
        return Served(source, instant)

    async def instant(question: Any) -> Answer:
        return Answer("[[[jobs]]]")

    serving.models._candidate = slow  # type: ignore[method-assign]
    serving.models._load = load  # type: ignore[method-assign]
    with served(serving.app()) as url:
        assert [ask(url, of_user("x"), "small@7").status_code for _ in range(2)] == [503, 503]
        go_on.set()
        until(lambda: "small@7" in serving.models._candidates)
        assert loads == ["small@7"]


def test_metrics_count_requests_by_model_and_status_and_callers_make_no_series(tmp_path: Path) -> None:
    with served(Script([(200, {}, completion("[[[jobs]]]"))])) as address:
        config = config_of(tmp_path, teacher={"base_url": f"{address}/v1", "model": "big"})
        with served(Serving(config).app()) as url:
            for model in ("teacher", "big", WORKLOAD.id, "x@1", "x@2", "a", "b"):
                ask(url, of_user("x"), model)
            until(lambda: httpx.get(f"{url}/health/ready").json()["ready"] is False)
            text = httpx.get(f"{url}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("flywheel_serving_requests_total")]
    counts = {line.rpartition(" ")[0].partition("{")[2]: float(line.rpartition(" ")[2]) for line in lines}
    assert counts == {
        'model="teacher",status="200"}': 2,
        'model="news_classifier",status="503"}': 1,
        'model="candidate",status="404"}': 2,
        'model="unknown",status="404"}': 2,
    }
    assert "flywheel_serving_in_flight 0.0" in text
    assert 'flywheel_serving_seconds_bucket{le="+Inf",model="teacher"} 2.0' in text
