"""Removes clients from a cluster: their records, the answers that they alone asked for, and their texts.

A prompt that many records share is an earlier record's whole text (see `flywheel.stores.prompts`), so it may
be that of a client who goes. Where no record that stays has this text, those that share it are rewritten to
another one of their own; they are read as before. Prompts have ids from their content, so none ever becomes
another one; who still remembers one that is gone learns of it when it writes (`ElasticsearchStore.write`).

Lucene keeps deleted documents until their segments are merged, and a shard keeps them for its copies a while:
`_expunge` asks for the merge, and waits until they are gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from flywheel.stores.base import Holdings, Owner
from flywheel.stores.elasticsearch.bulk import BulkWriter, Document
from flywheel.stores.elasticsearch.client import BUSY_STATUSES, Cluster, StoreBusyError
from flywheel.stores.elasticsearch.indexes import ANSWERS, OWNERS, PROMPTS, RECORDS, SCHEMAS, Schema
from flywheel.stores.elasticsearch.paging import pages
from flywheel.stores.elasticsearch.product import reason_of
from flywheel.stores.elasticsearch.windows import windows
from flywheel.stores.prompts import Reference, difference, digest, skeleton_and_text

log = logging.getLogger(__name__)

Alias = Callable[[Schema], str]

# Documents that one call deletes, or changes.
BATCH = 1000
DELETE_BATCH = 5000
# So long the segments with deleted documents are waited for; a shard's copies let go of them every 30 s.
EXPUNGE_SECONDS = 120.0


def prompt_document(skeleton: bytes, text: str) -> Document:
    """Return a prompt as its document."""
    whole = orjson.loads(skeleton)
    whole["messages"][-1]["content"] = text
    id = digest(skeleton + b"\0" + text.encode())[:8].hex()
    content = {
        "id": id,
        "skeleton": digest(skeleton).hex(),
        "created": int(time.time()),
        "request": whole,
    }
    return Document(id, orjson.dumps(content))


def holdings(cluster: Cluster, alias: Alias, owners: Sequence[Owner]) -> Holdings:
    """Count what the store holds of owners."""
    for schema in SCHEMAS:
        _refresh(cluster, alias(schema))
    records = cluster.call("count records", cluster.client.count, index=alias(RECORDS), query=_of(owners))[
        "count"
    ]
    alone = shared = 0
    for keys, kept in _owned(cluster, alias, owners):
        there = _there(cluster, alias(ANSWERS), keys)
        shared += len(there & kept)
        alone += len(there - kept)
    unowned = sum(len(keys) for keys in _unowned(cluster, alias))
    return Holdings(records, alone, shared, unowned)


def forget(
    cluster: Cluster, alias: Alias, owners: Sequence[Owner], *, unowned: bool, before: int | None
) -> None:
    """Remove what the store holds of owners; killed and done again it ends the same.

    Args:
        before: remove the records with known_at < before alone.
    """
    for schema in SCHEMAS:
        _refresh(cluster, alias(schema))
    if before is None:
        _delete(cluster, alias(RECORDS), _of(owners))
        _forget_answers(cluster, alias, owners, unowned=unowned)
    else:
        old = [_of(owners), {"range": {"known_at": {"lt": str(before), "format": "epoch_second"}}}]
        _delete(cluster, alias(RECORDS), {"bool": {"filter": old}})
    _replace_prompts(cluster, alias)
    _expunge(cluster, [alias(schema) for schema in SCHEMAS])


def _forget_answers(cluster: Cluster, alias: Alias, owners: Sequence[Owner], *, unowned: bool) -> None:
    for keys, kept in _owned(cluster, alias, owners):
        _delete(cluster, alias(ANSWERS), {"ids": {"values": sorted(set(keys) - kept)}})
    _delete(cluster, alias(OWNERS), _of(owners))  # after the answers: they tell which are left to do
    if unowned:
        for batch in _unowned(cluster, alias):
            _delete(cluster, alias(ANSWERS), {"ids": {"values": batch}})


def _of(owners: Sequence[Owner]) -> dict[str, Any]:
    each = [
        {"bool": {"filter": [{"term": {"workload_id": workload}}, {"term": {"client_id": client}}]}}
        for workload, client in owners
    ]
    return {"bool": {"should": each, "minimum_should_match": 1}} if each else {"match_none": {}}


def _refresh(cluster: Cluster, index: str) -> None:
    cluster.call(f"refresh {index}", cluster.client.indices.refresh, index=index)


def _delete(cluster: Cluster, index: str, query: dict[str, Any]) -> None:
    """Delete what a query finds, some at a time; `_delete_by_query` is a module that a node may lack."""
    while True:
        found = cluster.call(
            f"read {index}",
            cluster.client.search,
            index=index,
            query=query,
            size=DELETE_BATCH,
            source=False,
            sort=["_doc"],
        )
        ids = [hit["_id"] for hit in found["hits"]["hits"]]
        if not ids:
            return
        _bulk(cluster, index, {id: [orjson.dumps({"delete": {"_id": id}})] for id in ids})
        _refresh(cluster, index)


def _owned(cluster: Cluster, alias: Alias, owners: Sequence[Owner]) -> Iterator[tuple[list[str], set[str]]]:
    """Yield the keys of answers that owners have asked for, with those that another asked for as well."""
    for page in pages(cluster, alias(OWNERS), [_of(owners)], ["key", "id"]):
        keys = sorted({hit["_source"]["key"] for hit in page})
        yield keys, _owned_by(cluster, alias, keys, {"must_not": [_of(owners)]})


def _unowned(cluster: Cluster, alias: Alias) -> Iterator[list[str]]:
    """Yield the keys of answers that nobody owns."""
    queries = windows(cluster, alias(ANSWERS), ANSWERS.time)
    for page in pages(cluster, alias(ANSWERS), queries, [ANSWERS.time, ANSWERS.key], source=["key"]):
        keys = [hit["_source"]["key"] for hit in page]
        if left := sorted(set(keys) - _owned_by(cluster, alias, keys, {})):
            yield left


def _owned_by(cluster: Cluster, alias: Alias, keys: Sequence[str], further: dict[str, Any]) -> set[str]:
    """Return those keys of which a document of the owners says that somebody asked for them."""
    found: set[str] = set()
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        answer = cluster.call(
            "look for owners",
            cluster.client.search,
            index=alias(OWNERS),
            size=0,
            query={"bool": {"filter": [{"terms": {"key": batch}}], **further}},
            aggregations={"keys": {"terms": {"field": "key", "size": len(batch)}}},
        )
        found |= {bucket["key"] for bucket in answer["aggregations"]["keys"]["buckets"]}
    return found


def _there(cluster: Cluster, index: str, ids: Sequence[str]) -> set[str]:
    documents = cluster.call(f"read {index}", cluster.client.mget, index=index, ids=list(ids), source=False)[
        "docs"
    ]
    return {document["_id"] for document in documents if document.get("found")}


def _replace_prompts(cluster: Cluster, alias: Alias) -> None:
    """Take away the prompts whose text no record has, and rewrite the records that refer to them."""
    _refresh(cluster, alias(RECORDS))
    own: dict[str, int] = {}
    nearest: dict[str, dict[str, Any]] = {}
    for request in _requests(cluster, alias):
        prompt, same = request["prompt"], request["first"] + request["last"]
        if not request["text"]:
            own[prompt] = max(own.get(prompt, 0), same)
        if prompt not in nearest or same > nearest[prompt]["first"] + nearest[prompt]["last"]:
            nearest[prompt] = request
    gone: dict[str, str] = {}
    instead: dict[str, Reference] = {}
    queries = windows(cluster, alias(PROMPTS), PROMPTS.time)
    for page in pages(cluster, alias(PROMPTS), queries, [PROMPTS.time, PROMPTS.key]):
        for hit in page:
            skeleton, text = skeleton_and_text(hit["_source"]["request"])
            if own.get(hit["_id"]) == len(text):
                continue
            gone[hit["_id"]] = text
            if hit["_id"] in nearest:
                instead[hit["_id"]] = Reference(skeleton, _whole(text, nearest[hit["_id"]]))
    if instead:
        with BulkWriter(cluster, alias(PROMPTS)) as writer:
            for reference in instead.values():
                document = prompt_document(reference.skeleton, reference.text)
                reference.number = int(document.id, 16)
                writer.add(document)
        _refresh(cluster, alias(PROMPTS))
        _rewrite(cluster, alias, gone, instead)
    if gone:
        _delete(cluster, alias(PROMPTS), {"ids": {"values": sorted(gone)}})


def _requests(cluster: Cluster, alias: Alias) -> Iterator[dict[str, Any]]:
    """Yield what all records have as their requests, each with the record's id."""
    index = alias(RECORDS)
    queries = windows(cluster, index, RECORDS.time)
    for page in pages(cluster, index, queries, [RECORDS.time, RECORDS.key], source=["id", "request"]):
        for hit in page:
            yield {**hit["_source"]["request"], "id": hit["_source"]["id"]}


def _rewrite(cluster: Cluster, alias: Alias, gone: dict[str, str], instead: dict[str, Reference]) -> None:
    """Have records refer to other prompts."""
    changes: list[tuple[str, dict[str, Any]]] = []
    for request in _requests(cluster, alias):
        reference = instead.get(request["prompt"])
        if reference is None:
            continue
        found = difference(reference, _whole(gone[request["prompt"]], request))
        changed = {"first": found.first, "last": found.last, "text": found.text}
        changes.append((request["id"], {"prompt": f"{reference.number:016x}", **changed}))
        if len(changes) == BATCH:
            _update(cluster, alias(RECORDS), changes)
            changes.clear()
    _update(cluster, alias(RECORDS), changes)
    _refresh(cluster, alias(RECORDS))


def _whole(shared: str, request: dict[str, Any]) -> str:
    end = shared[len(shared) - request["last"] :]
    return f"{shared[: request['first']]}{request['text']}{end}"


def _update(cluster: Cluster, index: str, changes: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Give records other requests; what another process changes meanwhile are other fields."""
    lines = {
        id: [
            orjson.dumps({"update": {"_id": id, "retry_on_conflict": 5}}),
            orjson.dumps({"doc": {"request": request}}),
        ]
        for id, request in changes
    }
    _bulk(cluster, index, lines)


def _bulk(cluster: Cluster, index: str, lines: dict[str, list[bytes]]) -> None:
    """Do something with documents, each by its id; what a server has no room for now is asked for again."""
    left, patience = dict(lines), cluster.patience("write documents")
    while left:
        busy = None
        for item in cluster.bulk(index, (line for one in list(left.values()) for line in one)):
            ((_, result),) = item.items()
            status, error = result["status"], result.get("error")
            if status in BUSY_STATUSES:
                busy = StoreBusyError(reason_of(error))
            elif status < 300 or status == 404:  # removed meanwhile
                left.pop(result["_id"])
            else:
                raise cluster.error(f"{index} refuses to change a document: {reason_of(error)}")
        if busy:
            patience.wait(busy)


def _expunge(cluster: Cluster, indexes: Sequence[str]) -> None:
    """Have segments with deleted documents written anew, and wait until there are none."""
    client, deadline = cluster.client, time.monotonic() + EXPUNGE_SECONDS
    names, setting = ",".join(indexes), "index.merge.policy.expunge_deletes_allowed"
    cluster.call("set up merging", client.indices.put_settings, index=names, settings={setting: 0})
    try:
        while True:
            cluster.call(f"flush {names}", client.indices.flush, index=names, force=True)
            cluster.call(f"merge {names}", client.indices.forcemerge, index=names, only_expunge_deletes=True)
            stats = cluster.call(f"look at {names}", client.indices.stats, index=names, metric="docs")
            left = stats["_all"]["total"]["docs"]["deleted"]
            if not left:
                return
            if time.monotonic() > deadline:
                log.warning(
                    "%s: %d deleted documents are on the disks until Elasticsearch merges their segments; "
                    "POST %s/_forcemerge?only_expunge_deletes=true does it",
                    *(cluster.where, left, names),
                )
                return
            time.sleep(2.0)
    finally:
        cluster.call("set up merging", client.indices.put_settings, index=names, settings={setting: None})
