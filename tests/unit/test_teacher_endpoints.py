"""Several endpoints, HTTP/2, rates and outages, against real servers."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypercorn
import hypercorn.asyncio
import orjson
import pytest

from flywheel.common.errors import ConfigError, TeacherError
from flywheel.config.loading import validate_config
from flywheel.config.teacher import RateLimits, TeacherConfig
from flywheel.teacher import Endpoint, TeacherClient, resolve_endpoints
from flywheel.teacher.answers import Reply, read_reply
from flywheel.teacher.client import CallError
from tests.certificates import Authority
from tests.unit.teacher_servers import Script, completion, served

GOOD = (200, {}, completion("[[[earnings]]]"))
BODY = b'{"model": "m"}'


def endpoint(url: str, key: str | None = None) -> Endpoint:
    return Endpoint(f"{url}/v1/chat/completions", key)


def ask_all(urls: list[str], calls: int, *, at_once: int = 4, **settings: Any) -> tuple[list[Any], Any]:
    async def run() -> Any:
        arguments = {"first_backoff": 0.01, "timeout_seconds": 5} | settings
        async with TeacherClient([endpoint(url) for url in urls], **arguments) as client:
            results: list[Any] = []
            while len(results) < calls:
                asked = [client.ask(BODY) for _ in range(min(at_once, calls - len(results)))]
                results += await asyncio.gather(*asked, return_exceptions=True)
            return results, client

    return asyncio.run(run())


# -- several endpoints ---------------------------------------------------------------------------------


def test_calls_are_shared_among_the_endpoints() -> None:
    one, two = Script([GOOD]), Script([GOOD])
    with served(one) as first, served(two) as second:
        results, _ = ask_all([first, second], 60, at_once=12)
    assert all(isinstance(result, Reply) for result in results)
    assert min(len(one.calls), len(two.calls)) >= 15


def test_an_endpoint_that_fails_is_left_out_and_comes_back() -> None:
    bad, good = Script([(500, {}, b"broken")] * 8 + [GOOD]), Script([GOOD])
    with served(bad) as first, served(good) as second:

        async def run() -> int:
            urls = [endpoint(first), endpoint(second)]
            async with TeacherClient(urls, first_backoff=0.001, max_attempts=20) as client:
                for _ in range(40):
                    await asyncio.gather(*[client.ask(BODY) for _ in range(4)])
                early = len(bad.calls)
                deadline = time.monotonic() + 30
                while len(bad.calls) < 20 and time.monotonic() < deadline:
                    await asyncio.gather(*[client.ask(BODY) for _ in range(4)])
                return early

        early = asyncio.run(run())
    assert early <= 10
    assert len(bad.calls) >= 20


def test_an_endpoint_with_a_wrong_key_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    locked, good = Script([(401, {}, b'{"error": "wrong key"}')]), Script([GOOD])
    with served(locked) as first, served(good) as second:
        results, _ = ask_all([first, second], 40)
    assert all(isinstance(result, Reply) for result in results)
    assert len(locked.calls) <= 4
    assert "gets no more calls" in caplog.text
    assert "check the key" in caplog.text


def test_the_last_endpoint_with_a_wrong_key_stops_all_calls() -> None:
    with served(Script([(401, {}, b"no")])) as first, served(Script([(403, {}, b"no")])) as second:
        results, _ = ask_all([first, second], 12, at_once=12)
    assert all(isinstance(result, TeacherError) for result in results)


def test_calls_wait_for_an_endpoint_that_restarts() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    script = Script([GOOD])

    async def run() -> list[Any]:
        at = endpoint(f"http://127.0.0.1:{port}")
        async with TeacherClient([at], first_backoff=0.01, max_attempts=2) as client:
            asked = [asyncio.ensure_future(client.ask(BODY)) for _ in range(20)]
            await asyncio.sleep(1.0)
            assert not any(call.done() for call in asked)
            with at_port(script, port):
                return await asyncio.gather(*asked)

    assert len(asyncio.run(run())) == 20


@contextmanager
def at_port(app: Any, port: int) -> Iterator[None]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(5)


def test_an_outage_ends_after_the_configured_time() -> None:
    results, _ = ask_all(["http://127.0.0.1:9"], 8, at_once=8, outage_seconds=0.4)
    assert all("no endpoint has answered for" in str(result) for result in results)


def test_a_429_that_never_ends_fails_the_call_and_not_the_endpoint() -> None:
    with served(Script([(429, {}, b"quota")])) as url:
        results, _ = ask_all([url], 1, max_attempts=3)
    assert isinstance(results[0], CallError)


# -- HTTP/2 --------------------------------------------------------------------------------------------


@contextmanager
def served_over_tls(app: Any, folder: Path, protocols: list[str]) -> Iterator[tuple[str, Path]]:
    authority = Authority(folder)
    certificate, key = authority.issue("127.0.0.1", "localhost")
    config = hypercorn.Config()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    listening.close()
    config.bind = [f"127.0.0.1:{port}"]
    config.certfile, config.keyfile = str(certificate), str(key)
    config.alpn_protocols = protocols
    config.loglevel = "critical"
    stop = threading.Event()

    async def run() -> None:
        async def stopped() -> None:
            while not stop.is_set():
                await asyncio.sleep(0.02)

        await hypercorn.asyncio.serve(app, config, shutdown_trigger=stopped)

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.01)
    try:
        yield f"https://127.0.0.1:{port}", authority.certificate
    finally:
        stop.set()
        thread.join(10)


class Slow:
    """Answers after a moment, and notes each call's protocol and connection."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        self.calls.append((scope["http_version"], scope["client"]))
        await asyncio.sleep(0.02)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": completion("[[[earnings]]]")})


@pytest.mark.parametrize(("protocols", "version"), [(["h2", "http/1.1"], "2"), (["http/1.1"], "1.1")])
def test_http_2_is_spoken_where_it_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocols: list[str], version: str
) -> None:
    app = Slow()
    with served_over_tls(app, tmp_path, protocols) as (url, authority):
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        results, _ = ask_all([url], 60, at_once=20, concurrency=20)
    assert all(isinstance(result, Reply) for result in results), results
    assert {call[0] for call in app.calls} == {version}
    connections = len({call[1] for call in app.calls})
    assert connections == 1 if version == "2" else connections > 4


def test_a_certificate_that_nobody_vouches_for_is_an_error(tmp_path: Path) -> None:
    with served_over_tls(Slow(), tmp_path, ["http/1.1"]) as (url, _):
        results, _ = ask_all([url], 1)
    assert isinstance(results[0], TeacherError)
    assert "CERTIFICATE_VERIFY_FAILED" in str(results[0])


def test_certificates_of_the_environment_are_used() -> None:
    from flywheel.teacher.connections import certificates

    assert certificates().verify_mode == ssl.CERT_REQUIRED


# -- rates ---------------------------------------------------------------------------------------------


def test_calls_keep_to_the_requests_of_a_minute() -> None:
    script = Script([GOOD])
    with served(script) as url:
        ask_all([url], 12, at_once=12, rates=RateLimits(requests_per_minute=300))  # five a second
    # Five at once and one more; the other six take 1.2 s, whatever the machine does meanwhile.
    assert script.times[-1] - script.times[0] >= 1.0


def test_calls_keep_to_the_tokens_of_a_minute() -> None:
    usage = {"prompt_tokens": 90, "completion_tokens": 10}
    body = orjson.dumps({"model": "m", "usage": usage, "choices": [{"message": {"content": "[[[other]]]"}}]})
    script = Script([(200, {}, body)])
    with served(script) as url:
        ask_all([url], 10, at_once=1, rates=RateLimits(tokens_per_minute=24_000))  # four calls a second
    assert script.times[-1] - script.times[0] >= 0.9


# -- confidence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logprobs", "confidence"),
    [
        ({"content": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -0.2}]}, 0.740818),
        ({"content": [{"token": "a", "logprob": 0.0}]}, 1.0),
        ({"content": []}, None),
        ({"content": [{"token": "a"}]}, None),
        ({"content": None}, None),
        (None, None),
        ("x", None),
    ],
)
def test_the_confidence_is_the_probability_of_the_answer(logprobs: Any, confidence: float | None) -> None:
    choice = {"message": {"content": "[[[other]]]"}, "logprobs": logprobs}
    assert read_reply(orjson.dumps({"choices": [choice]})).confidence == confidence


# -- configuration -------------------------------------------------------------------------------------


def further(*endpoints: dict[str, Any]) -> list[Endpoint]:
    return resolve_endpoints(
        TeacherConfig.model_validate(
            {"base_url": "http://a.test/v1", "further_endpoints": list(endpoints)}, strict=False
        )
    )


def test_further_endpoints_have_keys_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLYWHEEL_TEACHER_BASE_URL", raising=False)
    monkeypatch.setenv("FLYWHEEL_TEACHER_API_KEY", "key-a")
    monkeypatch.setenv("KEY_B", "key-b")
    monkeypatch.setenv("AIRFLOW_CONN_THIRD", '{"host": "https://c.test/v1", "password": "key-c"}')
    found = further(
        {"base_url": "http://b.test/v1", "key_variable": "KEY_B"},
        {"connection": "third"},
        {"base_url": "http://d.test"},
    )
    assert [(item.url.split("/v1")[0], item.api_key) for item in found] == [
        ("http://a.test", "key-a"),
        ("http://b.test", "key-b"),
        ("https://c.test", "key-c"),
        ("http://d.test", None),
    ]
    monkeypatch.setenv("FLYWHEEL_TEACHER_BASE_URL", "http://env.test/v1")
    assert [item.url for item in further({"base_url": "http://b.test"})] == [
        "http://env.test/v1/chat/completions"
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"base_url": "http://a.test/v1"}, "is there already"),
        ({"base_url": "http://b.test", "key_variable": "NO_SUCH_KEY"}, "the environment has no NO_SUCH_KEY"),
        ({"base_url": "b.test"}, "further_endpoints.0.base_url: expected a URL"),
    ],
)
def test_a_wrong_further_endpoint_is_named(
    monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], message: str
) -> None:
    monkeypatch.delenv("FLYWHEEL_TEACHER_BASE_URL", raising=False)
    with pytest.raises(TeacherError, match=message):
        further(entry)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"further_endpoints": [{}]}, "either connection or base_url"),
        ({"further_endpoints": [{"connection": "a", "base_url": "b"}]}, "either connection or base_url"),
        ({"further_endpoints": [{"connection": "a", "key_variable": "B"}]}, "key_variable with base_url"),
        ({"budget": {"cost": 5}}, "what a million tokens cost"),
        ({"rate_limits": {"request_per_minute": 5}}, "'requests_per_minute'"),
        ({"gate": {"judge": "lower"}}, "'interval'"),
    ],
)
def test_a_wrong_teacher_section_says_what_is_expected(teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate_config({"nims": [{"model_name": "a"}], "teacher": teacher}, "test")
