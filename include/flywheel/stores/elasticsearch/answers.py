"""The part of the Elasticsearch store that keeps answers, and whose they are."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import orjson

from flywheel.stores.base import Owner, PaidAnswer
from flywheel.stores.elasticsearch.bulk import BulkWriter, Document
from flywheel.stores.elasticsearch.client import Cluster
from flywheel.stores.elasticsearch.indexes import ANSWERS, OWNERS, Schema
from flywheel.stores.elasticsearch.paging import pages
from flywheel.stores.elasticsearch.windows import windows

# Documents that one call gets by their ids.
GET_BATCH = 1000


class ElasticsearchAnswers:
    """Answers in a cluster, and the looking up of documents."""

    _cluster: Cluster

    def _alias(self, schema: Schema) -> str:
        raise NotImplementedError

    # -- answers -------------------------------------------------------------------------------------

    def get_answers(self, keys: Sequence[str]) -> dict[str, PaidAnswer]:
        """Return the answers that are there, those just kept among them; keys without one are left out."""
        return {
            document["_id"]: _answer(document["_source"])
            for found in self._documents(ANSWERS, keys)
            for document in found
            if document.get("found")
        }

    def put_answers(self, answers: Sequence[tuple[str, PaidAnswer]], owner: Owner | None = None) -> None:
        """Keep answers, on the cluster's disks when this returns. The first answer of a key stays."""
        with BulkWriter(self._cluster, self._alias(ANSWERS)) as writer:
            for key, answer in answers:
                content = {
                    "key": key,
                    "content": answer.content,
                    "model": answer.model,
                    "created": answer.created,
                    "usage": answer.usage,
                }
                writer.add(Document(key, orjson.dumps(content)))
        if owner is not None:
            self.own_answers(owner, [key for key, _ in answers])

    def own_answers(self, owner: Owner, keys: Sequence[str]) -> None:
        """Keep that an owner uses answers, too; those that it is known to use cost a look."""
        ids = {owner_id(owner, key): key for key in keys}
        known = {
            document["_id"]
            for found in self._documents(OWNERS, ids)
            for document in found
            if document.get("found")
        }
        with BulkWriter(self._cluster, self._alias(OWNERS)) as writer:
            for id in ids.keys() - known:
                content = {
                    "id": id,
                    "created": int(time.time()),
                    "workload_id": owner[0],
                    "client_id": owner[1],
                    "key": ids[id],
                }
                writer.add(Document(id, orjson.dumps(content)))

    def read_owners(self) -> Iterator[tuple[Owner, str]]:
        """Stream all owners of answers with the keys of these."""
        self._refresh(OWNERS)
        index = self._alias(OWNERS)
        queries = windows(self._cluster, index, OWNERS.time)
        for page in pages(self._cluster, index, queries, [OWNERS.time, OWNERS.key]):
            for hit in page:
                source = hit["_source"]
                yield (source["workload_id"], source["client_id"]), source["key"]

    def read_answers(self) -> Iterator[tuple[str, PaidAnswer]]:
        """Stream all answers with their keys, the older ones first."""
        self._refresh(ANSWERS)
        index = self._alias(ANSWERS)
        queries = windows(self._cluster, index, ANSWERS.time)
        for page in pages(self._cluster, index, queries, [ANSWERS.time, ANSWERS.key]):
            for hit in page:
                yield hit["_source"]["key"], _answer(hit["_source"])

    # -- documents -----------------------------------------------------------------------------------

    def _refresh(self, schema: Schema) -> None:
        """Make all that was written visible to searches."""
        alias = self._alias(schema)
        self._cluster.call(f"refresh {alias}", self._cluster.client.indices.refresh, index=alias)

    def _documents(self, schema: Schema, ids: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
        """Stream what `mget` says of each id, in their order; the next call runs ahead."""
        alias = self._alias(schema)

        def get(batch: list[str]) -> list[dict[str, Any]]:
            answer = self._cluster.call(f"read {alias}", self._cluster.client.mget, index=alias, ids=batch)
            found: list[dict[str, Any]] = answer["docs"]
            return found

        iterator = iter(ids)
        first = list(islice(iterator, GET_BATCH))
        if len(first) < GET_BATCH:  # the usual case of answers: no thread for that
            if first:
                yield get(first)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="get") as ahead:
            coming = ahead.submit(get, first)
            while batch := list(islice(iterator, GET_BATCH)):
                found = coming.result()
                coming = ahead.submit(get, batch)
                yield found
            yield coming.result()


def owner_id(owner: Owner, key: str) -> str:
    """Return the id of the document that says that an owner has asked for an answer."""
    return hashlib.sha256(orjson.dumps([*owner, key])).hexdigest()[:32]


def _answer(source: dict[str, Any]) -> PaidAnswer:
    return PaidAnswer(source["content"], source["model"], source["created"], source["usage"])
