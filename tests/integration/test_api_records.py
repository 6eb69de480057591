"""Records that clients post: known from their arrival, whatever times they say; no student's answer goes in."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from flywheel.config import load_config
from flywheel.stores import open_store
from flywheel.workloads.records import Record
from tests.integration.web_server import WebServer, environment_of

pytestmark = pytest.mark.slow

# Bodies of 2 MB and more are taken by another process.
LARGE = 2_200_000


@pytest.fixture(scope="module")
def client(web: WebServer) -> httpx.Client:
    return web.client()


def line(
    client_id: str, number: int, *, timestamp: Any, model: str = "teacher", answers_as: str = ""
) -> bytes:
    record = {
        "request": {"model": model, "messages": [{"role": "user", "content": f"{client_id} says {number}"}]},
        "response": {
            "choices": [{"message": {"role": "assistant", "content": "[[[earnings]]]"}}],
            **({"model": answers_as} if answers_as else {}),
        },
        "workload_id": "news_classifier",
        "client_id": client_id,
        "timestamp": timestamp,
    }
    return json.dumps(record).encode() + b"\n"


def post(client: httpx.Client, body: bytes, filler: int = 0) -> list[dict[str, Any]]:
    """Post lines, and others of no use until the body is so long; return the answers to the lines."""
    lines = body.count(b"\n")
    body += b"x" * max(0, filler - len(body))
    answer = client.post("/records", content=body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200, answer.text
    return [row for row in map(json.loads, answer.text.splitlines()) if row.get("line", lines + 1) <= lines]


def stored(web: WebServer, client_id: str, before: int = 1 << 40) -> list[Record]:
    with environment_of(web.folder), open_store(load_config().store) as store:
        return list(store.read("news_classifier", client_id, before))


@pytest.mark.parametrize("filler", [0, LARGE])
def test_what_is_posted_is_known_from_its_arrival_whatever_time_it_says(
    web: WebServer, client: httpx.Client, filler: int
) -> None:
    name = f"arrivals-{filler}"
    said = {1: 1_500_000_000, 2: int(time.time()) + 86_400, 3: 0}
    begun = int(time.time())
    answers = post(client, b"".join(line(name, n, timestamp=t) for n, t in said.items()), filler)
    ended = int(time.time())
    assert [answer["status"] for answer in answers] == ["accepted"] * 3
    records = stored(web, name)
    assert sorted(record.timestamp for record in records) == sorted(said.values())
    assert all(begun <= (record.known_at or 0) <= ended for record in records)
    assert {record.labelled_by for record in records} == {"posted"}
    # A dated run before their arrival sees none, a job that begins after it sees all.
    assert stored(web, name, before=begun) == []
    assert len(stored(web, name, before=ended + 1)) == 3


def test_posting_again_leaves_a_record_known_from_its_first_arrival(
    web: WebServer, client: httpx.Client
) -> None:
    first = post(client, line("again", 1, timestamp=1_600_000_000))
    (before,) = stored(web, "again")
    while int(time.time()) == before.known_at:
        time.sleep(0.05)  # until another second has begun, in which it could be seen to be later
    assert post(client, line("again", 1, timestamp=1_600_000_000)) == first
    assert stored(web, "again") == [before]


@pytest.mark.parametrize("filler", [0, LARGE])
@pytest.mark.parametrize("student", ["meta/llama-1b", "meta/llama-1b@0123456789abcdef0123"])
def test_the_answer_of_a_student_is_set_aside_by_whichever_of_its_names(
    web: WebServer, client: httpx.Client, student: str, filler: int
) -> None:
    name = f"students-{filler}-{student.replace('/', '-')}"
    body = line(name, 1, timestamp=1_600_000_000, model=student)
    body += line(name, 2, timestamp=1_600_000_000, model="gateway")
    body += line(name, 3, timestamp=1_600_000_000, model="gateway", answers_as=student)
    answers = {answer["line"]: answer for answer in post(client, body, filler)}
    assert [answers[number]["status"] for number in (1, 2, 3)] == ["quarantined", "accepted", "quarantined"]
    assert "students' answers never train" in answers[1]["reason"]
    assert answers[3]["reason"].startswith("response.model: a student answered")
    assert len(stored(web, name)) == 1
