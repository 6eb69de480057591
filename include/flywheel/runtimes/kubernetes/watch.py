"""A namespace as the triggers of one process share it: one client of the cluster, one watch for all pods.

300 waiting pods then cost one open request and no polling. The watch only wakes who waits for a pod, early
and with the pod's newest state; whoever waits also asks by itself now and then, so a missed event is no harm.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from kubernetes_asyncio import client, watch

from flywheel.runtimes.kubernetes.explain import Pod
from flywheel.runtimes.kubernetes.job import SELECTOR
from flywheel.runtimes.kubernetes.pods import CONTAINER

log = logging.getLogger(__name__)

WATCH_SECONDS = 240
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"


class Namespace:
    """The pods of a namespace. Use `shared`.

    Args:
        connection: Airflow connection of the cluster; None: the one this process runs in, else KUBECONFIG.
        name: of the namespace.
    """

    _open: ClassVar[dict[tuple[int, str | None, str], Namespace]] = {}

    def __init__(self, connection: str | None, name: str) -> None:
        self.name = name
        self._connection = connection
        self._users = 0
        self._client: client.ApiClient | None = None
        self._opening = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._pods: dict[str, Pod | None] = {}
        self._wakers: dict[str, asyncio.Event] = {}

    @classmethod
    @asynccontextmanager
    async def shared(cls, connection: str | None, name: str) -> AsyncIterator[Namespace]:
        """Give the namespace, as all other users in this event loop have it."""
        key = (id(asyncio.get_running_loop()), connection, name)
        namespace = cls._open.setdefault(key, cls(connection, name))
        namespace._users += 1
        try:
            yield namespace
        finally:
            namespace._users -= 1
            if not namespace._users:
                cls._open.pop(key, None)
                await namespace._close()

    # -- requests ------------------------------------------------------------------------------------

    async def read(self, pod: str) -> Pod | None:
        """Return a pod; None where there is none of that name."""
        api = await self._api()
        answer = await api.read_namespaced_pod(pod, self.name, _preload_content=False)
        if answer.status == 404:
            answer.release()
            return None
        return dict(json.loads(await _body(answer)))

    async def create(self, manifest: Pod) -> Pod:
        """Make a pod.

        Raises:
            ApiException: the cluster refused it.
        """
        api = await self._api()
        answer = await api.create_namespaced_pod(self.name, manifest, _preload_content=False)
        return dict(json.loads(await _body(answer)))

    async def delete(self, pod: str, uid: str | None = None, grace_seconds: int | None = None) -> None:
        """Delete a pod; where there is none, or another of its name by now, nothing happens.

        Args:
            uid: of the pod that is meant; None: whichever has the name.
            grace_seconds: 0 takes it off the books at once, whether its node answers or not.
        """
        api = await self._api()
        options: dict[str, Any] = {}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        answer = await api.delete_namespaced_pod(pod, self.name, body=options, _preload_content=False)
        if answer.status in (404, 409):
            answer.release()
        else:
            await _body(answer)

    async def pods(self, selector: str) -> list[Pod]:
        """Return the pods with these labels."""
        api = await self._api()
        answer = await api.list_namespaced_pod(self.name, label_selector=selector, _preload_content=False)
        return list(json.loads(await _body(answer))["items"])

    async def log(self, pod: str, since_seconds: int | None) -> str:
        """Return a pod's log with the time of each line, as far back as asked; all of it for None."""
        api = await self._api()
        since = {} if since_seconds is None else {"since_seconds": max(1, since_seconds)}
        answer = await api.read_namespaced_pod_log(
            pod, self.name, container=CONTAINER, timestamps=True, _preload_content=False, **since
        )
        return (await _body(answer)).decode("utf-8", errors="replace")

    async def warnings(self, pod: str) -> list[str]:
        """Return what the cluster's parts have complained about a pod, oldest first."""
        api = await self._api()
        fields = f"involvedObject.name={pod},type=Warning"
        answer = await api.list_namespaced_event(self.name, field_selector=fields, _preload_content=False)
        found = json.loads(await _body(answer))["items"]
        events = sorted(found, key=lambda event: event.get("lastTimestamp") or "")
        return [
            f"{event.get('reason')}: {' '.join((event.get('message') or '').split())}" for event in events
        ]

    # -- the watch -----------------------------------------------------------------------------------

    async def changed(self, pod: str, seconds: float) -> bool:
        """Wait until something happened to a pod, at most so long; return whether it did."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        waker = self._wakers.setdefault(pod, asyncio.Event())
        try:
            await asyncio.wait_for(waker.wait(), seconds)
        except TimeoutError:
            return False
        waker.clear()
        return True

    def latest(self, pod: str) -> Pod | None:
        """Return a pod as the watch saw it last; None where it was deleted or never seen."""
        return self._pods.get(pod)

    def forget(self, pod: str) -> None:
        """Drop what is known of a pod that nobody waits for any more."""
        self._wakers.pop(pod, None)
        self._pods.pop(pod, None)

    async def _watch(self) -> None:
        """Follow all pods of flywheel's in the namespace, again and again: a watch ends, or breaks."""
        while True:
            try:
                api = await self._api()
                async with watch.Watch() as events:
                    async for event in events.stream(
                        api.list_namespaced_pod,
                        self.name,
                        label_selector=SELECTOR,
                        timeout_seconds=WATCH_SECONDS,
                        _request_timeout=WATCH_SECONDS + 30,
                    ):
                        self._note(event["type"], event["raw_object"])
            except asyncio.CancelledError:
                raise
            except Exception as error:  # the triggers meet the same fault, and say so, when they ask
                log.debug("watch of %s: %r", self.name, error)
                await asyncio.sleep(2)

    def _note(self, kind: str, pod: Pod) -> None:
        name = pod.get("metadata", {}).get("name")
        if name in self._wakers:
            self._pods[name] = None if kind == "DELETED" else pod
            self._wakers[name].set()

    # -- the client ----------------------------------------------------------------------------------

    async def _api(self) -> Any:
        async with self._opening:
            if self._client is None:
                # Without a connection: in a pod, the cluster that it is in; else the file of KUBECONFIG.
                in_pod = True if self._connection is None and os.path.exists(SERVICE_ACCOUNT) else None
                hook = AsyncKubernetesHook(conn_id=self._connection, in_cluster=in_pod)
                await hook._load_config()  # type: ignore[no-untyped-call]
                self._client = client.ApiClient(configuration=hook.client_configuration)
        return client.CoreV1Api(self._client)

    async def renew(self) -> None:
        """Forget the client: the next request reads the credentials anew."""
        async with self._opening:
            old, self._client = self._client, None
        if old is not None:
            await old.close()

    async def _close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._client is not None:
            await self._client.close()


async def _body(answer: Any) -> bytes:
    """Return what the API server answered.

    Raises:
        ApiException: it did not do what it was asked for.
    """
    data: bytes = await answer.read()
    if answer.status >= 400:
        error = client.ApiException(status=answer.status, reason=answer.reason)
        error.body = data
        raise error
    return data
