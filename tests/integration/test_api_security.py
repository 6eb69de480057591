"""Who must not get through: without a token, with a forged one or the wrong role, from another site."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import httpx
import jwt
import pytest
import yaml

from tests.integration import api_refusals
from tests.integration.api_refusals import JOB, refused
from tests.integration.web_server import WebServer

pytestmark = pytest.mark.slow

nobody, clients = api_refusals.nobody, api_refusals.clients  # fixtures

PROMOTION = {"run_id": "night-1", "student": "1b", "size": 25}
READS = [
    "/jobs",
    "/jobs/night-2",
    "/runs",
    "/runs/night-2",
    "/runs/night-2/disagreements?student=1b&size=25",
    "/runs/night-2/confusion?student=1b&size=25",
    "/runs/night-2/artifacts",
    "/runs/night-2/artifacts/adapters/1b@25.tar",
    "/runs/night-2/review",
    "/candidates",
    "/compare?runs=night-1,night-2",
    "/champion",
    "/champion/history",
    "/champion/timeline",
    "/champion/in-force",
    "/champion/hold",
    "/me",
]
WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/jobs", JOB),
    ("POST", "/jobs/going/cancel", None),
    ("DELETE", "/jobs/night-0", None),
    ("POST", "/records", None),
    ("POST", "/runs/going/review", {"decision": "approve"}),
    ("POST", "/champion", PROMOTION),
    ("POST", "/champion/rollback", None),
    ("POST", "/champion/stop", None),
    ("DELETE", "/champion/stop", None),
    ("DELETE", "/champion/hold", None),
]
ROUTES = [("GET", path, None) for path in READS] + WRITES


# -- authentication ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_without_a_token(web: WebServer, nobody: httpx.Client, method: str, path: str, body: Any) -> None:
    answer = nobody.request(method, path, json=body)
    refused(web, answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/flywheel/docs", "/flywheel/openapi.json"])
def test_the_document_without_a_token(web: WebServer, nobody: httpx.Client, path: str) -> None:
    refused(web, nobody.get(web.url + path), 401)


def _forge(token: str, **changes: Any) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return {**claims, **changes}


def _unsigned(claims: dict[str, Any]) -> str:
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    return (
        ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + "."
    )


def _bad_tokens(good: str) -> dict[str, str]:
    head, body, signature = good.split(".")
    return {
        "no jwt": "abc",
        "another key": jwt.encode(_forge(good), "k" * 64, algorithm="HS512"),
        "no signature": f"{head}.{body}.",
        "another's signature": f"{head}.{body}.{signature[::-1]}",
        "alg none": _unsigned(_forge(good)),
        "a greater role, unsigned": _unsigned(_forge(good, role="admin")),
        "changed body": f"{head}.{body[:-4]}AAAA.{signature}",
        "expired": jwt.encode(_forge(good, exp=1), "k" * 64, algorithm="HS512"),
        "two tokens": f"{good} {good}",
        "a very long one": "x." + "y" * 20_000 + ".z",
        "not ascii": "tokén.é.é",
    }


TOKEN_KINDS = [
    "no jwt",
    "another key",
    "no signature",
    "another's signature",
    "alg none",
    "a greater role, unsigned",
    "changed body",
    "expired",
    "two tokens",
    "a very long one",
    "not ascii",
]


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_a_forged_token(web: WebServer, nobody: httpx.Client, kind: str) -> None:
    token = _bad_tokens(web.token("vera"))[kind]
    answer = nobody.get("/jobs", headers={b"Authorization": f"Bearer {token}".encode()})
    refused(web, answer, 401, 403)


@pytest.mark.parametrize("scheme", ["Basic YWRtaW46YWRtaW4=", "Bearer", "Digest x", "Token abc"])
def test_another_scheme(web: WebServer, nobody: httpx.Client, scheme: str) -> None:
    refused(web, nobody.get("/jobs", headers={"Authorization": scheme}), 401)


def test_a_forged_session(web: WebServer, nobody: httpx.Client) -> None:
    token = _unsigned(_forge(web.token("vera"), role="admin"))
    answer = nobody.get("/jobs", headers={"Cookie": f"_token={token}"})
    refused(web, answer, 401, 403)


def test_a_session_of_the_ui_is_enough(web: WebServer, nobody: httpx.Client) -> None:
    answer = nobody.get("/jobs", headers={"Cookie": f"_token={web.token('vera')}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("header", [{"Origin": "https://evil.test"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_session_that_a_page_of_another_site_uses(
    web: WebServer, nobody: httpx.Client, header: dict[str, str]
) -> None:
    cookie = {"Cookie": f"_token={web.token('admin')}"}
    refused(web, nobody.post("/jobs", json=JOB, headers={**cookie, **header}), 403)


# -- roles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_who_may_only_read(
    web: WebServer, clients: dict[str, httpx.Client], method: str, path: str, body: Any
) -> None:
    refused(web, clients["vera"].request(method, path, json=body), 403)


@pytest.mark.parametrize(("path", "body"), [("/champion", PROMOTION), ("/champion/rollback", None)])
def test_who_may_only_trigger(web: WebServer, clients: dict[str, httpx.Client], path: str, body: Any) -> None:
    refused(web, clients["uma"].post(path, json=body), 403)


@pytest.mark.parametrize("path", READS)
def test_who_may_read_reads(clients: dict[str, httpx.Client], path: str) -> None:
    answer = clients["vera"].get(path)
    assert answer.status_code == (404 if path.endswith("/review") else 200), answer.text


@pytest.mark.parametrize(
    ("user", "may"),
    [
        ("vera", {"read"}),
        ("uma", {"read", "trigger", "delete", "review"}),
        ("otto", {"read", "trigger", "delete", "review", "promote"}),
    ],
)
def test_each_is_told_what_they_may_do(clients: dict[str, httpx.Client], user: str, may: set[str]) -> None:
    told = clients[user].get("/me").json()
    assert told["name"] == user
    assert {name for name, allowed in told["may"].items() if allowed} == may


def test_who_may_trigger_starts_and_cancels(clients: dict[str, httpx.Client]) -> None:
    started = clients["uma"].post("/jobs", json=JOB)
    assert started.status_code == 200
    assert clients["uma"].post(f"/jobs/{started.json()['id']}/cancel").status_code == 200


def test_who_may_promote_promotes_and_rolls_back(web: WebServer, clients: dict[str, httpx.Client]) -> None:
    before = clients["otto"].get("/champion").json()
    history = clients["otto"].get("/champion/history").json()
    assert (history["workload_id"], history["client_id"]) == ("news_classifier", "desk")
    promoted = clients["otto"].post("/champion", json={"run_id": "night-2", "student": "8b", "size": 25})
    assert promoted.status_code == 200, promoted.text
    assert promoted.json()["champion"]["student"] == "8b"
    told = clients["otto"].get("/champion/history").json()["before"]
    assert told["adapter"] == before["adapter"]
    back = clients["otto"].post("/champion/rollback", json={"comment": "it is dear"})
    assert back.status_code == 200, back.text
    assert back.json()["champion"]["adapter"] == before["adapter"]
    latest = clients["vera"].get("/champion/history").json()["champions"][0]
    assert "Rolled back by otto" in latest["reason"]
    assert latest["comment"] == "it is dear"
    hold = clients["vera"].get("/champion/hold").json()["hold"]
    assert (hold["by"], hold["why"], hold["comment"]) == ("otto", "rolled back", "it is dear")
    timeline = clients["vera"].get("/champion/timeline?limit=2").json()
    assert [(entry["kind"], entry["decision"], entry["by"]) for entry in timeline["entries"]] == [
        ("person", "rolled back", "otto"),
        ("person", "promoted", "otto"),
    ]
    assert timeline["entries"][0]["champion"]["adapter"] == before["adapter"]
    assert all(entry["in_line"] for entry in timeline["entries"])
    stretches = clients["vera"].get("/champion/in-force?limit=2").json()["stretches"]
    assert stretches[0]["champion"]["adapter"] == before["adapter"]
    assert stretches[0]["until"] is None
    assert stretches[0]["since"] == stretches[1]["until"]
    nights = clients["vera"].get("/champion/timeline?offset=2").json()
    assert nights["entries"][-1]["kind"] == "night"
    assert nights["total"] == len(nights["entries"]) + 2
    stop = clients["otto"].post("/champion/stop", json={"comment": "odd answers"}).json()["stop"]
    assert (stop["by"], stop["comment"]) == ("otto", "odd answers")
    assert clients["otto"].post("/champion/stop").json()["stop"] == stop
    assert clients["vera"].get("/production").json()["stop"] == stop
    refused(web, clients["uma"].delete("/champion/stop"), 403)
    assert clients["otto"].delete("/champion/stop").json()["stop"] is None
    refused(web, clients["otto"].delete("/champion/stop"), 404)
    refused(web, clients["uma"].delete("/champion/hold"), 403)
    assert clients["otto"].delete("/champion/hold").json()["hold"] is None
    refused(web, clients["otto"].delete("/champion/hold"), 404)


def test_without_a_token_where_the_configuration_lets_this_machine(
    web: WebServer, nobody: httpx.Client
) -> None:
    file = web.folder / "config.yaml"
    before = file.read_text()
    changed = yaml.safe_load(before)
    changed["api"]["token_required"] = False
    try:
        file.write_text(yaml.safe_dump(changed))
        assert nobody.get("/jobs").status_code == 200
        started = nobody.post("/jobs", json=JOB)
        assert started.status_code == 200
        assert nobody.post(f"/jobs/{started.json()['id']}/cancel").status_code == 200
        refused(web, nobody.get("/jobs", headers={"X-Forwarded-For": "127.0.0.1"}), 401)
        refused(web, nobody.get("/jobs", headers={"Host": "evil.test"}), 401)
        refused(web, nobody.post("/jobs", json=JOB, headers={"Origin": "https://evil.test"}), 401, 403)
        refused(web, nobody.get("/jobs", headers={"Authorization": "Bearer x.y.z"}), 401, 403)
        file.write_text("api: {token_required: [")  # a mistake opens nothing and takes nothing away
        assert nobody.get("/runs", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401
    finally:
        file.write_text(before)
    refused(web, nobody.get("/jobs"), 401)


def test_the_server_still_serves(clients: dict[str, httpx.Client]) -> None:
    assert clients["vera"].get("/jobs").status_code == 200


def test_no_secret_is_in_the_log(web: WebServer) -> None:
    text = web.log.read_text()
    assert web.token("admin").split(".")[2] not in text
    assert "problem" not in text or "Traceback" not in text.split("problem", 1)[1][:200]


def test_more_requests_than_allowed_are_told_to_wait() -> None:
    from flywheel.web.limits import Rates

    rates = Rates()
    began = time.monotonic()
    waits = [rates.take("somebody", 60) for _ in range(61)]
    assert waits[:60] == [0.0] * 60
    assert 0 < waits[60] <= 1.0 or time.monotonic() - began > 1
    assert rates.take("somebody else", 60) == 0.0
