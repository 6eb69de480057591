"""The champion on NeMo: its NIM stays, the alias points to it, a roll-back points back; what a run leaves goes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from flywheel.common.errors import JobError
from flywheel.jobs.result import CustomizeResult
from flywheel.promotion.champion import Champion
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.runtimes import RefusedJobError
from flywheel.runtimes.nemo.models import alias_name
from flywheel.runtimes.nemo.serving import ServingOrder, let_go, serve
from flywheel.runtimes.nemo.sweep import clean_up, sweep
from flywheel_stand_ins.nemo.state import Fault, NemoBehaviour
from tests.unit.champions import put_in_force
from tests.unit.nemo.nemo_jobs import Flywheel, Start
from tests.unit.nemo.nemo_server import MEDIUM, NAMESPACE, SMALL, nim

ALIAS = "champion-news-acme"
BOTH = {"models": (SMALL, MEDIUM), "nims": [nim(SMALL), nim(MEDIUM)]}


def order_of(flywheel: Flywheel) -> ServingOrder:
    return ServingOrder.of(flywheel.config, "news", "acme", "r")


def make_champion(flywheel: Flywheel, made: CustomizeResult, when: int = 0) -> Champion:
    model = next(one for one in flywheel.config.students if one.name == made.student).model_name
    champion = Champion(
        workload_id="news",
        client_id="acme",
        student=made.student,
        model_name=model,
        weights="",
        size=made.size,
        parameters=None,
        adapter=made.adapter,
        adapter_path=made.path,
        dataset="d1",
        evaluation=None,
        metric="f1_weighted",
        score=0.5,
        score_ci95=None,
        run_id="r",
        cutoff=0,
        promoted_at=datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds"),
        reason="",
    )
    return put_in_force(flywheel.root, champion)


def serve_it(flywheel: Flywheel) -> None:
    asyncio.run(serve(order_of(flywheel), flywheel.lines.append))


def alias_of(flywheel: Flywheel) -> tuple[str, str]:
    """Return where the alias points: the address, and the model there."""
    endpoint = flywheel.server.client().models.retrieve(ALIAS, namespace=NAMESPACE).api_endpoint
    assert endpoint is not None
    return endpoint.url, endpoint.model_id


def ask_alias(flywheel: Flywheel, messages: list[dict[str, Any]]) -> str:
    url, model = alias_of(flywheel)
    body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}
    answer = httpx.post(url, json=body, timeout=240, trust_env=False)
    assert answer.is_success, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_the_champion_answers_through_the_alias_as_it_did_when_it_was_measured(start: Start) -> None:
    flywheel = start()
    made = flywheel.run(flywheel.customize_spec())
    measured = flywheel.run(flywheel.evaluate_spec(made.adapter))
    assert flywheel.server.deployed == []
    make_champion(flywheel, made)
    serve_it(flywheel)
    assert len(flywheel.server.deployed) == 1
    predictions = (Path(flywheel.root.url) / measured.predictions).read_bytes()
    lines = [orjson.loads(line) for line in predictions.splitlines()]
    records = (flywheel.root.fetch("datasets", "d1") / "eval.jsonl").read_bytes().splitlines()
    for line, record in list(zip(lines, records, strict=True))[:3]:
        assert ask_alias(flywheel, orjson.loads(record)["messages"][:-1]) == line["answer"]
    serve_it(flywheel)  # again: nothing to do
    assert flywheel.server.counts["deployment/model-deployments made"] == 2  # the evaluation's, and this one
    assert flywheel.server.counts["models made"] == 1
    assert "models changed" not in flywheel.server.counts


def test_evaluations_and_sweeps_leave_the_champions_nim_and_need_no_place_beside_it(start: Start) -> None:
    flywheel = start(nemo={"parallel_nims": 1}, **BOTH)
    made = flywheel.run(flywheel.customize_spec())
    make_champion(flywheel, made)
    serve_it(flywheel)
    serving = flywheel.server.deployed
    assert flywheel.run(flywheel.evaluate_spec(made.adapter)).records == 24  # on the champion's NIM
    assert flywheel.server.counts["deployment/model-deployments made"] == 1
    assert flywheel.run(flywheel.evaluate_spec(student=1)).records == 24  # in the one place that there is
    run = Run.create(make_plan(flywheel.config, run_id="r", cutoff=datetime.now(UTC)))
    assert sweep(run, flywheel.config, flywheel.lines.append) == []
    assert clean_up(run, flywheel.config, flywheel.lines.append) == []
    assert flywheel.server.deployed == serving


def test_a_roll_back_points_back_and_takes_the_other_nim_away(start: Start) -> None:
    flywheel = start(**BOTH)
    first = flywheel.run(flywheel.customize_spec())
    second = flywheel.run(flywheel.customize_spec(student=1), run="s")
    seen = []
    for when, made in enumerate((first, second, first)):
        make_champion(flywheel, made, when)
        serve_it(flywheel)
        (deployed,) = flywheel.server.deployed
        seen.append((alias_of(flywheel)[1], deployed))
    assert seen[0] == seen[2] != seen[1]
    assert "3b" in seen[1][0] and "3b" in seen[1][1]


@pytest.mark.parametrize("service", ["deployment", "entities", "nim"])
def test_lost_answers_and_busy_services_change_nothing(start: Start, service: str) -> None:
    flywheel = start()
    make_champion(flywheel, flywheel.run(flywheel.customize_spec()))
    flywheel.server.behaviour.faults = [
        Fault(service, "POST", 0, after=True, times=1),
        Fault(service, "PATCH", 503, after=True, times=1),
        Fault(service, "", 429, times=2, retry_after=0.1),
        Fault(service, "", 500, times=2),
    ]
    serve_it(flywheel)
    flywheel.server.behaviour.faults = []
    assert len(flywheel.server.deployed) == 1
    assert ask_alias(flywheel, [{"role": "user", "content": "x"}])
    assert flywheel.server.counts["deployment/model-deployments made"] == 1
    assert flywheel.server.counts["models made"] == 1


def test_a_triggerer_that_goes_down_at_any_step_leaves_it_to_the_next(start: Start) -> None:
    flywheel = start(NemoBehaviour(latency_seconds=0.05, pending_seconds=0.3))
    make_champion(flywheel, flywheel.run(flywheel.customize_spec()))

    async def interrupted(seconds: float) -> bool:
        task = asyncio.create_task(serve(order_of(flywheel), flywheel.lines.append))
        done, _ = await asyncio.wait([task], timeout=seconds)
        task.cancel()
        return bool(done)

    seconds = 0.1
    while not asyncio.run(interrupted(seconds)):
        assert len(flywheel.server.deployed) <= 1
        seconds += 0.1
    assert alias_of(flywheel)[1].startswith(f"{NAMESPACE}/1b-")
    assert len(flywheel.server.deployed) == 1
    assert flywheel.server.counts["deployment/model-deployments made"] == 1
    assert flywheel.server.counts["models made"] == 1


def test_a_nim_that_does_not_come_up_leaves_the_champion_before_in_service(start: Start) -> None:
    flywheel = start(nemo={"deploy_minutes": 0.02}, **BOTH)
    make_champion(flywheel, flywheel.run(flywheel.customize_spec()))
    serve_it(flywheel)
    before, deployed = alias_of(flywheel), flywheel.server.deployed
    make_champion(flywheel, flywheel.run(flywheel.customize_spec(student=1), run="s"), when=1)
    flywheel.server.behaviour.never_ready = "3b"
    with pytest.raises(JobError, match=r"of 3b: not ready within 0.02 min .*Insufficient nvidia.com/gpu"):
        serve_it(flywheel)
    assert (alias_of(flywheel), flywheel.server.deployed) == (before, deployed)


def test_an_order_that_is_given_up_leaves_no_nim(start: Start) -> None:
    flywheel = start(NemoBehaviour(never_ready="1b"))
    make_champion(flywheel, flywheel.run(flywheel.customize_spec()))

    async def given_up() -> None:
        task = asyncio.create_task(serve(order_of(flywheel), flywheel.lines.append))
        while not flywheel.server.deployed:
            await asyncio.sleep(0.02)
        task.cancel()
        await let_go(order_of(flywheel), flywheel.lines.append)

    asyncio.run(given_up())
    assert flywheel.server.deployed == []


def test_a_champion_that_comes_while_a_nim_starts_is_the_one_that_is_served(start: Start) -> None:
    flywheel = start(NemoBehaviour(never_ready="1b"), **BOTH)
    first = flywheel.run(flywheel.customize_spec())
    second = flywheel.run(flywheel.customize_spec(student=1), run="s")
    make_champion(flywheel, first)

    async def replaced() -> None:
        task = asyncio.create_task(serve(order_of(flywheel), flywheel.lines.append))
        while not flywheel.server.deployed:
            await asyncio.sleep(0.02)
        make_champion(flywheel, second, when=1)
        (waiting,) = flywheel.server.stand_in.state.all("deployment/model-deployments").values()
        waiting["ends"] = "ready"
        await task

    asyncio.run(replaced())
    (deployed,) = flywheel.server.deployed
    assert "3b" in deployed and "3b-" in alias_of(flywheel)[1]


def test_an_alias_of_another_flywheel_is_left_alone(start: Start, material: Path, tmp_path: Path) -> None:
    flywheel = start()
    make_champion(flywheel, flywheel.run(flywheel.customize_spec()))
    serve_it(flywheel)
    before, deployed = alias_of(flywheel), flywheel.server.deployed
    other = Flywheel(flywheel.server, material, tmp_path / "other")
    make_champion(other, other.run(other.customize_spec()))
    with pytest.raises(RefusedJobError, match=r"champion of news/acme of another flywheel.*another name"):
        serve_it(other)
    assert (alias_of(flywheel), flywheel.server.deployed) == (before, deployed)
    named = {**other.config.runtime.nemo.model_dump(), "serving_alias": "other-{client_id}"}
    other = Flywheel(flywheel.server, material, tmp_path / "other", nemo=named)
    serve_it(other)
    assert len(flywheel.server.deployed) == 2


def test_a_champion_of_another_runtime_is_refused_with_what_to_do(start: Start) -> None:
    flywheel = start()
    made = flywheel.run(flywheel.customize_spec())
    with flywheel.root.build("adapters", "made-here") as folder:
        (folder / "result.json").write_text("{}")
    make_champion(flywheel, made.model_copy(update={"adapter": "made-here"}))
    with pytest.raises(RefusedJobError, match=r"was not made on NeMo.*promote a candidate that NeMo made"):
        serve_it(flywheel)
    assert flywheel.server.deployed == []


def test_names_of_aliases_are_names_that_nemo_takes() -> None:
    assert alias_name("champion-{workload_id}-{client_id}", "news_classifier", "Acme & Co") == (
        "champion-news-classifier-acme-co"
    )
    long = [alias_name("{workload_id}", "w" * 80 + end, "c") for end in "ab"]
    assert long[0] != long[1] and len(long[0]) <= 63


# -- what a run leaves ---------------------------------------------------------------------------------


def run_of(flywheel: Flywheel, run_id: str = "r") -> Run:
    return Run.create(make_plan(flywheel.config, run_id=run_id, cutoff=datetime.now(UTC)))


def models_of(flywheel: Flywheel) -> list[str]:
    return sorted(flywheel.server.stand_in.state.all("models"))


@pytest.mark.parametrize("kept", [True, False])
def test_adapters_go_with_the_run_but_for_the_champions(start: Start, kept: bool) -> None:
    flywheel = start(nemo={"keep_adapters": kept})
    made = [flywheel.run(flywheel.customize_spec(size)) for size in (16, 32, 48)]
    make_champion(flywheel, made[0], when=0)
    make_champion(flywheel, made[1], when=1)
    serve_it(flywheel)
    before = models_of(flywheel)
    removed = clean_up(run_of(flywheel), flywheel.config, flywheel.lines.append)
    assert len(before) == 4 and len(removed) == (0 if kept else 1)  # three adapters and the alias
    assert models_of(flywheel) == sorted(set(before) - set(removed))
    repositories = [name for name in flywheel.server.stand_in.state.all("repositories") if "model/" in name]
    assert len(repositories) == (3 if kept else 2)
    assert [flywheel.root.find("adapters", one.adapter) for one in made] == [True, True, kept]
    assert clean_up(run_of(flywheel), flywheel.config, flywheel.lines.append) == []

    again = flywheel.run(flywheel.customize_spec(48))  # who needs it again has it made again
    assert again.adapter == made[2].adapter and again.found == kept
    assert flywheel.run(flywheel.evaluate_spec(again.adapter)).records == 24
    assert flywheel.server.counts["customizations made"] == (3 if kept else 4)


def test_an_adapter_that_another_run_uses_stays_until_that_ends(start: Start) -> None:
    from flywheel.runtimes.nemo.runtime import describe, prepare

    flywheel = start(nemo={"keep_adapters": False})
    made = flywheel.run(flywheel.customize_spec())
    url = flywheel.url(flywheel.customize_spec(), run="other")
    assert prepare(describe("job", url, flywheel.config, "other"), flywheel.lines.append) is None
    assert clean_up(run_of(flywheel), flywheel.config, flywheel.lines.append) == []
    assert flywheel.root.find("adapters", made.adapter)
    assert clean_up(run_of(flywheel, "other"), flywheel.config, flywheel.lines.append) == []  # not its own
    assert len(clean_up(run_of(flywheel), flywheel.config, flywheel.lines.append)) == 1
    assert models_of(flywheel) == []


def test_a_dataset_that_another_run_or_flywheel_uses_stays(
    start: Start, material: Path, tmp_path: Path
) -> None:
    from flywheel.runtimes.nemo.runtime import describe, prepare

    flywheel = start(nemo={"keep_datasets": False})
    flywheel.run(flywheel.customize_spec())
    other_size = flywheel.customize_spec(
        training=flywheel.customize_spec().training.model_copy(update={"epochs": 2})
    )
    url = flywheel.url(other_size, run="other")
    assert prepare(describe("job", url, flywheel.config, "other"), flywheel.lines.append) is not None
    sweep(run_of(flywheel), flywheel.config, flywheel.lines.append)
    assert len(flywheel.server.stand_in.state.all("datasets")) == 1
    theirs = Flywheel(flywheel.server, material, tmp_path / "theirs", nemo={"keep_datasets": False})
    theirs.run(theirs.customize_spec())
    sweep(run_of(theirs), theirs.config, theirs.lines.append)
    assert len(flywheel.server.stand_in.state.all("datasets")) == 1
    sweep(run_of(flywheel, "other"), flywheel.config, flywheel.lines.append)
    assert flywheel.server.stand_in.state.all("datasets") == {}
