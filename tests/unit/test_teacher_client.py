"""The teacher's client against real servers: what it retries, what it gives up, and what it never prints."""

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest

from flywheel.common.errors import TeacherError
from flywheel.config.teacher import TeacherConfig
from flywheel.teacher.answers import Reply, read_reply
from flywheel.teacher.client import TEXT_STATUSES, CallError, TeacherClient
from flywheel.teacher.endpoint import Endpoint, resolve_endpoint
from flywheel.teacher.request import Requests
from flywheel.workloads.workload import Workload
from tests.unit.teacher_servers import Script, completion, served

GOOD = (200, {}, completion("[[[earnings]]]"))
BODY = b'{"model": "m"}'
WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")


def ask(
    steps: list[Any], *, calls: int = 1, key: str | None = None, **settings: Any
) -> tuple[Any, Script, TeacherClient]:
    """Ask a scripted server; return the results (or errors) in order, the script and the client."""
    script = Script(steps)

    async def run(url: str) -> Any:
        client = TeacherClient(
            [Endpoint(f"{url}/v1/chat/completions", key)],
            **{"first_backoff": 0.01, "max_attempts": 3} | settings,
        )
        async with client:
            asked = [client.ask(BODY) for _ in range(calls)]
            return await asyncio.gather(*asked, return_exceptions=True), client

    with served(script) as url:
        results, client = asyncio.run(run(url))
    return results, script, client


def test_an_answer_comes_with_its_model_and_usage() -> None:
    body = orjson.dumps(
        {
            "model": "llama",
            "usage": {"prompt_tokens": 5},
            "choices": [{"message": {"content": "[[[other]]]"}}],
        }
    )
    (reply,), script, _ = ask([(200, {}, body)], key="secret-key")
    assert reply == Reply("[[[other]]]", "llama", {"prompt_tokens": 5})
    assert script.calls[0]["path"] == "/v1/chat/completions"
    assert script.calls[0]["body"] == BODY
    assert script.calls[0]["headers"]["authorization"] == "Bearer secret-key"
    assert script.calls[0]["headers"]["content-type"] == "application/json"


def test_without_a_key_none_is_sent() -> None:
    _, script, _ = ask([GOOD])
    assert "authorization" not in script.calls[0]["headers"]


def test_connections_are_used_again() -> None:
    script = Script([GOOD])

    async def run(url: str) -> None:
        async with TeacherClient([Endpoint(f"{url}/v1/chat/completions")]) as client:
            for _ in range(5):
                await asyncio.gather(*[client.ask(BODY) for _ in range(4)])

    with served(script) as url:
        asyncio.run(run(url))
    assert len(script.calls) == 20
    assert len({call["client"] for call in script.calls}) == 4


def test_no_more_calls_are_in_flight_than_asked_for() -> None:
    _, script, _ = ask([GOOD], calls=20, concurrency=3)
    assert len({call["client"] for call in script.calls}) <= 3


def test_cookies_are_not_sent_back() -> None:
    _, script, _ = ask([(200, {"Set-Cookie": "id=1; Path=/"}, GOOD[2])], calls=3, concurrency=1)
    assert not any("cookie" in call["headers"] for call in script.calls)


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([GOOD])

    async def run(url: str) -> Reply:
        async with TeacherClient([Endpoint(url)]) as client:
            return await client.ask(BODY)

    with served(script) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
        reply = asyncio.run(run("http://teacher.test/v1/chat/completions"))
        assert reply.content == "[[[earnings]]]"
        assert script.calls[0]["headers"]["host"] == "teacher.test"
        asyncio.run(run(f"{proxy}/v1/chat/completions"))  # a local one needs none
    assert script.calls[1]["headers"]["host"] in proxy


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_a_status_that_may_pass_is_tried_again(status: int) -> None:
    (reply,), script, client = ask([(status, {}, b"busy"), GOOD])
    assert reply.content == "[[[earnings]]]"
    assert (len(script.calls), client.retries) == (2, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>a proxy</html>",
        b"[]",
        b"null",
        b'{"error": "overloaded"}',
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": [5]}}]}',
        completion("[[[earnings]]]")[:30],
        b"\xff\xfe",
    ],
)
def test_a_malformed_answer_is_tried_again(data: bytes) -> None:
    (reply,), script, _ = ask([(200, {}, data), GOOD])
    assert reply.content == "[[[earnings]]]"
    assert len(script.calls) == 2


def test_an_answer_of_nothing_is_an_empty_answer() -> None:
    (reply,), script, _ = ask([(200, {}, completion(None))])
    assert reply.content == ""
    assert len(script.calls) == 1


def test_a_broken_connection_is_tried_again() -> None:
    (reply,), script, _ = ask([(0, {}, b""), GOOD])
    assert reply.content == "[[[earnings]]]"
    assert len(script.calls) == 2


def test_a_server_that_does_not_answer_in_time_is_tried_again() -> None:
    (reply,), script, _ = ask([(-1, {}, b""), GOOD], timeout_seconds=0.3)
    assert reply.content == "[[[earnings]]]"
    assert len(script.calls) == 2


def test_after_the_last_attempt_the_call_fails_with_the_last_reason() -> None:
    (error,), script, _ = ask([(503, {}, b'{"error": {"message": "overloaded"}}')])
    assert isinstance(error, CallError)
    assert "said 503: overloaded (3 attempts)" in str(error)
    assert not error.refused
    assert len(script.calls) == 3


def test_an_unreachable_server_is_named_with_its_address() -> None:
    async def run() -> None:
        endpoint = Endpoint("http://127.0.0.1:9/v1/chat/completions")
        async with TeacherClient([endpoint], outage_seconds=0.2, first_backoff=0.01) as client:
            await client.ask(BODY)

    with pytest.raises(
        TeacherError,
        match=r"no endpoint has answered for .*http://127\.0\.0\.1:9/v1/chat/completions: All connection attempts failed",
    ):
        asyncio.run(run())


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_fails_at_once_and_alone(status: int) -> None:
    (error,), script, _ = ask([(status, {}, b'{"detail": "too long"}')])
    assert isinstance(error, CallError)
    assert error.refused
    assert f"said {status}: too long" in str(error)
    assert len(script.calls) == 1


@pytest.mark.parametrize(
    ("status", "headers", "advice"),
    [
        (401, {}, "check the key"),
        (403, {}, "check the key"),
        (404, {}, "check the address (it usually ends in /v1) and teacher.model"),
        (301, {"Location": "https://elsewhere.test/v1"}, "it points to https://elsewhere.test/v1"),
        (405, {}, "check the address"),
        (418, {}, "check the address"),
    ],
)
def test_what_no_call_can_mend_is_an_error_with_advice(
    status: int, headers: dict[str, str], advice: str
) -> None:
    # The first may be refused for its text.
    calls = 2 if status in TEXT_STATUSES else 1
    answer = (status, headers, b'{"error": {"message": "no"}}')
    errors, script, _ = ask([answer], calls=calls, key="secret-key")
    assert isinstance(errors[-1], TeacherError)
    assert [type(error) for error in errors[:-1]] == [CallError] * (calls - 1)
    for error in errors:
        assert f"said {status}: no; " in str(error)
        assert advice in str(error)
        assert "secret-key" not in str(error)
    assert len(script.calls) == calls


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_holds_back_all_calls(form: str) -> None:
    value = "1"
    if (
        form == "date"
    ):  # whole seconds: between two and three from now, of which the server's start takes some
        value = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    (first, second), script, _ = ask([(429, {"Retry-After": value}, b""), GOOD], calls=2, concurrency=1)
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    # The other call may have been on its way; every call that begins after the answer waits.
    assert script.times[-1] - script.times[0] > 0.9


@pytest.mark.parametrize("value", ["soon", "-5", "", "nan", "Mon, 99 Foo 2020"])
def test_a_retry_after_that_makes_no_sense_is_passed_over(value: str) -> None:
    started = time.monotonic()
    (reply,), _, _ = ask([(503, {"Retry-After": value}, b""), GOOD])
    assert isinstance(reply, Reply)
    assert time.monotonic() - started < 3


def test_the_key_is_never_printed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint("http://x/v1/chat/completions", "secret-key")
    ask([(500, {}, b""), (401, {}, b"wrong key")], key="secret-key")
    assert "secret-key" not in repr(endpoint)
    assert "secret-key" not in caplog.text
    assert caplog.text


# -- request bodies and keys ---------------------------------------------------------------------------


def requests(**changes: Any) -> Requests:
    return Requests(WORKLOAD, **{"model": "m", "temperature": 0.0, "max_tokens": 32} | changes)


@pytest.mark.parametrize("text", ["Acme beats", 'a "quote" \\ and\nline', "🚀 é \u2028 {text}", "\x01", ""])
def test_a_body_is_the_json_of_its_request(text: str) -> None:
    assert orjson.loads(requests().body(text)) == {
        "model": "m",
        "messages": WORKLOAD.messages(text),
        "temperature": 0.0,
        "max_tokens": 32,
    }


def test_the_key_covers_all_that_an_answer_depends_on() -> None:
    keys = {
        requests().key("a"),
        requests().key("b"),
        requests(model="n").key("a"),
        requests(temperature=0.5).key("a"),
        requests(max_tokens=16).key("a"),
    }
    assert len(keys) == 5
    assert requests().key("a") == requests().key("a")


# -- where the teacher is ------------------------------------------------------------------------------


def endpoint(monkeypatch: pytest.MonkeyPatch, base_url: str | None = None, **variables: str) -> Endpoint:
    for name in ("FLYWHEEL_TEACHER_BASE_URL", "FLYWHEEL_TEACHER_API_KEY", "AIRFLOW_CONN_FLYWHEEL_TEACHER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return resolve_endpoint(TeacherConfig(base_url=base_url))


def test_the_environment_wins_over_the_config_and_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    found = endpoint(
        monkeypatch,
        base_url="http://config.test/v1",
        FLYWHEEL_TEACHER_BASE_URL="https://env.test/v1",
        FLYWHEEL_TEACHER_API_KEY="env-key",
        AIRFLOW_CONN_FLYWHEEL_TEACHER='{"host": "https://conn.test/v1", "password": "conn-key"}',
    )
    assert (found.url, found.api_key) == ("https://env.test/v1/chat/completions", "env-key")


def test_a_connections_key_goes_to_the_connections_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = endpoint(
        monkeypatch,
        base_url="http://config.test/v1",
        AIRFLOW_CONN_FLYWHEEL_TEACHER='{"host": "https://conn.test/v1", "password": "conn-key"}',
    )
    assert (found.url, found.api_key) == ("http://config.test/v1/chat/completions", None)


@pytest.mark.parametrize(
    ("connection", "url", "key"),
    [
        ('{"host": "https://a.test/v1", "password": "k"}', "https://a.test/v1", "k"),
        (
            '{"conn_type": "http", "host": "a.test", "port": 8000, "schema": "https"}',
            "https://a.test:8000/v1",
            None,
        ),
        ('{"conn_type": "http", "host": "a.test"}', "http://a.test/v1", None),
        ('{"conn_type": "generic", "host": "a.test"}', "https://a.test/v1", None),
        ("https://:k%2F1@a.test:8443/v1", "https://a.test:8443/v1", "k/1"),
        ("http://a.test:8000", "http://a.test:8000/v1", None),
        ("http://:k@a.test/https", "https://a.test/v1", "k"),
        ("http://https%3A%2F%2Fa.test%2Fapi", "https://a.test/api", None),
    ],
)
def test_a_connection_may_be_written_as_json_or_uri(
    monkeypatch: pytest.MonkeyPatch, connection: str, url: str, key: str | None
) -> None:
    found = endpoint(monkeypatch, AIRFLOW_CONN_FLYWHEEL_TEACHER=connection)
    assert (found.url, found.api_key) == (f"{url}/chat/completions", key)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://127.0.0.1:8399", "http://127.0.0.1:8399/v1/chat/completions"),
        ("http://127.0.0.1:8399/v1/", "http://127.0.0.1:8399/v1/chat/completions"),
        ("https://a.test/openai/v1/chat/completions", "https://a.test/openai/v1/chat/completions"),
        ("https://a.test/x?api-version=1", "https://a.test/x/chat/completions?api-version=1"),
    ],
)
def test_an_address_may_end_where_it_likes(monkeypatch: pytest.MonkeyPatch, base_url: str, url: str) -> None:
    assert endpoint(monkeypatch, base_url=base_url).url == url


@pytest.mark.parametrize(
    ("base_url", "message"),
    [
        ("a.test/v1", "teacher.base_url: expected a URL"),
        ("ftp://a.test", "teacher.base_url: expected a URL"),
        ("http://", "teacher.base_url: expected a URL"),
        ("http://a.test:port", "teacher.base_url: not a URL"),
        ("https://user:pass-word@a.test", "without a user and password"),
    ],
)
def test_a_wrong_address_is_named_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, base_url: str, message: str
) -> None:
    with pytest.raises(TeacherError) as caught:
        endpoint(monkeypatch, base_url=base_url)
    assert message in str(caught.value)
    assert "pass-word" not in str(caught.value)


def test_a_key_with_a_line_end_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TeacherError) as caught:
        endpoint(monkeypatch, base_url="http://a.test", FLYWHEEL_TEACHER_API_KEY="se\ncret")
    assert "cret" not in str(caught.value).replace("secrets", "")


def test_without_any_address_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.common.connections._airflow_connection", lambda *_: None)
    with pytest.raises(TeacherError, match=r"flywheel_teacher.*FLYWHEEL_TEACHER_BASE_URL"):
        endpoint(monkeypatch)


def test_the_text_parts_of_a_content_are_the_answer_and_thoughts_are_not() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "guidance"}]},
        {"type": "text", "text": "[[[earn"},
        {"type": "text", "text": "ings]]]"},
    ]
    body = orjson.dumps({"choices": [{"message": {"content": parts}}]})
    assert read_reply(body).content == "[[[earnings]]]"
