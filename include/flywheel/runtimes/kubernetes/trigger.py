"""PodTrigger: makes a job's pod, waits for it, hands on its log, says how it ended, and takes it away.

It runs in Airflow's triggerer, where a thousand of them share one process, and holds no worker slot. Started
again by another triggerer it finds its pod by name and goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import aiohttp
from airflow.triggers.base import BaseTrigger, TriggerEvent
from kubernetes_asyncio.client import ApiException

from flywheel.common.patience import Patience
from flywheel.common.redaction import install
from flywheel.config.kubernetes import KubernetesConfig
from flywheel.runtimes.base import log_job_line
from flywheel.runtimes.kubernetes import explain
from flywheel.runtimes.kubernetes.explain import Ending, Pod
from flywheel.runtimes.kubernetes.logs import new_lines
from flywheel.runtimes.kubernetes.others import init_failure
from flywheel.runtimes.kubernetes.pods import GRACE_SECONDS
from flywheel.runtimes.kubernetes.watch import Namespace

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

ASK_SECONDS = 30.0  # a pod without news is asked for so often
SAY_AGAIN_SECONDS = 300.0  # what a pod waits for is said again so often
QUOTA_SECONDS = 10.0
TERMINATING_SECONDS = 90.0  # a deleted pod that stays so much longer than its grace is on a lost node


@dataclass(frozen=True)
class Limits:
    """How long to wait for what, in seconds.

    Attributes:
        place: from the pod's making to a node for it.
        start: from there to the running job.
        answer: of the cluster.
        log: between two looks into the log.
        deadline: unix time of the task's execution_timeout; None: no such.
    """

    place: float
    start: float
    answer: float
    log: float
    deadline: float | None = None

    @classmethod
    def of(cls, pods: KubernetesConfig, deadline: float | None = None) -> Limits:
        """Return what a config says."""
        place, start, answer = pods.wait_hours * 3600, pods.start_minutes * 60, pods.lost_minutes * 60
        return cls(place, start, answer, pods.log_seconds, deadline)


class _Over(Exception):  # noqa: N818
    """The pod will not do its job, or nobody knows; carries how it ended."""

    def __init__(self, sentence: str, *, mend: str = "", reachable: bool = True) -> None:
        super().__init__(sentence)
        self.ending = Ending(good=False, sentence=sentence, mend=mend)
        self.reachable = reachable


class PodTrigger(BaseTrigger):
    """Accompanies a pod from its making to its end.

    Args:
        connection: Airflow connection of the cluster; None: in-cluster, else KUBECONFIG.
        manifest: the pod, as JSON.
        limits: the fields of `Limits`.
        keep_failed: leave the pod there when it failed.
    """

    def __init__(
        self, connection: str | None, manifest: Pod, limits: dict[str, Any], keep_failed: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.connection = connection
        self.manifest = manifest
        self.limits = Limits(**limits)
        self.keep_failed = keep_failed
        self.name: str = manifest["metadata"]["name"]
        self.namespace: str = manifest["metadata"]["namespace"]
        self._last_line = ""
        self._read_at: float | None = None
        self._said = ("", 0.0)
        self._asked_at = time.monotonic()
        self._ended = False
        self._marks = {"begun": time.monotonic()}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        arguments = {
            "connection": self.connection,
            "manifest": self.manifest,
            "limits": asdict(self.limits),
            "keep_failed": self.keep_failed,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Accompany the pod; the one event says how it ended: {"good", "sentence", "refused"}."""
        install()
        try:
            async with Namespace.shared(self.connection, self.namespace) as cluster:
                try:
                    ending = await self._accompany(cluster)
                except _Over as over:
                    ending = over.ending
                    if over.reachable:
                        await self._take_away(cluster, keep=self.keep_failed)
                finally:
                    cluster.forget(self.name)
        except Exception as error:
            log.exception("pod %s: not accompanied any further", self.name)
            ending = Ending(good=False, sentence=f"{self.name}: {type(error).__name__}: {error}")
        self._ended = True
        yield TriggerEvent(asdict(ending))  # type: ignore[no-untyped-call]

    async def is_there(self) -> bool:
        """Return whether the pod is there, or may be, as the cluster does not say."""
        try:
            async with Namespace.shared(self.connection, self.namespace) as cluster:
                return await cluster.read(self.name) is not None
        except Exception as error:
            log.debug("pod %s: %r", self.name, error)
            return True

    async def on_kill(self) -> None:
        """Delete the pod: its task was marked, cleared or cancelled by a person."""
        if self._ended:
            return
        log.info("the task was ended by a person: deleting pod %s", self.name)
        async with Namespace.shared(self.connection, self.namespace) as cluster:
            await cluster.delete(self.name)

    # -- the pod's life ------------------------------------------------------------------------------

    async def _accompany(self, cluster: Namespace) -> Ending:
        pod = await self._obtain(cluster)
        uid = pod["metadata"]["uid"]
        while True:
            self._check_deadline()
            self._mark(pod)
            ending = explain.ending(pod)
            if explain.is_running(pod):
                await self._copy_log(cluster)
            if pod["metadata"].get("deletionTimestamp"):
                return await self._deleted(cluster, pod)
            if ending is not None:
                await self._finish(cluster, pod, ending)
                return ending
            await self._wait_to_start(cluster, pod)
            latest = await self._next(cluster, pod)
            if latest is None or latest["metadata"]["uid"] != uid:
                gone = f"{self.name}: deleted from outside; its next try goes on from the last checkpoint"
                raise _Over(gone, mend=explain.DELETED)
            pod = latest

    async def _obtain(self, cluster: Namespace) -> Pod:
        """Return the job's pod: the one that is there, or a new one."""
        since = time.time()
        while True:
            self._check_deadline()
            pod = await self._ask(cluster, lambda: cluster.read(self.name))
            if pod is None:
                pod = await self._create(cluster, since)
                if pod is not None:
                    return pod
            elif pod["metadata"].get("deletionTimestamp"):
                await self._await_gone(cluster, pod)
            elif self._is_own(pod):
                return pod
            elif explain.ending(pod) is not None:  # of an earlier try, which nobody took away
                await self._ask(cluster, partial(cluster.delete, self.name, pod["metadata"]["uid"]))
                await cluster.changed(self.name, 1.0)
            else:
                log.info("pod %s of an earlier try still runs: going on with it", self.name)
                return pod

    async def _create(self, cluster: Namespace, since: float) -> Pod | None:
        """Make the pod; None where that has to be tried again."""
        try:
            pod = await self._ask(cluster, lambda: cluster.create(self.manifest))
        except ApiException as error:
            message = _message(error)
            if error.status == 409 and "AlreadyExists" in str(error.body):
                return None
            sentence, may_fit = explain.refusal(error.status, message, self.namespace, self.name)
            if not may_fit:
                raise _Over(sentence) from None
            if time.time() - since > self.limits.place:
                hours = self.limits.place / 3600
                raise _Over(f"{sentence}; waited {hours:g} h, runtime.kubernetes.wait_hours") from None
            await self._waits(sentence)
            await asyncio.sleep(QUOTA_SECONDS * random.uniform(0.5, 1.5))
            return None
        log.info("pod %s/%s made", self.namespace, self.name)
        self._marks["made"] = time.monotonic()
        return pod

    async def _wait_to_start(self, cluster: Namespace, pod: Pod) -> None:
        """Say what a pod waits for, and give up where that is of no use any more."""
        reason = explain.waiting_for(pod)
        if not reason:
            return
        created = explain.age(pod["metadata"].get("creationTimestamp"))
        placed = explain.scheduled_at(pod)
        if created > 2:
            await self._waits(f"for {reason}")
        hopeless = explain.hopeless(pod, created)
        if hopeless:
            raise _Over(hopeless)
        if placed is None and created > self.limits.place:
            raise _Over(explain.unplaced(pod, self.limits.place / 3600))
        if placed is not None and explain.age(placed) > self.limits.start:
            warnings = await self._ask(cluster, lambda: cluster.warnings(self.name))
            why = reason if init_failure(pod) or not warnings else warnings[-1]
            raise _Over(
                f"{self.name}: not started within {self.limits.start / 60:g} min of getting a node: {why}",
                mend="mend that, or raise runtime.kubernetes.start_minutes",
            )
        if placed is not None and explain.age(placed) > 15:
            for warning in await self._ask(cluster, lambda: cluster.warnings(self.name)):
                self._say(f"waiting: {warning}")

    async def _next(self, cluster: Namespace, pod: Pod) -> Pod | None:
        """Return the pod's state after a while, or as soon as it changed; None when it is gone."""
        if await cluster.changed(self.name, min(self.limits.log, 5.0)):
            seen = cluster.latest(self.name)
            if seen is not None and seen["metadata"]["uid"] == pod["metadata"]["uid"]:
                self._asked_at = time.monotonic()
                return seen
            # Gone, or the watch is behind and tells of the pod that had this name before: the cluster knows.
        elif time.monotonic() - self._asked_at < ASK_SECONDS:
            return pod
        latest = await self._ask(cluster, lambda: cluster.read(self.name))
        self._asked_at = time.monotonic()
        return latest

    async def _finish(self, cluster: Namespace, pod: Pod, ending: Ending) -> None:
        """Copy the rest of the log, say where the time went and take the pod away."""
        await self._copy_log(cluster, patient=True)
        await self._take_away(cluster, keep=self.keep_failed and not ending.good)
        log.info("pod %s: %s", self.name, self._times(pod))

    async def _deleted(self, cluster: Namespace, pod: Pod) -> Ending:
        """Say why a pod is being deleted, by others, once it is gone."""
        log.info("pod %s is being deleted", self.name)
        await self._await_gone(cluster, pod)
        ending = explain.ending(pod)
        if ending is not None and ending.good:
            return ending
        gone = f"{self.name}: {explain.deletion(pod)}; its next try goes on from the last checkpoint"
        raise _Over(gone, mend=explain.removed_mend(pod))

    async def _await_gone(self, cluster: Namespace, pod: Pod) -> None:
        """Wait until a deleted pod is gone; take one whose node is lost off the books."""
        uid = pod["metadata"]["uid"]
        grace = pod["metadata"].get("deletionGracePeriodSeconds") or GRACE_SECONDS
        deadline = time.monotonic() + grace + TERMINATING_SECONDS
        while True:
            there = await self._ask(cluster, lambda: cluster.read(self.name))
            if there is None or there["metadata"]["uid"] != uid:
                return
            if explain.has_started(there):
                await self._copy_log(cluster)
            if time.monotonic() > deadline:
                log.warning("pod %s does not go away: its node does not answer; forgetting it", self.name)
                await self._ask(cluster, lambda: cluster.delete(self.name, uid, grace_seconds=0))
                return
            await cluster.changed(self.name, 2.0)

    async def _take_away(self, cluster: Namespace, *, keep: bool) -> None:
        if keep:
            log.info("pod %s/%s is kept (runtime.kubernetes.keep_failed_pods)", self.namespace, self.name)
            return
        try:
            await self._ask(cluster, lambda: cluster.delete(self.name))
        except (_Over, ApiException) as error:
            log.warning("pod %s could not be deleted: %s", self.name, error)

    # -- small things --------------------------------------------------------------------------------

    def _is_own(self, pod: Pod) -> bool:
        """Return whether the pod was made by this try of the task."""
        mine, there = (item["metadata"].get("labels", {}).get("try_number") for item in (self.manifest, pod))
        return bool(mine == there)

    def _mark(self, pod: Pod) -> None:
        """Note when the pod was first seen to have a node, to run, and to have ended."""
        now = time.monotonic()
        if explain.scheduled_at(pod):
            self._marks.setdefault("placed", now)
        if explain.has_started(pod):
            self._marks.setdefault("started", now)
        if explain.ending(pod) is not None:
            self._marks.setdefault("ended", now)

    def _times(self, pod: Pod) -> str:
        """Return where the time went; in whole seconds of the cluster's where another triggerer began."""
        stages = ("begun", "made", "placed", "started", "ended")
        if not all(stage in self._marks for stage in stages):
            return explain.times(pod)
        marks = [*(self._marks[stage] for stage in stages), time.monotonic()]
        what = ("to be made", "to a node", "to start", "of work", "to collect")
        spans = zip(marks[:-1], marks[1:], what, strict=True)
        return ", ".join(f"{after - before:.1f} s {name}" for before, after, name in spans)

    def _check_deadline(self) -> None:
        if self.limits.deadline is not None and time.time() >= self.limits.deadline:
            raise _Over(f"{self.name}: not done within the task's execution_timeout", mend="raise that")

    async def _waits(self, what: str) -> None:
        """Say what the pod waits for."""
        self._say(f"waiting {what}" if what.startswith("for ") else f"waiting: {what}")

    def _say(self, sentence: str) -> None:
        """Log what is waited for: when it is new, and now and then."""
        said, at = self._said
        if sentence != said or time.monotonic() - at > SAY_AGAIN_SECONDS:
            log.info("%s", sentence)
            self._said = (sentence, time.monotonic())

    async def _copy_log(self, cluster: Namespace, *, patient: bool = False) -> None:
        """Hand on what the job has printed since the last look."""
        started = time.time()
        since = None if self._read_at is None else int(started - self._read_at) + 2
        try:
            text = await (self._ask(cluster, lambda: cluster.log(self.name, since)) if patient
                          else cluster.log(self.name, since))  # fmt: skip
        except (_Over, ApiException, aiohttp.ClientError, OSError, TimeoutError) as error:
            log.debug("log of %s: %r", self.name, error)  # the node may be away for a while
            return
        self._read_at = started
        lines, self._last_line = new_lines(text, self._last_line)
        for line in lines:
            log_job_line(log, line)

    async def _ask(self, cluster: Namespace, request: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the cluster's answer, asking again while it gives none.

        Raises:
            ApiException: it answered that it cannot or will not.
            _Over: no answer in all the time there is.
        """
        patience = Patience(self.limits.answer, self._lost, longest=15.0)
        while True:
            try:
                return await request()
            except ApiException as error:
                if error.status == 401:
                    await cluster.renew()
                elif error.status and error.status != 429 and error.status < 500:
                    raise
                fault = f"{error.status} {error.reason}"
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                fault = f"{type(error).__name__}: {error}"
            self._say(f"the cluster does not answer ({fault}); asking again")
            await patience.pause(ConnectionError(fault))

    def _lost(self, fault: Exception) -> _Over:
        return _Over(
            f"{self.name}: the cluster did not answer for {self.limits.answer / 60:g} min ({fault}); the pod "
            "goes on if it can, and the next try looks for it",
            reachable=False,
        )


def _message(error: ApiException) -> str:
    """Return what the API server said."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
