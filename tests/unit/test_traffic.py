"""The traffic log: what was answered is in the store, once, whatever is killed; and what it keeps."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest

from flywheel.common.errors import ConfigError, RecordError, StoreError
from flywheel.config import Config
from flywheel.evaluation.cascade import Cascade
from flywheel.runs.plan import make_plan
from flywheel.serving.answered import Answered, Completion
from flywheel.serving.app import Serving
from flywheel.serving.openai import EndpointReply
from flywheel.serving.production import Production, drawn
from flywheel.serving.student import Answer
from flywheel.serving.traffic import Segments, TrafficEntry, ship, traffic_scope
from flywheel.serving.traffic.shipping import traffic_folder
from flywheel.stores import open_store
from flywheel.teacher.month import month_of
from flywheel.workloads.records import Record
from flywheel.workloads.workload import Workload
from tests.serving_load import start_endpoint
from tests.unit.teacher_servers import Script, completion, served, stand_in

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
FAR = 4_000_000_000
SCOPE = traffic_scope(WORKLOAD.id, "desk")
YEAR_2100 = datetime(2100, 1, 1, tzinfo=UTC)


def config_of(folder: Path, **sections: Any) -> Config:
    serving = {
        "log": "all",
        "audit": 0.5,
        "log_folder": str(folder / "traffic"),
        "cascade": {"agreement": 0.9},
    }
    return Config.model_validate(
        {
            "nims": [{"model_name": "x/small"}],
            "client_id": "desk",
            "artifacts": {"root": str(folder / "artifacts")},
            "store": {"path": str(folder / "records.db")},
            "serving": {**serving, **sections.pop("serving", {})},
            "evaluation_config": {"decoding": "labels"},
            "data_split_config": {"calibration_ratio": 0.1},
            **sections,
        }
    )


def entries(config: Config) -> list[TrafficEntry]:
    with open_store(config.store) as store:
        return [TrafficEntry.of_record(record) for record in store.read(*SCOPE, FAR)]


def ask(url: str, text: str, model: str = WORKLOAD.id) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)


def answered(number: int, text: str = "Acme cuts jobs") -> Answered:
    asked = Completion(model=WORKLOAD.id, messages=[{"role": "user", "content": text}])
    answer = Answer("[[[labour issues]]]", "Labour Issues", {"Labour Issues": 0.9})
    return Answered(f"chatcmpl-{number}", time.time(), 0.01, None, None, asked, "small @ 5", "a" * 20, answer)


def entry(number: int) -> TrafficEntry:
    return TrafficEntry(
        id=f"chatcmpl-{number}", at=1e9, workload_id=WORKLOAD.id, client_id="desk", model="m",
        messages=[{"role": "user", "content": f"text {number}"}], answer="[[[other]]]", by="s", label="OTHER",
    )  # fmt: skip


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


class TestSegments:
    def test_an_entry_is_on_the_disk_when_append_returns_and_in_the_store_once(self, tmp_path: Path) -> None:
        config = config_of(tmp_path)
        folder = traffic_folder(config)

        async def run() -> None:
            segments = Segments(folder)
            await asyncio.gather(*(segments.append(entry(number).line()) for number in range(50)))
            (path,) = folder.glob("*.jsonl")
            assert len(path.read_bytes().splitlines()) == 50
            with open_store(config.store) as store:
                assert ship(folder, store) == 0  # it is still written: its lock is held
                await segments.close()
                copy = path.read_bytes()
                assert ship(folder, store) == 50
                path.write_bytes(copy)  # as if killed before the file went
                assert ship(folder, store) == 50
                assert ship(folder, store) == 0

        asyncio.run(run())
        assert sorted(one.id for one in entries(config)) == sorted(f"chatcmpl-{n}" for n in range(50))

    def test_a_torn_last_line_of_a_killed_writer_is_left_out_and_the_rest_is_shipped(
        self, tmp_path: Path
    ) -> None:
        config = config_of(tmp_path)
        folder = traffic_folder(config)
        folder.mkdir(parents=True)
        (folder / "1-a.jsonl").write_bytes(entry(1).line() + entry(2).line()[:-5])
        (folder / "1-b.jsonl").write_bytes(b"no json\n" + entry(3).line())
        with open_store(config.store) as store:
            assert ship(folder, store) == 2
        assert {one.id for one in entries(config)} == {"chatcmpl-1", "chatcmpl-3"}
        assert "no json" in (folder / "refused.txt").read_text()

    def test_a_store_that_is_away_keeps_nothing_from_being_answered_and_gets_all_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = config_of(tmp_path)

        def away(*_: Any, **__: Any) -> Any:
            raise StoreError("the store does not answer")

        async def run() -> None:
            monkeypatch.setattr("flywheel.serving.production.open_store", away)
            async with Production(config, None) as production:  # type: ignore[arg-type]
                for number in range(20):
                    await production.keep(answered(number))
            assert list(traffic_folder(config).glob("*.jsonl"))
            monkeypatch.undo()
            async with Production(config, None):  # type: ignore[arg-type]
                pass  # it ships what an earlier process has left

        asyncio.run(run())
        assert len(entries(config)) == 20
        assert not list(traffic_folder(config).glob("*.jsonl"))

    def test_a_log_that_cannot_be_written_gives_no_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with stand_in({"Acme cuts jobs": "Labour Issues"}) as (address, _):
            config = config_of(tmp_path, teacher={"base_url": f"{address}/v1"})
            with served(Serving(config).app()) as url:
                assert ask(url, "Acme cuts jobs").status_code == 200
                with monkeypatch.context() as patch:
                    patch.setattr("flywheel.serving.traffic.segments.os.fdatasync", full)
                    refused = ask(url, "Acme cuts jobs")
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log_failed")
                assert ask(url, "Acme cuts jobs").status_code == 200
        assert len(entries(config)) == 2


class TestContent:
    def kept(self, tmp_path: Path, **serving: Any) -> list[TrafficEntry]:
        config = config_of(tmp_path, serving=serving)

        async def run() -> None:
            async with Production(config, None) as production:  # type: ignore[arg-type]
                for listener in production.listeners[1:]:
                    await listener(answered(1))

        asyncio.run(run())
        return entries(config)

    def test_all_keeps_what_was_asked_and_answered(self, tmp_path: Path) -> None:
        (one,) = self.kept(tmp_path, audit=1.0)
        assert one.messages == [{"role": "user", "content": "Acme cuts jobs"}]
        assert (one.label, one.confidence, one.by, one.adapter) == (
            "Labour Issues",
            0.9,
            "small @ 5",
            "a" * 20,
        )
        assert (one.audit, one.drawn) == (True, 1.0)

    def test_labels_only_keeps_no_text(self, tmp_path: Path) -> None:
        (one,) = self.kept(tmp_path, log="labels_only", audit=0.0)
        assert one.label == "Labour Issues" and not one.has_text
        assert b"Acme" not in (tmp_path / "records.db").read_bytes()

    def test_none_keeps_nothing(self, tmp_path: Path) -> None:
        assert self.kept(tmp_path, log="none", audit=0.0) == []
        assert not (tmp_path / "traffic").exists() or not list((tmp_path / "traffic").glob("*/*.jsonl"))

    def test_who_is_drawn_hangs_on_the_secret_and_the_request_alone_and_the_share_is_kept(self) -> None:
        share = sum(drawn(b"seed", f"chatcmpl-{number}", 0.1) for number in range(20_000)) / 20_000
        assert abs(share - 0.1) < 0.01
        other = [drawn(b"other", f"chatcmpl-{number}", 0.1) for number in range(2000)]
        assert other != [drawn(b"seed", f"chatcmpl-{number}", 0.1) for number in range(2000)]
        assert drawn(b"x", "y", 1.0) and not drawn(b"x", "y", 0.0)


class TestTeacherAnswers:
    def test_without_a_champion_the_teacher_answers_in_a_cascade_and_is_paid_once_for_a_text(
        self, tmp_path: Path
    ) -> None:
        script = Script([(200, {}, completion("[[[labour issues]]]"))])
        with served(script) as address:
            config = config_of(
                tmp_path, teacher={"base_url": f"{address}/v1", "prices": {"prompt": 1e6, "completion": 1e6}}
            )
            with served(Serving(config).app()) as url:
                with ThreadPoolExecutor(8) as threads:
                    bodies = list(threads.map(lambda _: ask(url, "Acme cuts jobs").json(), range(8)))
                assert ask(url, "Acme cuts jobs").json()["flywheel"]["label"] == "Labour Issues"
            with served(Serving(config).app()) as url:  # another process: the answer is in the store by now
                bodies.append(ask(url, "Acme cuts jobs").json())
        assert len(script.calls) == 1
        assert all(body["choices"][0]["message"]["content"] == "[[[labour issues]]]" for body in bodies)
        assert all(body["flywheel"]["student"] == "teacher" for body in bodies)
        found = entries(config)
        assert len(found) == 10 and all(one.by_teacher for one in found)
        assert sum(one.cost > 0 for one in found) == sum(not one.found for one in found) == 1

    def test_todays_budget_is_kept(self, tmp_path: Path) -> None:
        script = Script([(200, {}, completion("[[[labour issues]]]"))])
        with served(script) as address:
            config = config_of(tmp_path, teacher={"base_url": f"{address}/v1", "budget": {"calls": 2}})
            with served(Serving(config).app()) as url:
                codes = [ask(url, f"Acme cuts {number} jobs").status_code for number in range(4)]
        assert codes == [200, 200, 503, 503]
        assert len(script.calls) == 2

    def test_the_months_budget_is_over_runs_and_the_endpoint(self, tmp_path: Path) -> None:
        script = Script([(200, {}, completion("[[[labour issues]]]"))])
        with served(script) as address:
            teacher = {"base_url": f"{address}/v1", "month_budget": {"calls": 3}}
            config = config_of(tmp_path, teacher=teacher)
            run = month_of(config, "night-1")
            run.write({"calls": 2, "prompt_tokens": 900}, ended=True)
            with served(Serving(config).app()) as url:
                codes = [ask(url, f"Acme cuts {number} jobs").status_code for number in range(2)]
            with served(Serving(config).app()) as url:  # another start on the same day has the same sums
                codes.append(ask(url, "Acme cuts all jobs").status_code)
        assert codes == [200, 503, 503]
        assert month_of(config, "night-2").before["calls"] == 3

    def test_an_answer_to_an_applications_own_prompt_is_a_training_record(self, tmp_path: Path) -> None:
        with served(Script([(200, {}, completion("[[[labour issues]]]"))])) as address:
            config = config_of(tmp_path, teacher={"base_url": f"{address}/v1"})
            with served(Serving(config).app()) as url:
                ask(url, "Classify: Acme cuts jobs", "teacher")
        with open_store(config.store) as store:
            (lesson,) = store.read(WORKLOAD.id, "desk", FAR)
        assert (lesson.label, lesson.labelled_by) == ("Labour Issues", "teacher")
        assert lesson.response["source"] == "production"

    def test_what_students_answered_is_no_runs_to_take(self, tmp_path: Path) -> None:
        config = config_of(tmp_path)

        async def run() -> None:
            async with Production(config, None) as production:  # type: ignore[arg-type]
                await production.keep(answered(1))

        asyncio.run(run())
        with open_store(config.store) as store:
            assert store.count(WORKLOAD.id, "desk", FAR) == 0
            (record,) = store.read(*SCOPE, FAR)
        with pytest.raises(ConfigError, match="never trains"):
            make_plan(config, run_id="r", cutoff=YEAR_2100, workload_id=SCOPE[0])
        with pytest.raises(RecordError, match="production's"):
            Record.from_json(record.to_json(), WORKLOAD.classes, WORKLOAD.aliases)


def living_endpoint(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start `flywheel serve` with the config in a folder; return it and its address when it answers."""
    process, url = start_endpoint(folder / "config.yaml")
    wait_for(lambda: is_alive(url))
    return process, url


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], str]]]:
    """Start an endpoint as often as it is asked for."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], str]:
        found = living_endpoint(tmp_path)
        started.append(found[0])
        return found

    yield start
    for process in started:
        process.kill()
        process.wait()


def is_alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").status_code == 200
    except httpx.HTTPError:
        return False


def test_every_answered_request_is_in_the_store_once_though_the_endpoint_is_killed_under_load(
    tmp_path: Path, endpoint: Callable[[], tuple[subprocess.Popen[str], str]]
) -> None:
    with served(Script([(200, {}, completion("[[[labour issues]]]"))])) as address:
        config = config_of(tmp_path, teacher={"base_url": f"{address}/v1"})
        (tmp_path / "config.yaml").write_bytes(
            orjson.dumps(config.model_dump(mode="json", exclude_unset=True))
        )
        ids: list[str] = []

        def load(url: str, caller: int) -> None:
            for number in range(1000):
                try:
                    ids.append(ask(url, f"Acme cuts {number % 5} jobs").json()["id"])
                except (httpx.HTTPError, KeyError, ValueError):
                    return

        for _ in range(3):
            process, url = endpoint()
            before = len(ids)
            with ThreadPoolExecutor(4) as threads:
                callers = [threads.submit(load, url, caller) for caller in range(4)]
                wait_for(lambda before=before: len(ids) > before + 40)  # type: ignore[misc]
                process.send_signal(signal.SIGKILL)
                for caller in callers:
                    caller.result()
    with open_store(config.store) as store:
        ship(traffic_folder(config), store)
    there = [one.id for one in entries(config)]
    assert len(there) == len(set(there))
    assert set(ids) <= set(there)
    assert len(set(ids)) == len(ids) > 100


class TestCascade:
    """What a champion is not sure of, the teacher answers; see also tests/unit/test_cascade.py."""

    def through(
        self, config: Config, confidence: float, name: str = WORKLOAD.id
    ) -> tuple[Answered, TrafficEntry]:
        """Return an answer of that confidence as it is sent, and its entry in the log."""
        cascade = Cascade(target=0.9, threshold=0.8, share=0.5, records=100, reason="")
        source = SimpleNamespace(cascade=cascade)
        served_champion = SimpleNamespace(adapter="a" * 20, source=source)
        models = SimpleNamespace(champions={name: served_champion})
        asked = replace(answered(1), answer=Answer("[[[dividends]]]", "Dividends", {"Dividends": confidence}))

        async def run() -> Answered:
            async with Production(config, models) as production:  # type: ignore[arg-type]
                given = asked
                for listener in production.listeners:
                    given = await listener(given)
                return given

        sent = asyncio.run(run())
        return sent, entries(config)[-1]

    def test_a_sure_answer_is_the_students(self, tmp_path: Path) -> None:
        sent, kept = self.through(config_of(tmp_path, teacher={"base_url": "http://127.0.0.1:9/v1"}), 0.8)
        assert (sent.by, sent.answer.label, sent.escalation) == ("small @ 5", "Dividends", None)
        assert (kept.by, kept.unsure, kept.confidence) == ("small @ 5", False, 0.8)

    def test_an_unsure_answer_is_the_teachers_and_the_log_has_both(self, tmp_path: Path) -> None:
        with stand_in({"Acme cuts jobs": "Labour Issues"}) as (address, _):
            sent, kept = self.through(config_of(tmp_path, teacher={"base_url": f"{address}/v1"}), 0.79)
        assert (sent.by, sent.adapter, sent.answer.label) == ("teacher", None, "Labour Issues")
        assert (kept.by, kept.label, kept.adapter) == ("teacher", "Labour Issues", "a" * 20)
        assert (kept.student_label, kept.student_confidence, kept.unsure) == ("Dividends", 0.79, True)
        assert kept.key and not kept.audit  # what the teacher answered needs no audit

    def test_where_the_teacher_gives_no_answer_the_students_is_sent_and_says_why(
        self, tmp_path: Path
    ) -> None:
        config = config_of(tmp_path, teacher={"base_url": "http://127.0.0.1:9/v1", "budget": {"calls": 0}})
        sent, kept = self.through(config, 0.5)
        assert (sent.by, sent.answer.label) == ("small @ 5", "Dividends")
        assert sent.escalation is not None and "teacher.budget.calls" in sent.escalation.why
        assert kept.unsure and "teacher.budget.calls" in kept.why
        body = EndpointReply(sent).whole()["flywheel"]
        assert body["unsure"]["teacher_answered"] is False and "budget" in body["unsure"]["why"]

    def test_a_candidate_answers_all_that_it_is_asked(self, tmp_path: Path) -> None:
        config = config_of(tmp_path, teacher={"base_url": "http://127.0.0.1:9/v1"})
        sent, _ = self.through(config, 0.1, name="another")
        assert (sent.by, sent.escalation) == ("small @ 5", None)

    def test_an_answer_of_the_champion_before_is_held_to_its_own_threshold(self, tmp_path: Path) -> None:
        with stand_in({"Acme cuts jobs": "Labour Issues"}) as (address, _):
            config = config_of(tmp_path, teacher={"base_url": f"{address}/v1"})
            models = SimpleNamespace(champions={})

            async def run() -> list[Answered]:
                async with Production(config, models) as production:  # type: ignore[arg-type]
                    assert production.cascade is not None
                    sent = []
                    for adapter, threshold in (("a" * 20, 0.95), ("b" * 20, 0.1)):
                        cascade = Cascade(target=0.9, threshold=threshold, reason="")
                        source = SimpleNamespace(cascade=cascade)
                        models.champions[WORKLOAD.id] = SimpleNamespace(adapter=adapter, source=source)
                        sent.append(await production.cascade(answered(1)))  # of adapter a, at .9
                    return sent

            assert [one.by for one in asyncio.run(run())] == ["teacher", "teacher"]
