"""Streams what searches find: a point in time and `search_after`, so memory holds a few pages.

The next pages are on their way while the caller works on the one before. Pages are sorted by a field that no
two documents share, so a point in time that is lost (a node restarted) is taken anew and reading goes on
behind the last document that was seen. The server breaks ties by the document's place in its shard, which is
the last of a hit's sort values and may differ in the next point in time: there it says nothing.

For each page the server looks at all that a query finds, so one that finds a million is slow a hundred times;
many that find some thousands each are not (see `flywheel.stores.elasticsearch.windows`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Any, Self

from elastic_transport import TransportError
from elasticsearch import ApiError

from flywheel.stores.elasticsearch.client import Cluster

Hit = dict[str, Any]
Query = dict[str, Any]

FIRST_PAGE = 200
# The server's default for `index.max_result_window`.
LARGEST_PAGE = 10_000
# Pages grow until they are about this long, so that long documents do not fill the memory.
PAGE_BYTES = 4_000_000
KEEP_ALIVE = "10m"
# Queries that are on their way at once: while one answer is read here, the server makes the next.
AT_ONCE = 2
_NOT_FOUND = 404
_NO_SHARD = "no_shard_available_action_exception"


def pages(
    cluster: Cluster,
    index: str,
    queries: Iterable[Query],
    sort: Sequence[str],
    *,
    source: bool | Sequence[str] = True,
) -> Iterator[list[Hit]]:
    """Yield the hits of queries, one query after the other, sorted, page by page.

    Args:
        sort: fields, ascending; together, no two documents of a query have the same.
        source: whether hits have their documents, or which fields of them. False: nothing but what they are
            sorted by.
    """
    with _PointInTime(cluster, index) as point, ThreadPoolExecutor(AT_ONCE, "search") as ahead:
        searches = (_Search(point, query, sort, source) for query in queries)
        coming: deque[tuple[_Search, Future[list[Hit]]]] = deque()
        try:
            while True:
                for search in islice(searches, AT_ONCE - len(coming)):
                    coming.append((search, ahead.submit(search.page)))
                if not coming:
                    return
                search, page = coming.popleft()
                hits = page.result()
                if not search.ended:
                    coming.appendleft((search, ahead.submit(search.page)))
                if hits:
                    yield hits
        finally:
            for _, page in coming:
                page.cancel()


class _LostError(Exception):
    """The server does not know the point in time any more."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


class _PointInTime:
    """What the index holds at one moment, for several searches; taken anew where the server lost it."""

    def __init__(self, cluster: Cluster, index: str) -> None:
        self._cluster = cluster
        self._index = index
        self._lock = threading.Lock()
        self._id = ""
        # Hits of the next page, learned from those before.
        self.size = FIRST_PAGE

    def search(self, size: int, arguments: dict[str, Any]) -> Any:
        """Return the server's answer."""
        patience = self._cluster.patience("read documents")
        while True:
            with self._lock:
                if not self._id:
                    self._open()
                id = self._id
            try:
                answer = self._cluster.call("read documents", self._search, id, size, arguments)
            except _LostError as lost:
                with self._lock:
                    if self._id == id:
                        self._id = ""
                if lost.error.status_code != _NOT_FOUND:
                    patience.wait(lost.error)
                continue
            with self._lock:
                if self._id == id:
                    self._id = answer["pit_id"]
            return answer

    def _search(self, id: str, size: int, arguments: dict[str, Any]) -> Any:
        try:
            return self._cluster.client.search(
                pit={"id": id, "keep_alive": KEEP_ALIVE}, size=size, **arguments
            )
        except ApiError as error:
            # Its node has restarted; or its index was removed, as that of the next version took its place.
            if error.status_code == _NOT_FOUND or _NO_SHARD in str(error.body):
                raise _LostError(error) from error
            raise

    def learn(self, hits: int, length: int) -> None:
        """Choose the size of the next pages by one of so many bytes."""
        per_hit = max(1, length // max(1, hits))
        self.size = max(10, min(LARGEST_PAGE, 4 * max(self.size, hits), PAGE_BYTES // per_hit))

    def _open(self) -> None:
        answer = self._cluster.call(
            f"read {self._index}",
            self._cluster.client.open_point_in_time,
            index=self._index,
            keep_alive=KEEP_ALIVE,
        )
        self._id = answer["id"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._id:
            with suppress(ApiError, TransportError):  # it ends by itself, too
                self._cluster.client.close_point_in_time(id=self._id)


class _Search:
    """One query, page by page.

    Attributes:
        ended: there is no further page.
    """

    def __init__(
        self, point: _PointInTime, query: Query, sort: Sequence[str], source: bool | Sequence[str]
    ) -> None:
        self._point = point
        self._arguments: dict[str, Any] = {
            "query": query,
            "sort": [{name: "asc"} for name in sort],
            "track_total_hits": False,
            "source": source if isinstance(source, bool) else list(source),
        }
        if source is False:
            # Not even the document's id, which the server reads from the same compressed block.
            self._arguments["stored_fields"] = "_none_"
        self._keys = len(sort)
        self._last: list[Any] = []
        self.ended = False

    def page(self) -> list[Hit]:
        """Return the next hits; none, perhaps, at the end."""
        size = self._point.size
        answer = self._point.search(size, self._arguments)
        hits: list[Hit] = answer["hits"]["hits"]
        self.ended = len(hits) < size
        if not hits:
            return hits
        length = int(answer.meta.headers.get("content-length", 0)) or len(hits) * 1000
        self._point.learn(len(hits), length)
        self._arguments["search_after"] = hits[-1]["sort"]
        if hits[0]["sort"][: self._keys] == self._last:
            del hits[0]  # its place in the shard is another now, behind where it was
        if hits:
            self._last = hits[-1]["sort"][: self._keys]
        return hits
