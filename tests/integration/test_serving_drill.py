"""Promotions and roll-backs under load: no failed request, no answer of another adapter than it names.

By FLYWHEEL_DRILL=full 100 changes under 32 callers; else 5. Hostile requests beside ordinary ones: they are
refused, and the others are not slower.
"""

# ruff: noqa: F811  the wheel that has turned is a fixture of the unit tests
from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import Champion, read_champion
from flywheel.promotion.holds import Hold
from flywheel.promotion.transitions import decide, promoted, rolled_back
from flywheel.runs.run import Run
from tests.hostile import TEXTS
from tests.serving_load import Call, call_for, endpoint_process, is_ready, start_endpoint
from tests.unit.champion_endpoint import (
    HEADLINES,
    WORKLOAD,
    config_of,
    folder,  # noqa: F401
    of_user,
    until,
    whole_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2700)]

CALLERS = 32
# Here, where the endpoint looks for another champion every 0.1 seconds.
MOST_SECONDS = 10.0


@contextmanager
def endpoint(folder: Path, **settings: Any) -> Iterator[str]:
    """Run `flywheel serve` in a process of its own; gives its address. It ends by SIGTERM, and must end well."""
    config = folder / f"serving-{len(list(folder.glob('serving-*')))}.yaml"
    made = config_of(folder, serving=settings).model_dump(mode="json", exclude_unset=True)
    config.write_text(yaml.safe_dump(made))
    with endpoint_process(config, FLYWHEEL_DEVICE="cpu") as url:
        yield url


class Callers:
    """Callers of an endpoint in a thread, until told to stop."""

    def __init__(self, url: str, bodies: list[bytes], callers: int) -> None:
        self.calls: list[Call] = []
        self._stop = threading.Event()
        going = call_for(url, bodies, callers, lambda: not self._stop.is_set(), self.calls.append)
        self._thread = threading.Thread(target=asyncio.run, args=(going,))

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def forwards(champion: Champion) -> Callable[[Any], Any]:
    return lambda state: promoted(state, champion)


def backwards(champion: Champion, adapter: str) -> Callable[[Any], Any]:
    hold = Hold(
        workload_id=WORKLOAD.id,
        client_id="desk",
        dataset=None,
        adapter=adapter,
        by="pat",
        at=datetime.now(UTC).isoformat(),
        why="rolled back",
        comment="",
    )
    return lambda state: rolled_back(state, champion, hold)


def bodies(model: str = WORKLOAD.id) -> list[bytes]:
    return [orjson.dumps({"model": model, "messages": of_user(one.text)}) for one in HEADLINES[:200]]


@pytest.mark.parametrize("changes", [5, pytest.param(100, marks=pytest.mark.drill)])
def test_champions_change_under_load_and_each_answer_is_of_the_adapter_it_names(
    folder: Path, changes: int
) -> None:
    root = ArtifactRoot(str(folder / "artifacts"))
    run = Run(root, "night")
    wholes = [whole_of(run, size) for size in (300, 600)]
    taken: list[float] = []
    with endpoint(folder, follow_seconds=0.1) as url:
        # What each adapter answers by itself, asked by its key.
        alone: dict[str, list[str]] = {}
        for whole in wholes:
            name = f"{whole.model_name}@{whole.adapter}"
            answers = [
                httpx.post(f"{url}/v1/chat/completions", content=body, timeout=60) for body in bodies(name)
            ]
            alone[whole.adapter] = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
        first, second = alone.values()
        assert first != second  # adapters that answer differently
        with Callers(url, bodies(), CALLERS) as load:
            for number in range(changes):
                before = read_champion(root, WORKLOAD.id, "desk")
                assert before is not None
                other = next(whole for whole in wholes if whole.adapter != before.adapter)
                change = backwards(other, before.adapter) if number % 2 else forwards(other)
                decide(root, WORKLOAD.id, "desk", change, by="pat")
                after = read_champion(root, WORKLOAD.id, "desk")
                assert after is not None and after.adapter != before.adapter
                began = time.perf_counter()
                while True:
                    recent = [call for call in load.calls[-CALLERS:] if call.at > began]
                    if any(call.headers.get("x-flywheel-adapter") == after.adapter for call in recent):
                        break
                    assert time.perf_counter() - began < 60
                    time.sleep(0.01)
                taken.append(time.perf_counter() - began)
    calls = load.calls
    assert Counter(call.status for call in calls) == {200: len(calls)}
    wrong = 0
    for call in calls:
        body = json.loads(call.body)
        adapter = call.headers["x-flywheel-adapter"]
        said = body["choices"][0]["message"]["content"]
        wrong += body["system_fingerprint"] != f"fw_{adapter}" or said != alone[adapter][call.place]
    assert wrong == 0
    assert max(taken) <= MOST_SECONDS
    print(
        f"\n{changes} changes, {len(calls)} requests of {CALLERS} callers, 0 failed, 0 of another adapter; "
        f"a new champion answers after {statistics.median(taken):.2f} s, {max(taken):.2f} s at most"
    )


def test_two_replicas_switch_together_and_the_death_of_one_fails_no_request_of_the_other(
    folder: Path,
) -> None:
    """What differs between replicas of one artifact root for how long; a Service sends on to those alive."""
    root = ArtifactRoot(str(folder / "artifacts"))
    follow = 0.5
    skews: list[float] = []
    with ExitStack() as stack:
        urls = [stack.enter_context(endpoint(folder, follow_seconds=follow))]
        config = folder / "second.yaml"
        second = config_of(folder, serving={"follow_seconds": follow})
        config.write_text(yaml.safe_dump(second.model_dump(mode="json", exclude_unset=True)))
        process, url = start_endpoint(config, FLYWHEEL_DEVICE="cpu")
        stack.callback(process.kill)
        urls.append(url)
        while not is_ready(url):
            assert process.poll() is None
            time.sleep(0.1)
        wholes = [whole_of(Run(root, "night"), size) for size in (300, 600)]
        with Callers(urls[0], bodies(), 4) as first, Callers(urls[1], bodies(), 4) as other:
            for _ in range(5):
                before = read_champion(root, WORKLOAD.id, "desk")
                assert before is not None
                whole = next(one for one in wholes if one.adapter != before.adapter)
                decide(root, WORKLOAD.id, "desk", forwards(whole), by="pat")
                began, deadline = time.perf_counter(), time.monotonic() + 60
                since: dict[int, float] = {}
                while len(since) < 2:
                    assert time.monotonic() < deadline
                    for place, load in enumerate((first, other)):
                        new = (call.at for call in load.calls[-20:] if is_of(call, whole) and call.at > began)
                        if place not in since and (at := next(new, None)) is not None:
                            since[place] = at
                    time.sleep(0.01)
                skews.append(abs(since[0] - since[1]))
            asked = len(other.calls)
            process.kill()
            until(lambda: any(call.status == 0 for call in other.calls[asked:]))
            alive = len(first.calls)
            until(lambda: len(first.calls) > alive + 50)
    assert Counter(call.status for call in first.calls) == {200: len(first.calls)}
    assert {call.status for call in other.calls[:asked]} == {200}
    print(
        f"\nreplicas differ for {statistics.median(skews):.2f} s, {max(skews):.2f} s at most, {len(skews)} changes"
    )


def is_of(call: Call, champion: Champion) -> bool:
    return call.headers.get("x-flywheel-adapter") == champion.adapter


def hostile_requests() -> list[tuple[str, bytes]]:
    """Return requests that are to be refused or answered, and to harm nobody: texts, fields, whole bodies."""
    good = {"model": WORKLOAD.id, "messages": of_user("Acme cuts jobs")}
    message = good["messages"][0]  # type: ignore[index]
    fields: dict[str, Any] = {
        "no model": {"model": None},
        "a path": {"model": "../../etc/passwd"},
        "a path as adapter": {"model": "small@../../x"},
        "an empty adapter": {"model": "small@"},
        "a model of 10 kB": {"model": "m" * 10_000},
        "a NUL in the model": {"model": "small\x00@300"},
        "a header in the model": {"model": "x\r\nset-cookie: a=b"},
        "messages as a text": {"messages": "x"},
        "300 messages": {"messages": [message] * 300},
        "a message that is a list": {"messages": [[]]},
        "a role of 100 kB": {"messages": [{"role": "r" * 100_000, "content": "x"}]},
        "a role that is an object": {"messages": [{"role": {}, "content": "x"}]},
        "content that is an object": {"messages": [{"role": "user", "content": {}}]},
        "an image": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "parts of null": {"messages": [{"role": "user", "content": [None]}]},
        "a text of 900 kB": {"messages": of_user("word " * 180_000)},
        "a text without spaces": {"messages": of_user("x" * 900_000)},
        "special tokens": {"messages": of_user("<|end|><|assistant|>" * 1000)},
        "brackets": {"messages": of_user("[[[" * 100_000)},
        "tokens of zero": {"max_tokens": 0},
        "tokens below zero": {"max_tokens": -1},
        "a billion tokens": {"max_tokens": 10**9},
        "tokens beyond 64 bits": {"max_tokens": 10**30},
        "a thousand answers": {"n": 1000},
        "alternatives beyond": {"logprobs": True, "top_logprobs": 10**6},
        "a temperature that is a text": {"temperature": "hot"},
        "tools of null": {"tools": [None]},
        "1,000 tools": {"tools": [{"type": "function", "function": {"name": "f"}}] * 1000},
        "an unknown field": {"__proto__": {}},
        "stream as a text": {"stream": "yes please"},
    }
    found = [(name, json.dumps({**good, **changes}).encode()) for name, changes in fields.items()]
    deep = b'{"model": "m", "messages": [{"role": "user", "content": ' + b"[" * 100_000
    found += [
        ("nothing", b""),
        ("null", b"null"),
        ("a list", b"[]"),
        ("no JSON", b"<xml/>"),
        ("half a JSON", orjson.dumps(good)[:-5]),
        ("deep", deep),
        ("NaN", b'{"model": NaN}'),
        ("UTF-16", json.dumps(good).encode("utf-16")),
        ("broken UTF-8", b'{"model": "\xff\xfe"}'),
        ("2 MiB", b" " * (2 << 20)),
        ("a bomb of keys", b"{" + b",".join(b'"k%d": 1' % n for n in range(50_000)) + b"}"),
    ]
    for name, text in TEXTS.items():
        found.append((f"text: {name}", json.dumps({**good, "messages": of_user(text)}).encode()))
    return found


def test_hostile_requests_are_refused_and_ordinary_ones_go_on(folder: Path) -> None:
    hostile = hostile_requests()
    assert len(hostile) >= 60
    with endpoint(folder, timeout_seconds=10) as url, Callers(url, bodies(), 4) as load:
        path = f"{url}/v1/chat/completions"
        for name, body in hostile:
            answer = httpx.post(path, content=body, timeout=60)
            assert answer.status_code in (200, 400, 404, 413), (name, answer.status_code, answer.text[:300])
            if answer.status_code == 200:
                assert answer.json()["flywheel"]["label"] in WORKLOAD.classes, name
            else:
                error = answer.json()["error"]
                assert set(error) == {"message", "type", "param", "code"} and len(answer.content) < 3000, name
            assert "set-cookie" not in answer.headers
        middle = statistics.median(call.seconds for call in load.calls)
    assert Counter(call.status for call in load.calls) == {200: len(load.calls)}
    slowest = max(call.seconds for call in load.calls)
    print(
        f"\n{len(hostile)} hostile requests, {len(load.calls)} ordinary ones beside them, none failed: "
        f"{1000 * middle:.0f} ms in the middle, {1000 * slowest:.0f} ms at most"
    )
