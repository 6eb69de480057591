"""Runtime nemo in Airflow: a task hands its job to the trigger and takes what came of it; a run is swept after."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from flywheel.common.errors import JobError
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.runtimes import RefusedJobError, open_runtime
from flywheel.runtimes.base import check_ending
from flywheel.runtimes.nemo.holds import Holds
from flywheel.runtimes.nemo.nims import Nims
from flywheel.runtimes.nemo.results import keep
from flywheel.runtimes.nemo.runtime import prepare
from flywheel.runtimes.nemo.services import Services
from flywheel.runtimes.nemo.sweep import sweep
from flywheel.runtimes.nemo.trigger import NemoTrigger
from flywheel_stand_ins.nemo.state import NemoBehaviour
from tests.unit.nemo.nemo_jobs import Flywheel, Start, changed


def prepared(flywheel: Flywheel, spec: Any) -> dict[str, Any]:
    job = prepare(flywheel.job(spec), flywheel.lines.append)
    assert job is not None
    return job.model_dump(mode="json")


async def event_of(trigger: NemoTrigger) -> dict[str, Any]:
    (event,) = [dict(event.payload) async for event in trigger.run()]
    return event


def test_a_trigger_is_made_again_from_what_it_was_stored_as(start: Start) -> None:
    flywheel = start()
    path, arguments = NemoTrigger(prepared(flywheel, flywheel.customize_spec())).serialize()
    assert path == "flywheel.runtimes.nemo.trigger.NemoTrigger"
    event = asyncio.run(event_of(NemoTrigger(**arguments)))
    assert {**event, "job": None} == {"job": None, "good": True, "refused": False, "sentence": ""}
    assert event["job"] == arguments["job"]
    keep(flywheel.job(flywheel.customize_spec()))
    assert flywheel.root.list("adapters")


def test_the_triggers_event_says_why_a_job_failed(start: Start) -> None:
    flywheel = start(NemoBehaviour(failing={"1b-": 1}))
    event = asyncio.run(event_of(NemoTrigger(prepared(flywheel, flywheel.customize_spec()))))
    with pytest.raises(JobError, match="the training pod was evicted"):
        check_ending(event)
    spec = changed(
        flywheel.customize_spec(),
        student={
            **flywheel.customize_spec().student.model_dump(),
            "customizer_configs": {"target": "meta/none@1"},
        },
    )
    event = asyncio.run(event_of(NemoTrigger(prepared(flywheel, spec))))
    with pytest.raises(RefusedJobError, match="no such target"):
        check_ending(event)


def test_a_triggerer_that_goes_down_leaves_the_job_to_the_next(start: Start) -> None:
    flywheel = start(NemoBehaviour(pending_seconds=0.5))
    job = prepared(flywheel, flywheel.customize_spec())

    async def interrupted() -> None:
        task = asyncio.create_task(event_of(NemoTrigger(job)))
        while not flywheel.server.jobs():
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    assert asyncio.run(event_of(NemoTrigger(job)))["good"]
    assert flywheel.server.counts["customizations made"] == 1


def test_a_task_that_a_person_ends_cancels_its_job(start: Start) -> None:
    flywheel = start(NemoBehaviour(pending_seconds=600))
    trigger = NemoTrigger(prepared(flywheel, flywheel.customize_spec()))

    async def killed() -> None:
        task = asyncio.create_task(event_of(trigger))
        while not flywheel.server.jobs():
            await asyncio.sleep(0.02)
        task.cancel()
        await trigger.on_kill()

    asyncio.run(killed())
    assert [job["status"] for job in flywheel.server.jobs()] == ["cancelled"]


def test_a_job_that_another_run_waits_for_goes_on(start: Start) -> None:
    flywheel = start(NemoBehaviour(pending_seconds=1))
    mine = prepared(flywheel, flywheel.customize_spec())
    theirs = {**mine, "spec_url": mine["spec_url"].replace("runs/r/", "runs/other/")}

    async def one_is_killed() -> dict[str, Any]:
        first, second = NemoTrigger(mine), NemoTrigger(theirs)
        tasks = [asyncio.create_task(event_of(trigger)) for trigger in (first, second)]
        while len(_holders_of_the_job(flywheel)) < 2:
            await asyncio.sleep(0.02)
        while not flywheel.server.jobs():
            await asyncio.sleep(0.02)
        tasks[0].cancel()
        await first.on_kill()
        return await tasks[1]

    assert asyncio.run(one_is_killed())["good"]
    assert [job["status"] for job in flywheel.server.jobs()] == ["completed"]


def _holders_of_the_job(flywheel: Flywheel) -> list[str]:
    things = [thing for thing in flywheel.root.list("nemo/holds") if thing.startswith("job-")]
    return [name for thing in things for name in flywheel.root.list(f"nemo/holds/{thing}")]


# -- the sweep -----------------------------------------------------------------------------------------


def run_of(flywheel: Flywheel) -> Run:
    return Run.create(make_plan(flywheel.config, run_id="r", cutoff=datetime.now(UTC)))


def test_a_sweep_takes_away_what_killed_tasks_have_left(start: Start) -> None:
    flywheel = start(NemoBehaviour(pending_seconds=600))
    spec = flywheel.evaluate_spec()
    job = flywheel.job(spec)
    customization = prepared(flywheel, flywheel.customize_spec())

    async def left_behind() -> None:
        async with Services(job.nmp, job.nemo, flywheel.lines.append) as services:
            task = asyncio.create_task(Nims(services, job.claim).obtain("x"))
            other = asyncio.create_task(event_of(NemoTrigger(customization)))
            while not flywheel.server.deployed or "customization" not in str(_states(flywheel)):
                await asyncio.sleep(0.02)
            task.cancel()
            other.cancel()

    asyncio.run(left_behind())
    gone = sweep(run_of(flywheel), flywheel.config, flywheel.lines.append)
    assert gone == [job.claim.deployment]
    assert flywheel.server.deployed == []
    assert [one["status"] for one in flywheel.server.jobs()] == ["cancelled"]


def _states(flywheel: Flywheel) -> list[Any]:
    return [
        flywheel.root.read_json(f"runs/r/jobs/{folder}/{name}")
        for folder in flywheel.root.list("runs/r/jobs")
        for name in flywheel.root.list(f"runs/r/jobs/{folder}")
        if name.endswith(".nemo.json")
        and "cust-" in str(flywheel.root.read_json(f"runs/r/jobs/{folder}/{name}"))
    ]


def test_a_sweep_leaves_the_nim_that_another_run_holds(start: Start) -> None:
    flywheel = start()
    job = flywheel.job(flywheel.evaluate_spec())

    async def deploy() -> None:
        async with Services(job.nmp, job.nemo, flywheel.lines.append) as services:
            await Nims(services, job.claim).obtain(job.student.model_name)

    asyncio.run(deploy())
    Holds(flywheel.root).add(job.claim.deployment, "another-run")
    assert sweep(run_of(flywheel), flywheel.config, flywheel.lines.append) == []
    assert len(flywheel.server.deployed) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_datasets_go_with_the_run_where_they_are_not_to_be_kept(start: Start, kept: bool) -> None:
    flywheel = start(nemo={"keep_datasets": kept})
    flywheel.run(flywheel.customize_spec())
    sweep(run_of(flywheel), flywheel.config, flywheel.lines.append)
    assert len(flywheel.server.stand_in.state.all("datasets")) == kept
    repositories = flywheel.server.stand_in.state.all("repositories")
    assert len([name for name in repositories if name.startswith("dataset/")]) == kept
    again = flywheel.customize_spec(32)
    assert flywheel.run(again, run="next").train_records == 32


# -- the task ------------------------------------------------------------------------------------------


def test_a_task_defers_to_nemo_and_takes_the_result(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from flywheel.runtimes import job_operator
    from flywheel.runtimes.nemo.operators import NemoJobOperator
    from flywheel.stages import pipeline as wheel

    flywheel = start()
    run = run_of(flywheel)
    spec = flywheel.customize_spec()
    monkeypatch.setattr(job_operator, "run_of", lambda context: run)
    monkeypatch.setattr(wheel, "write_spec", lambda *_: flywheel.url(spec))
    monkeypatch.setattr(NemoJobOperator, "_check_available", lambda *_: None)
    task = open_runtime(flywheel.config).task("customize", student="1b", size=spec.size)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({})
    event = asyncio.run(event_of(deferred.value.trigger))
    facts = task.resume({}, event)
    assert facts["steps"] == 3 and facts["device"] == "NeMo"
    assert task.execute({})["found"]  # again: nothing to defer for

    event = {**event, "good": False, "sentence": "the training pod was evicted"}
    with pytest.raises(JobError):
        task.resume({}, event)
    failure = run.root.read_json(f"{run.path}/jobs/1b@{spec.size}/failure.json")
    assert failure == {"stage": "customize", "reason": "the training pod was evicted"}
