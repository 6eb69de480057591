"""Keeps records, prompts and answers in Elasticsearch.

A record is one document. Its request is there as what differs from a prompt that is stored once (see
`flywheel.stores.prompts`): a million records around a prompt of 5 KB are then a million documents of 300
bytes, which the cluster indexes, keeps and sends several times faster than documents of 5 KB.

What `write` and `put_answers` returned from is on the disks of the cluster (`index.translog.durability` is
`request`, the server's default). Readers ask for a refresh first, so they see all that was written before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from types import TracebackType
from typing import Any, Self

import orjson

from flywheel.common.errors import StoreError
from flywheel.config.store import ElasticsearchConfig
from flywheel.stores.base import Holdings, Owner, Rejected, WriteSummary
from flywheel.stores.elasticsearch.again import put_again
from flywheel.stores.elasticsearch.answers import GET_BATCH, ElasticsearchAnswers
from flywheel.stores.elasticsearch.bulk import BulkWriter, Document
from flywheel.stores.elasticsearch.client import connect
from flywheel.stores.elasticsearch.forgetting import forget, holdings, prompt_document
from flywheel.stores.elasticsearch.indexes import PROMPTS, RECORDS, SCHEMAS, Indexes, Schema
from flywheel.stores.elasticsearch.paging import pages
from flywheel.stores.elasticsearch.shelf import Shelf
from flywheel.stores.elasticsearch.windows import record_windows, records_before
from flywheel.stores.prompts import (
    MAX_REFERENCES,
    Compressor,
    Frame,
    Reference,
    digest,
    skeleton_and_text,
)
from flywheel.workloads.records import Record

# Of documents on a `Shelf`: some five million.
SHELF_BYTES = 2 << 30


class ElasticsearchStore(ElasticsearchAnswers):
    """A `RecordStore` in an Elasticsearch cluster.

    Args:
        config: the connection, and the names and settings of the indexes, which are made if missing.
        rereads: what `read` gives will be asked for again by `get`: it is kept in a temporary file.

    Raises:
        StoreError: the cluster cannot be used; the message says what to mend.
    """

    def __init__(self, config: ElasticsearchConfig, *, rereads: bool = False) -> None:
        self.config = config
        self._cluster = connect(config)
        self._closed = False
        self._indexes = Indexes(self._cluster, config.index, config.shards, config.replicas)
        self._lock = threading.RLock()  # of the compressor, which threads share
        self._shelf = Shelf(SHELF_BYTES if rereads else 0)
        self._compressor = Compressor()
        self._frame = lru_cache(maxsize=1024)(self._read_frame)
        try:
            for schema in SCHEMAS:
                self._indexes.prepare(schema)
        except BaseException:
            self._cluster.client.close()
            raise

    # -- records -------------------------------------------------------------------------------------

    def write(
        self, records: Iterable[Record], rejected: Callable[[Rejected], None] | None = None
    ) -> WriteSummary:
        """Write records, several batches of them at once."""
        refusals = 0

        def refused(document: Document, reason: str) -> None:
            nonlocal refusals
            refusals += 1
            if rejected is None:
                raise self._cluster.error(f"it refuses the record {document.id}: {reason}")
            rejected(Rejected(document.id, document.origin, reason, document.content.decode()))

        used: dict[int, Reference] = {}
        with self._lock:
            if self._lost(self._compressor.references()):
                self._compressor = Compressor()
        with BulkWriter(self._cluster, self._alias(RECORDS), refused, put_again) as writer:
            for record in records:
                content = {
                    "id": record.id,
                    "workload_id": record.workload_id,
                    "client_id": record.client_id,
                    "timestamp": record.timestamp,
                    "label": record.label,
                    "request": self._reduced(record, used),
                    "response": record.response,
                    "batch": writer.mark,
                    "labelled_by": record.labelled_by,
                }
                if record.known_at is not None:
                    content["known_at"] = record.known_at
                try:
                    line = orjson.dumps(content)
                except orjson.JSONEncodeError as error:  # nested too deeply, or a number beyond 64 bits
                    refused(Document(record.id, repr(record)[:2000].encode(), record.origin), str(error))
                    continue
                writer.add(Document(record.id, line, record.origin, (record.known_at, record.labelled_by)))
        for reference in self._lost(used.values()):  # taken away since: a record is never left without
            self._keep(reference)
        return WriteSummary(writer.written, writer.already_there, refusals)

    def read(self, workload_id: str, client_id: str, before: int) -> Iterator[Record]:
        """Stream the records with known_at < before, ordered by (known_at, timestamp, id)."""
        for page in self._pages(workload_id, client_id, before, source=True):
            documents = [hit["_source"] for hit in page]
            self._shelf.put(documents)
            yield from map(self._record, documents)

    def read_known(self, workload_id: str, client_id: str, before: int) -> Iterator[tuple[str, int]]:
        """Stream the ids of the records that `read` would give, in its order, each with its `known_at`."""
        for page in self._pages(workload_id, client_id, before, source=False):
            for hit in page:
                yield hit["sort"][2], hit["sort"][0] // 1000

    def get(self, ids: Iterable[str]) -> Iterator[Record]:
        """Stream the records of these ids, in the order of the ids."""
        if not len(self._shelf):
            yield from self._get(ids)
            return
        iterator = iter(ids)
        while batch := list(islice(iterator, GET_BATCH)):
            here = self._shelf.get(batch)
            others = self._get([id for id, document in zip(batch, here, strict=True) if document is None])
            yield from (next(others) if document is None else self._record(document) for document in here)

    def count(self, workload_id: str, client_id: str, before: int) -> int:
        """Return the number of records with known_at < before."""
        self._refresh(RECORDS)
        answer = self._cluster.call(
            "count records",
            self._cluster.client.count,
            index=self._alias(RECORDS),
            query=records_before(workload_id, client_id, before),
        )
        return int(answer["count"])

    def counts_by_labeller(self, workload_id: str, client_id: str, before: int) -> dict[str, int]:
        """Return the number of records with known_at < before by who labelled them."""
        self._refresh(RECORDS)
        terms = {"field": "labelled_by", "missing": "unknown", "order": {"_key": "asc"}}
        answer = self._cluster.call(
            "count records",
            self._cluster.client.search,
            index=self._alias(RECORDS),
            size=0,
            query=records_before(workload_id, client_id, before),
            aggregations={"labellers": {"terms": terms}},
        )
        buckets = answer["aggregations"]["labellers"]["buckets"]
        return {bucket["key"]: bucket["doc_count"] for bucket in buckets}

    def scopes(self) -> list[tuple[str, str]]:
        """Return the pairs of workload and client that have records, sorted."""
        self._refresh(RECORDS)
        sources = [{name: {"terms": {"field": name}}} for name in ("workload_id", "client_id")]
        found: list[tuple[str, str]] = []
        after: dict[str, Any] = {}
        while True:
            answer = self._cluster.call(
                "list workloads and clients",
                self._cluster.client.search,
                index=self._alias(RECORDS),
                size=0,
                aggregations={"scopes": {"composite": {"size": 1000, "sources": sources, **after}}},
            )["aggregations"]["scopes"]
            found += [
                (bucket["key"]["workload_id"], bucket["key"]["client_id"]) for bucket in answer["buckets"]
            ]
            if "after_key" not in answer:
                return sorted(found)
            after = {"after": answer["after_key"]}

    # -- forgetting ----------------------------------------------------------------------------------

    def holdings(self, owners: Sequence[Owner]) -> Holdings:
        """Count what the store holds of owners."""
        return holdings(self._cluster, self._alias, owners)

    def forget(self, owners: Sequence[Owner], *, unowned: bool = False, before: int | None = None) -> None:
        """Remove what the store holds of owners: see `flywheel.stores.elasticsearch.forgetting`."""
        forget(self._cluster, self._alias, owners, unowned=unowned, before=before)
        with self._lock:
            self._compressor = Compressor()

    # -- connection ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections; closing twice is no error."""
        self._closed = True
        self._shelf.close()
        self._cluster.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _alias(self, schema: Schema) -> str:
        if self._closed:
            raise StoreError("the store is closed")
        return self._indexes.alias(schema)

    def _pages(
        self, workload_id: str, client_id: str, before: int, *, source: bool
    ) -> Iterator[list[dict[str, Any]]]:
        self._refresh(RECORDS)
        index = self._alias(RECORDS)
        queries = record_windows(self._cluster, index, workload_id, client_id, before)
        return pages(self._cluster, index, queries, ["known_at", RECORDS.time, RECORDS.key], source=source)

    def _get(self, ids: Iterable[str]) -> Iterator[Record]:
        """Ask the cluster for records."""
        for found in self._documents(RECORDS, ids):
            for document in found:
                if not document.get("found"):
                    raise self._cluster.error(
                        f"no record {document.get('_id')} in "
                        f"{self._alias(RECORDS)}; was the store replaced meanwhile?"
                    )
                yield self._record(document["_source"])

    # -- prompts -------------------------------------------------------------------------------------

    def _reduced(self, record: Record, used: dict[int, Reference]) -> dict[str, Any]:
        """Return a record's request as what differs from a prompt that is in the store.

        Args:
            used: takes the prompt.
        """
        skeleton, text = skeleton_and_text(record.request)
        with self._lock:
            if not self._compressor.knows(skeleton):
                self._load_references(skeleton)
            difference = self._compressor.reduce(skeleton, text)
            reference = difference.reference
            if reference.number is None:
                self._keep(reference)
            assert reference.number is not None
            used[reference.number] = reference
            return {
                "prompt": f"{reference.number:016x}",
                "first": difference.first,
                "last": difference.last,
                "text": difference.text,
            }

    def _load_references(self, skeleton: bytes) -> None:
        """Tell the compressor the newest references of a skeleton that the store has."""
        answer = self._cluster.call(
            "look for prompts",
            self._cluster.client.search,
            index=self._alias(PROMPTS),
            size=MAX_REFERENCES,
            query={"term": {"skeleton": digest(skeleton).hex()}},
            sort=[{"created": "desc"}, {"id": "asc"}],
        )
        for hit in reversed(answer["hits"]["hits"]):
            skeleton, text = skeleton_and_text(hit["_source"]["request"])
            self._compressor.know(Reference(skeleton, text, int(hit["_id"], 16)))

    def _keep(self, reference: Reference) -> None:
        """Store a reference: before the first record that refers to it."""
        document = prompt_document(reference.skeleton, reference.text)
        with BulkWriter(self._cluster, self._alias(PROMPTS)) as writer:
            writer.add(document)
        self._refresh(PROMPTS)
        reference.number = int(document.id, 16)

    def _lost(self, references: Iterable[Reference]) -> list[Reference]:
        """Return those stored references that the store has no more: a client was forgotten since."""
        there = [reference for reference in references if reference.number is not None]
        found = self._documents(PROMPTS, [f"{one.number:016x}" for one in there])
        documents = [document for page in found for document in page]
        return [one for one, document in zip(there, documents, strict=True) if not document.get("found")]

    def _read_frame(self, prompt: str) -> Frame:
        (found,) = next(self._documents(PROMPTS, [prompt]))
        if not found.get("found"):
            raise self._cluster.error(
                f"damaged: {self._alias(PROMPTS)} lacks the prompt {prompt} of a record; restore a snapshot"
            )
        return Frame(*skeleton_and_text(found["_source"]["request"]))

    def _record(self, source: dict[str, Any]) -> Record:
        request = source["request"]
        return Record(
            id=source["id"],
            workload_id=source["workload_id"],
            client_id=source["client_id"],
            timestamp=source["timestamp"],
            request=self._frame(request["prompt"]).request(
                request["first"], request["last"], request["text"]
            ),
            response=source["response"],
            label=source["label"],
            known_at=source.get("known_at"),
            labelled_by=source.get("labelled_by", "application"),
        )
