"""Writes documents in bulk: several batches on their way, a bound on their bytes, each document by itself.

- A document is created under its id and never replaced: one that is there already stays.
- What the server has no room for now (429), or lost on the way (a node restarted), is sent again, and that
  alone; what it refuses for good is handed back with its reason.
- Documents are serialized once, by the caller, and go to the socket as they are.
- After a lost answer nobody knows what became of its batch: a document that is then "already there" may have
  come with it. Where documents carry the batch's mark (`BulkWriter.mark`), they are asked whose they are,
  so that each is counted as what it is.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from elastic_transport import ConnectionError as TransportConnectionError
from elastic_transport import ConnectionTimeout
from elasticsearch import ApiError

from flywheel.stores.elasticsearch.client import BUSY_STATUSES, NDJSON, Cluster, StoreBusyError
from flywheel.stores.elasticsearch.product import reason_of

log = logging.getLogger(__name__)

# A batch ends with whichever comes first. Of batches of 1 to 16 MB, those of about 2 are fastest.
BATCH_DOCUMENTS = 2_000
BATCH_BYTES = 2_000_000
SENDERS = 2
_MARK_FIELD = "batch"


@dataclass(frozen=True, slots=True)
class Document:
    """A document, serialized, and what its caller wants to know it by.

    Attributes:
        content: one line of JSON without its end.
        origin: handed back if the server refuses the document.
        known: what may change in a document that is there already, for the writer's `again`.
    """

    id: str
    content: bytes
    origin: Any = None
    known: Any = None


@dataclass(slots=True)
class Results:
    """What became of documents; `refused` with the server's reasons."""

    written: int = 0
    already_there: int = 0
    refused: list[tuple[Document, str]] = field(default_factory=list)


class BulkWriter:
    """A context in which documents are added; at its end all are on the server's disk, or refused.

    Args:
        index: an alias or index, which must exist.
        refused: called, in the thread of the caller, with each refused document and the reason; None makes
            a refusal an error.
        again: called, in a sender's thread, with the cluster, the index and the documents that are there
            already.
    """

    def __init__(
        self,
        cluster: Cluster,
        index: str,
        refused: Callable[[Document, str], None] | None = None,
        again: Callable[[Cluster, str, Sequence[Document]], None] | None = None,
    ) -> None:
        self._cluster = cluster
        self._path = f"/{index}/_bulk"
        self._index = index
        self._refused = refused
        self._again = again
        self._run = os.urandom(6).hex()
        self._number = 0
        self._batch: dict[str, Document] = {}
        self._bytes = 0
        self._on_their_way: deque[Future[Results]] = deque()
        self._senders = ThreadPoolExecutor(SENDERS, thread_name_prefix="bulk")
        self.written = 0
        self.already_there = 0

    @property
    def mark(self) -> str:
        """The mark of the batch that the next document goes into, for its field `batch`."""
        return f"{self._run}-{self._number}"

    def add(self, document: Document) -> None:
        """Add a document; waits while enough are on their way.

        Raises:
            StoreError: the server cannot be used, or refused an earlier document.
        """
        if document.id in self._batch:
            if self._again is None or document.known == self._batch[document.id].known:
                self.already_there += 1
                return
            self._send()
        self._batch[document.id] = document
        self._bytes += len(document.content) + 64
        if len(self._batch) >= BATCH_DOCUMENTS or self._bytes >= BATCH_BYTES:
            self._send()

    def _send(self) -> None:
        # One more than there are senders, so that each finds work when it is done.
        while len(self._on_their_way) > SENDERS:
            self._settle()
        self._on_their_way.append(self._senders.submit(self._deliver, list(self._batch.values()), self.mark))
        self._batch, self._bytes = {}, 0
        self._number += 1

    def _settle(self) -> None:
        results = self._on_their_way.popleft().result()
        self.written += results.written
        self.already_there += results.already_there
        for document, reason in results.refused:
            if self._refused is None:
                raise self._cluster.error(f"{self._index} refuses the document {document.id}: {reason}")
            self._refused(document, reason)

    def finish(self) -> None:
        """Send what is left and wait for all."""
        if self._batch:
            self._send()
        while self._on_their_way:
            self._settle()

    # -- in the threads of the senders -----------------------------------------------------------------

    def _deliver(self, documents: list[Document], mark: str) -> Results:
        """Send a batch until each of its documents is written, there, or refused."""
        results = Results()
        patience = self._cluster.patience("write documents")
        answer_lost = False
        while documents:
            try:
                answer = self._post(documents)
            except ApiError as failure:
                if failure.status_code in (400, 413):  # too long, or one of them makes all of them invalid
                    return self._deliver_halves(documents, mark, results, failure)
                patience.wait(failure)
                answer_lost = answer_lost or failure.status_code in (502, 504)
                continue
            except (TransportConnectionError, ConnectionTimeout) as failure:
                patience.wait(failure)
                answer_lost = True
                continue
            if not answer["errors"]:
                results.written += len(documents)
                break
            again: list[Document] = []
            there: list[Document] = []
            busy = None
            for document, item in zip(documents, answer["items"], strict=True):
                status, error = item["create"]["status"], item["create"].get("error")
                if status == 201:
                    results.written += 1
                elif status == 409:
                    there.append(document)
                elif status in BUSY_STATUSES or "blocked" in reason_of(error):
                    again.append(document)
                    busy = error
                else:
                    results.refused.append((document, reason_of(error)))
            ours = self._marked(there, mark) if answer_lost and there else 0
            results.written += ours
            results.already_there += len(there) - ours
            if there and self._again is not None:
                self._again(self._cluster, self._index, there)
            if len(again) < len(documents):
                patience.reset()
            if again:
                patience.wait(StoreBusyError(f"{len(again)} documents: {reason_of(busy)}"))
            documents = again
        return results

    def _post(self, documents: Sequence[Document]) -> Any:
        lines: list[bytes] = []
        for document in documents:
            lines += (b'{"create":{"_id":"%b"}}' % document.id.encode(), document.content)
        lines.append(b"")
        return self._cluster.client.perform_request(
            "POST",
            self._path,
            params={
                "filter_path": "errors,items.create.status,items.create.error.type,items.create.error.reason,"
                "items.create.error.caused_by.reason",
            },
            headers=NDJSON,
            body=b"\n".join(lines),
        )

    def _deliver_halves(
        self, documents: list[Document], mark: str, results: Results, failure: ApiError
    ) -> Results:
        """Send in two what the server refuses to look at; a single document is refused."""
        if len(documents) == 1:
            results.refused.append((documents[0], reason_of(failure.body) or f"HTTP {failure.status_code}"))
            return results
        middle = len(documents) // 2
        for half in (documents[:middle], documents[middle:]):
            part = self._deliver(half, mark)
            results.written += part.written
            results.already_there += part.already_there
            results.refused += part.refused
        return results

    def _marked(self, documents: Sequence[Document], mark: str) -> int:
        """Return how many of these documents came with this batch."""
        if mark.encode() not in documents[0].content:
            return 0
        found = self._cluster.call(
            "look at documents",
            self._cluster.client.mget,
            index=self._index,
            ids=[document.id for document in documents],
            source_includes=[_MARK_FIELD],
        )
        return sum(doc.get("_source", {}).get(_MARK_FIELD) == mark for doc in found["docs"])

    # -- context -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._senders.shutdown(cancel_futures=True)
