"""A drill: every hostile input (tests/hostile.py) sent to a real API server, bodies up to a megabyte.

None is a server error, good records beside bad ones arrive, and no other request waits over a second meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests import hostile
from tests.integration.web_server import WebServer

pytestmark = [pytest.mark.slow, pytest.mark.drill]

# Beyond what they wait without us; and the seconds in which that is looked at.
LONGEST_WAIT, ALONE_SECONDS = 1.0, 10
NDJSON = {"Content-Type": "application/x-ndjson"}


class Others:
    """Somebody else's requests, one after the other, and how long each waited beside which of ours."""

    def __init__(self, web: WebServer) -> None:
        self.waits: list[tuple[float, str]] = []
        self.beside = ""
        self.faults: list[str] = []
        self._client = web.client("vera")
        self._web = web
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._over.is_set():
            for url in (f"{self._web.url}/api/v2/version", f"{self._web.api}/me"):
                beside, began = self.beside, time.monotonic()
                answer = self._client.get(url)
                self.waits.append((time.monotonic() - began, beside))
                if answer.status_code != 200:
                    self.faults.append(f"{url} {answer.status_code}")
            self._over.wait(0.02)

    def __enter__(self) -> Others:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def bodies() -> list[tuple[str, bytes]]:
    """Return JSON bodies for routes that take one: hostile JSON, and hostile texts as each value."""
    found = [(name, line) for name, line in hostile.json_lines().items() if not name.startswith("text: ")]
    for name, text in hostile.TEXTS.items():
        for key in ("workload_id", "client_id", "comment"):
            body = {"workload_id": "news_classifier", "client_id": "desk", key: text}
            found.append((f"{key}: {name}", json.dumps(body).encode()))
    found.append(("a megabyte of levels", b'{"a":' * 200_000))
    found.append(("a megabyte of lists", b'{"workload_id":' + b"[" * 1_000_000))
    found.append(("a megabyte of ligatures", json.dumps({"client_id": "\ufdfa" * 170_000}).encode()))
    found.append(("a megabyte of keys", json.dumps({f"k{n}": n for n in range(70_000)}).encode()))
    return found


def requests_of(web: WebServer) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return name, method, URL and arguments of each hostile request."""
    found: list[tuple[str, str, str, dict[str, Any]]] = []
    for name, line in hostile.record_lines():
        good = json.dumps(hostile.record(client_id="beside")).encode()
        found.append(
            (f"records, {name}", "POST", "/records", {"content": line + b"\n" + good, "headers": NDJSON})
        )
    for name, body in bodies():
        headers = {"Content-Type": "application/json"}
        for url in ("/jobs", "/champion", "/runs/night-0/review", "/jobs/night-0/cancel"):
            found.append((f"{url}, {name}", "POST", url, {"content": body, "headers": headers}))
    for name, text in hostile.names():
        part = quote(text.encode("utf-8", "surrogatepass")[:2000], safe="")
        for url in (
            f"/jobs/{part}", f"/runs/{part}", f"/runs/night-0/artifacts/{part}", f"/runs/{part}/artifacts/{part}",
            f"/runs?workload_id={part}&client_id={part}", f"/champion?workload_id={part}",
        ):  # fmt: skip
            found.append((f"{url.partition('%')[0]}, {name}", "GET", url, {}))
        if text.isascii() and text.isprintable() and len(text) < 4000:
            found.append(
                (f"header, {name}", "POST", "/jobs", {"headers": {"Idempotency-Key": text}, "json": {}})
            )
    return found


def test_no_hostile_request_is_a_server_error_or_keeps_others_waiting(
    web: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    client = web.client("admin")
    statuses: Counter[int] = Counter()
    faults: list[str] = []
    slowest = (0.0, "")
    sent = requests_of(web)
    with Others(web) as alone:
        time.sleep(ALONE_SECONDS)  # what this machine lets them wait without us
    with Others(web) as others:
        for name, method, url, arguments in sent:
            others.beside = name
            began = time.monotonic()
            answer = client.request(method, url, **arguments)
            slowest = max(slowest, (time.monotonic() - began, name))
            statuses[answer.status_code] += 1
            if answer.status_code >= 500 or "Traceback" in answer.text:
                faults.append(f"{name} -> {answer.status_code} {answer.text[:200]}")
            if url == "/records" and answer.status_code == 200:
                lines = [json.loads(line) for line in answer.text.splitlines()]
                if not any(line.get("line") == 2 and line["status"] == "accepted" for line in lines):
                    faults.append(f"{name}: the good record beside it is lost: {answer.text[:300]}")
    waits, usual = sorted(others.waits), max(alone.waits)[0]
    with capsys.disabled():
        print(
            f"\n{len(sent)} hostile requests: {dict(sorted(statuses.items()))}; the slowest took {slowest[0]:.2f} s "
            f"({slowest[1]}); {len(waits)} other requests beside them waited {waits[len(waits) // 2][0]:.3f} s "
            f"(median), {usual:.3f} s at most without us, with us {waits[-3:]}"
        )
    assert not faults, "\n".join(faults[:20])
    assert not others.faults, others.faults[:5]
    assert len(sent) >= 300
    assert waits[-1][0] < LONGEST_WAIT + usual
    with pytest.raises(httpx.HTTPStatusError):  # and it still says what is wrong with a plain mistake
        client.get("/jobs/nobody").raise_for_status()
