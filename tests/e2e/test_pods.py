"""Pods of the runtime on a real cluster: what each ending looks like, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from flywheel.common.errors import JobError
from flywheel.runtimes import Job, RefusedJobError, open_runtime
from flywheel.runtimes.kubernetes.job import PodJob
from flywheel.runtimes.kubernetes.watch import Namespace
from tests.e2e.cluster import Cluster
from tests.e2e.pods import Outcome, accompany, drill_job, drill_job_trigger, drill_trigger, run_pod


def pods(cluster: Cluster, namespace: str) -> list[str]:
    return cluster.kubectl("-n", namespace, "get", "pods", "-o", "name").split()


@pytest.fixture(autouse=True)
def nothing_left_behind(cluster: Cluster, namespace: str):  # type: ignore[no-untyped-def]
    yield
    left = [
        item["metadata"]["name"]
        for item in cluster.get("-n", namespace, "pods")["items"]
        if "deletionTimestamp" not in item["metadata"]
    ]
    assert left == []


def test_a_restricted_namespace_admits_the_pod_and_its_log_arrives_once(
    namespace: str, drill_image: str
) -> None:
    done = run_pod(namespace, drill_image, "say:hello,sleep:2,say:bye")
    assert done.good, done
    assert [line for line in done.lines if line in ("hello", "bye")] == ["hello", "bye"]
    assert len([line for line in done.lines if line.startswith("tick")]) == 2
    assert done.said("to a node")


def test_a_refused_job_is_told_from_a_crashed_one(namespace: str, drill_image: str) -> None:
    refused = run_pod(namespace, drill_image, "say:error: no such dataset,exit:1")
    assert (refused.good, refused.refused) == (False, True)
    assert refused.sentence.endswith("no such dataset")
    crashed = run_pod(namespace, drill_image, "say:error: boom,exit:3", name="b")
    assert (crashed.good, crashed.refused) == (False, False)
    assert "exit code 3: error: boom" in crashed.sentence


def test_a_pod_out_of_memory_says_what_to_raise(namespace: str, drill_image: str) -> None:
    done = run_pod(namespace, drill_image, "eat:300")
    assert "needed more memory than its limit of 64Mi" in done.sentence
    assert done.mend.startswith("raise runtime.kubernetes.limits.memory")
    assert done.sentence.endswith(done.mend)


def test_a_missing_image_is_one_sentence(namespace: str) -> None:
    done = run_pod(namespace, "localhost/no-such-image:1", "")
    assert "image 'localhost/no-such-image:1' cannot be pulled" in done.sentence
    assert "runtime.kubernetes.image" in done.sentence
    never = run_pod(namespace, "localhost/no-such-image:1", "", image_pull_policy="Never", name="b")
    assert "is not on the node and image_pull_policy is Never" in never.sentence


def test_waiting_for_a_gpu_is_said_and_only_its_own_time_out_ends_it(
    namespace: str, drill_image: str
) -> None:
    done = run_pod(namespace, drill_image, "", gpus=64, wait_hours=8 / 3600)
    assert done.said("waiting for a place for 64 nvidia.com/gpu")
    assert done.said("Insufficient nvidia.com/gpu")
    assert "Unschedulable: no place for 64 nvidia.com/gpu" in done.sentence
    assert "runtime.kubernetes.wait_hours" in done.sentence


def test_what_a_pod_waits_for_is_written_down_as_long_as_it_waits(
    cluster: Cluster, namespace: str, drill_image: str, tmp_path: Path
) -> None:
    waits = tmp_path / "runs/r/waits/customize.0.json"

    async def disturbed() -> Outcome:
        trigger = drill_job_trigger(namespace, drill_image, "", gpus=64, root=str(tmp_path))
        assert trigger.result is not None
        trigger.result["waits"] = str(waits.relative_to(tmp_path))
        task = asyncio.create_task(accompany(trigger))
        said = ""
        while "a place for 64 nvidia.com/gpu" not in said:
            said = json.loads(waits.read_text())["sentence"] if waits.exists() else ""
            await asyncio.sleep(0.2)
        await asyncio.to_thread(cluster.kubectl, "-n", namespace, "delete", "pods", "--all")
        return await task

    assert not asyncio.run(disturbed()).good
    assert not waits.exists()


def test_a_pod_that_writes_too_much_is_evicted_with_a_reason(namespace: str, drill_image: str) -> None:
    done = run_pod(namespace, drill_image, "fill:40,sleep:200", scratch="10Mi")
    assert "evicted from its node" in done.sentence
    assert "raise runtime.kubernetes.scratch" in done.sentence


def test_a_full_quota_is_waited_for_and_an_impossible_one_is_refused(
    cluster: Cluster, namespace: str, drill_image: str
) -> None:
    cluster.kubectl("-n", namespace, "create", "quota", "q", "--hard=requests.cpu=60m")

    async def both() -> list[object]:
        first = asyncio.create_task(accompany(drill_trigger(namespace, drill_image, "sleep:4")))
        await asyncio.sleep(1)
        second = asyncio.create_task(accompany(drill_trigger(namespace, drill_image, "", name="b")))
        return await asyncio.gather(first, second)

    first, second = asyncio.run(both())
    assert first.good
    assert second.good
    assert second.said("waiting: fw-customize-b-5") and second.said("quota q of namespace")
    never = run_pod(namespace, drill_image, "", requests={"cpu": "70m", "memory": "32Mi"}, name="c")
    assert "it can never fit" in never.sentence


def test_admission_refusals_say_what_to_change(namespace: str, drill_image: str, tmp_path: object) -> None:
    template = tmp_path / "pod.yaml"  # type: ignore[operator]
    template.write_text(
        "apiVersion: v1\nkind: Pod\nspec:\n  hostNetwork: true\n  containers: [{name: base, image: x}]\n"
    )
    done = run_pod(namespace, drill_image, "", pod_template=str(template))
    assert f"namespace {namespace} does not admit it" in done.sentence
    assert "hostNetwork" in done.sentence
    assert "runtime.kubernetes.pod_template" in done.sentence
    missing = run_pod("no-such-namespace", drill_image, "")
    assert "there is no namespace 'no-such-namespace'" in missing.sentence
    account = run_pod(namespace, drill_image, "", service_account="nobody")
    assert "runtime.kubernetes.service_account" in account.sentence
    priority = run_pod(namespace, drill_image, "", priority_class="nope")
    assert "no PriorityClass with name nope was found" in priority.sentence


def test_a_missing_secret_or_claim_is_named(namespace: str, drill_image: str) -> None:
    secret = run_pod(namespace, drill_image, "", secrets=["keys"])
    assert 'secret "keys" not found' in secret.sentence
    claim = run_pod(namespace, drill_image, "", volume_claim="disk")
    assert "has no PersistentVolumeClaim 'disk'" in claim.sentence


def test_a_pod_deleted_while_it_runs_is_reported_as_that(
    cluster: Cluster, namespace: str, drill_image: str
) -> None:
    async def disturbed() -> object:
        task = asyncio.create_task(accompany(drill_trigger(namespace, drill_image, "sleep:60")))
        await asyncio.sleep(4)
        await asyncio.to_thread(cluster.kubectl, "-n", namespace, "delete", "pods", "--all")
        return await task

    done = asyncio.run(disturbed())
    assert "deleted from outside" in done.sentence
    assert "who deletes pods" in done.mend
    assert not done.refused


def test_a_pod_whose_node_is_drained_is_reported_as_that(
    cluster: Cluster, namespace: str, drill_image: str
) -> None:
    def evict() -> None:
        (pod,) = pods(cluster, namespace)
        name = pod.removeprefix("pod/")
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
        cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))

    async def disturbed() -> Outcome:
        task = asyncio.create_task(accompany(drill_trigger(namespace, drill_image, "sleep:60")))
        await asyncio.sleep(4)
        await asyncio.to_thread(evict)
        return await task

    done = asyncio.run(disturbed())
    assert "removed by the cluster" in done.sentence
    assert "drained" in done.mend
    assert not done.refused


def test_a_job_that_takes_too_long_is_ended_but_waiting_does_not_count(
    namespace: str, drill_image: str
) -> None:
    trigger = drill_trigger(namespace, drill_image, "sleep:60")
    trigger.manifest["spec"]["activeDeadlineSeconds"] = 4
    done = asyncio.run(accompany(trigger))
    assert "raise runtime.job_timeout_hours" in done.sentence


# -- the end of the task ---------------------------------------------------------------------------------


def leave_result(root: Path, job: PodJob) -> None:
    """Leave what a job leaves beside its spec."""
    file = root / job.result
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"result": {"steps": 7, "losses": [1, 2]}}))


def test_the_trigger_ends_the_task_with_the_facts_of_the_result(
    namespace: str, drill_image: str, tmp_path: Path
) -> None:
    given = {"root": str(tmp_path)}

    async def worked() -> Outcome:
        task = asyncio.create_task(
            accompany(drill_job_trigger(namespace, drill_image, "sleep:5,say:done", **given))
        )
        await asyncio.sleep(3)
        leave_result(tmp_path, drill_job(namespace, drill_image, "", **given)[0])
        return await task

    done = asyncio.run(worked())
    assert done.facts == {"steps": 7}
    assert done.said("done")
    assert done.said("made")


def test_a_result_whose_pod_is_gone_needs_no_pod_after_the_triggerer_was_restarted(
    namespace: str, drill_image: str, tmp_path: Path
) -> None:
    given = {"root": str(tmp_path)}
    leave_result(tmp_path, drill_job(namespace, drill_image, "", **given)[0])
    done = asyncio.run(accompany(drill_job_trigger(namespace, drill_image, "sleep:600", **given)))
    assert done.facts == {"steps": 7}
    assert not done.said("made")


def test_where_the_triggerer_sees_no_result_and_where_the_pod_failed_a_worker_goes_on(
    namespace: str, drill_image: str, tmp_path: Path
) -> None:
    given = {"root": str(tmp_path)}
    unseen = asyncio.run(accompany(drill_job_trigger(namespace, drill_image, "say:done", **given)))
    assert (unseen.good, unseen.facts) == (True, None)
    failed = asyncio.run(
        accompany(drill_job_trigger(namespace, drill_image, "exit:3", name="b", root="nowhere://x"))
    )
    assert (failed.good, failed.facts) == (False, None)
    assert "exit code 3" in failed.sentence


# -- the faults that users of deferrable pods have met --------------------------------------------------


def test_a_person_ending_the_task_deletes_the_pod(cluster: Cluster, namespace: str, drill_image: str) -> None:
    """apache/airflow 62398, 44014: a pod left running when its deferred task is marked or cleared."""

    async def killed() -> None:
        trigger = drill_trigger(namespace, drill_image, "sleep:60")
        task = asyncio.create_task(accompany(trigger))
        await asyncio.sleep(4)
        assert len(pods(cluster, namespace)) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await trigger.on_kill()

    asyncio.run(killed())


def test_a_restarted_triggerer_finds_the_pod_and_its_start_up_time_does_not_start_again(
    cluster: Cluster, namespace: str, drill_image: str
) -> None:
    """apache/airflow 40018: a start-up time-out for a pod that runs."""

    async def restarted() -> object:
        first = asyncio.create_task(accompany(drill_trigger(namespace, drill_image, "sleep:10,say:done")))
        await asyncio.sleep(4)
        first.cancel()  # the triggerer goes down: no on_kill
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(2)
        again = drill_trigger(namespace, drill_image, "sleep:10,say:done", start_minutes=1 / 60)
        return await accompany(again)

    done = asyncio.run(restarted())
    assert done.good
    assert not done.said("made")
    assert done.said("done")


def test_a_pod_that_ended_while_the_triggerer_was_down_is_taken_as_it_ended(
    cluster: Cluster, namespace: str, drill_image: str
) -> None:
    async def restarted() -> object:
        first = asyncio.create_task(accompany(drill_trigger(namespace, drill_image, "sleep:4,say:done")))
        await asyncio.sleep(3)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(6)
        return await accompany(drill_trigger(namespace, drill_image, "sleep:4,say:done"))

    done = asyncio.run(restarted())
    assert done.good
    assert done.said("done")


def test_a_retry_makes_a_new_pod_where_the_old_one_failed(
    cluster: Cluster, namespace: str, drill_image: str
) -> None:
    """apache/airflow 58490: a retry that adopts the failed pod of the try before."""
    failed = run_pod(namespace, drill_image, "exit:3", keep_failed_pods=True)
    assert not failed.good
    assert len(pods(cluster, namespace)) == 1
    done = run_pod(namespace, drill_image, "say:second", attempt=2)
    assert done.good
    assert done.said("second")


def test_a_late_word_of_the_deletion_of_an_earlier_pod_does_not_end_the_one_that_runs(
    cluster: Cluster, namespace: str, drill_image: str
) -> None:
    async def told_late() -> Outcome:
        trigger = drill_trigger(namespace, drill_image, "sleep:6,say:done")
        async with Namespace.shared(trigger.connection, namespace) as shared:
            task = asyncio.create_task(accompany(trigger))
            while trigger.name not in shared._wakers:  # it waits for its pod from here on
                await asyncio.sleep(0.1)
            shared._note("DELETED", {"metadata": {"name": trigger.name, "uid": "of-an-earlier-pod"}})
            return await task

    done = asyncio.run(told_late())
    assert done.good, done.sentence
    assert done.said("done")


def test_a_retry_waits_for_the_end_of_a_pod_that_is_being_deleted(
    cluster: Cluster, namespace: str, drill_image: str
) -> None:
    async def cleared() -> object:
        stubborn = drill_trigger(namespace, drill_image, "stubborn,sleep:60")
        stubborn.manifest["spec"]["terminationGracePeriodSeconds"] = 4
        first = asyncio.create_task(accompany(stubborn))
        await asyncio.sleep(4)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        cluster.kubectl("-n", namespace, "delete", "pods", "--all", "--wait=false")
        return await accompany(drill_trigger(namespace, drill_image, "say:second", attempt=2))

    done = asyncio.run(cleared())
    assert done.good
    assert done.said("second")


def test_execution_timeout_holds_while_deferred(namespace: str, drill_image: str) -> None:
    """apache/airflow 67227: execution_timeout not enforced while the pod runs."""
    import time
    from dataclasses import replace

    trigger = drill_trigger(namespace, drill_image, "sleep:60")
    trigger.limits = replace(trigger.limits, deadline=time.time() + 5)
    began = time.monotonic()
    done = asyncio.run(accompany(trigger))
    assert "execution_timeout" in done.sentence
    assert time.monotonic() - began < 20


def command_line_job(folder: Path, student: dict[str, object]) -> Job:
    """Return a job as `flywheel jobs` has it: of a written spec of a planned run."""
    spec = folder / "runs/r/jobs/a@5/customize.spec.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"student": student}))
    (folder / "runs/r/plan.json").write_text(json.dumps({"run_id": "r"}))
    return Job("customize", str(spec), "customize a@5")


def test_a_job_of_the_command_line_runs_in_a_pod_too(
    namespace: str, drill_image: str, tmp_path: Path
) -> None:
    made, config = drill_job(namespace, drill_image, "say:hello")
    job, lines = command_line_job(tmp_path, made.student.model_dump(mode="json")), []
    open_runtime(config).run(job, lines.append)
    assert "INFO hello" in lines
    _, refusing = drill_job(namespace, drill_image, "say:error: no such dataset,exit:1")
    with pytest.raises(RefusedJobError, match="no such dataset"):
        open_runtime(refusing).run(job, lines.append)


def test_a_command_line_that_is_ended_takes_its_pod_along(
    namespace: str, drill_image: str, tmp_path: Path
) -> None:
    made, config = drill_job(namespace, drill_image, "say:hello,sleep:600")
    job = command_line_job(tmp_path, made.student.model_dump(mode="json"))
    runtime = open_runtime(config)

    def end_at_hello(line: str) -> None:
        if line == "INFO hello":
            runtime.kill()

    with pytest.raises(JobError, match="ended with its task"):
        runtime.run(job, end_at_hello)
