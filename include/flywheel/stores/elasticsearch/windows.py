"""Cuts the time of documents into windows with some thousands of them, which the server sorts one by one.

A page in order of time costs the server a look at all documents that the query finds: for a million, in pages
of 10,000, a hundred looks at a million each. In windows each document is looked at once: of 200,000 records,
an id took 7 us of the server's CPU and not 20, and this does not grow with their number. Where the windows
end is estimated by the server (percentiles of the times, by t-digest); they need not be exact, only to lie
side by side. Documents of one second cannot be told apart by time and are in one window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flywheel.stores.elasticsearch.client import Cluster

# Documents of a window: pages as long as `PAGE_BYTES` and some reserve, as the estimate may be off.
WINDOW = 4000
# Windows that one call asks for; more documents have larger ones.
MOST_WINDOWS = 2000
# A date beyond all documents, which the server can still hold.
_END_OF_TIME = 99_999_999_999

Query = dict[str, Any]


def records_before(workload_id: str, client_id: str, before: int) -> Query:
    """Return the query for a workload's records with known_at < before."""
    return _in_time("known_at", None, before, _of_workload(workload_id, client_id))


def record_windows(
    cluster: Cluster, index: str, workload_id: str, client_id: str, before: int
) -> list[Query]:
    """Return queries that together find a workload's records with known_at < before, the earlier first."""
    return windows(cluster, index, "known_at", before, _of_workload(workload_id, client_id))


def windows(
    cluster: Cluster, index: str, time: str, before: int | None = None, terms: Sequence[Query] = ()
) -> list[Query]:
    """Return queries that together find documents, the earlier ones first.

    Args:
        time: the field of their time, a date in seconds that each of them has.
        before: only those with time < before; None: all.
        terms: what they must match as well.
    """
    query = _in_time(time, None, before, terms)
    count = cluster.call("count documents", cluster.client.count, index=index, query=query)["count"]
    parts = min(count // WINDOW, MOST_WINDOWS)
    if parts < 2:
        return [query]
    shares = [100 * part / parts for part in range(1, parts)]
    answer = cluster.call(
        "look at the times of documents",
        cluster.client.search,
        index=index,
        size=0,
        query=query,
        aggregations={"times": {"percentiles": {"field": time, "percents": shares, "keyed": False}}},
    )
    found = (value["value"] for value in answer["aggregations"]["times"]["values"])
    ends: list[int | None] = [*sorted({int(milliseconds // 1000) for milliseconds in found}), before]
    starts = [None, *ends[:-1]]
    return [
        _in_time(time, start, end, terms)
        for start, end in zip(starts, ends, strict=True)
        if start is None or end is None or start < end
    ]


def _of_workload(workload_id: str, client_id: str) -> list[Query]:
    return [{"term": {"workload_id": workload_id}}, {"term": {"client_id": client_id}}]


def _in_time(time: str, since: int | None, before: int | None, terms: Sequence[Query]) -> Query:
    """Return the query for documents with since <= time < before; None leaves a side open."""
    # As text: a number would be taken for milliseconds, whatever the field's format.
    bounds: dict[str, str] = {}
    if since is not None:
        bounds["gte"] = str(since)
    if before is not None:
        bounds["lt"] = str(min(before, _END_OF_TIME))
    ranges = [{"range": {time: {**bounds, "format": "epoch_second"}}}] if bounds else []
    return {"bool": {"filter": [*terms, *ranges]}}
