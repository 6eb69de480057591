"""Streams what a search finds: a point in time and `search_after`, so memory holds two pages.

The next page is on its way while the caller works on the one before. Pages are sorted by a field that no two
documents share, so a point in time that is lost (a node restarted) is taken anew and reading goes on behind
the last document that was seen. The server breaks ties by the document's place in its shard, which is the
last of a hit's sort values and may differ in the next point in time: there it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from elastic_transport import TransportError
from elasticsearch import ApiError, NotFoundError

from flywheel.errors import StoreError
from flywheel.stores.elasticsearch.client import Cluster

Hit = dict[str, Any]

FIRST_PAGE = 200
# The server's default for `index.max_result_window`.
LARGEST_PAGE = 10_000
# Pages grow until they are about this long, so that long documents do not fill the memory.
PAGE_BYTES = 4_000_000
KEEP_ALIVE = "10m"


def pages(
    cluster: Cluster,
    index: str,
    query: dict[str, Any],
    sort: Sequence[str],
    *,
    source: bool | Sequence[str] = True,
) -> Iterator[list[Hit]]:
    """Yield the hits of a query, sorted, page by page.

    Args:
        sort: fields, ascending; together, no two documents have the same.
        source: whether hits have their documents, or which fields of them. False: nothing but what they are
            sorted by.
    """
    search = _Search(cluster, index, query, sort, source)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="search") as ahead:
            coming = ahead.submit(search.page)
            while hits := coming.result():
                coming = ahead.submit(search.page)
                yield hits
    finally:
        search.close()


class _Search:
    def __init__(
        self,
        cluster: Cluster,
        index: str,
        query: dict[str, Any],
        sort: Sequence[str],
        source: bool | Sequence[str],
    ) -> None:
        self._cluster = cluster
        self._index = index
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
        self._pit = ""
        self._size = FIRST_PAGE
        self._ended = False

    def page(self) -> list[Hit]:
        """Return the next hits; none at the end."""
        if self._ended:
            return []
        if not self._pit:
            self._open()
        while True:
            try:
                answer = self._cluster.call("read documents", self._search)
            except StoreError as error:
                if not isinstance(error.__cause__, NotFoundError):
                    raise
                self._open()  # the node that knew the point in time is gone
                continue
            break
        self._pit = answer["pit_id"]
        hits: list[Hit] = answer["hits"]["hits"]
        self._ended = len(hits) < self._size
        if hits:
            self._arguments["search_after"] = hits[-1]["sort"]
            if hits[0]["sort"][: self._keys] == self._last:
                del hits[0]  # its place in the shard is another now, behind where it was
        if hits:
            self._last = hits[-1]["sort"][: self._keys]
        size = int(answer.meta.headers.get("content-length", 0)) or len(hits) * 1000
        per_hit = max(1, size // max(1, len(hits)))
        self._size = max(10, min(LARGEST_PAGE, 4 * self._size, PAGE_BYTES // per_hit))
        return hits

    def _search(self) -> Any:
        return self._cluster.client.search(
            pit={"id": self._pit, "keep_alive": KEEP_ALIVE}, size=self._size, **self._arguments
        )

    def _open(self) -> None:
        answer = self._cluster.call(
            f"read {self._index}",
            self._cluster.client.open_point_in_time,
            index=self._index,
            keep_alive=KEEP_ALIVE,
        )
        self._pit = answer["id"]

    def close(self) -> None:
        if self._pit:
            with suppress(ApiError, TransportError):  # it ends by itself, too
                self._cluster.client.close_point_in_time(id=self._pit)
