"""Records that are written again: the earliest `known_at` and the strongest `labelled_by` stay.

Documents are created and never replaced; these two fields alone may change, by a partial update on the very
version that was looked at. Where another process updated one meanwhile, it is looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from flywheel.common.patience import Patience
from flywheel.stores.elasticsearch.bulk import Document
from flywheel.stores.elasticsearch.client import BUSY_STATUSES, Cluster, StoreBusyError
from flywheel.stores.elasticsearch.product import reason_of
from flywheel.workloads.records import STRENGTH, LabelledBy

Known = tuple[int | None, LabelledBy]
_CONFLICT = 409


def put_again(cluster: Cluster, index: str, documents: Sequence[Document]) -> None:
    """Bring what is there to what these documents know, where that is earlier or stronger.

    Raises:
        StoreError: the server cannot be used, or refuses an update.
    """
    patience = cluster.patience("write documents")
    left = [document for document in documents if document.known is not None]
    while left:
        found = cluster.call(
            "look at documents",
            cluster.client.mget,
            index=index,
            ids=[document.id for document in left],
            source_includes=["known_at", "labelled_by"],
        )["docs"]
        changed: list[tuple[Document, dict[str, Any], dict[str, Any]]] = []
        for document, there in zip(left, found, strict=True):
            source = there.get("_source", {})
            change = changes(source.get("known_at"), source.get("labelled_by"), document.known)
            if there.get("found") and change:
                changed.append((document, there, change))
        left = _update(cluster, index, changed, patience) if changed else []


def changes(known_at: int | None, labelled_by: LabelledBy | None, new: Known) -> dict[str, Any]:
    """Return the fields that a record which is written again changes.

    Args:
        known_at, labelled_by: what is there; without `labelled_by`, a guess of an earlier version that what
            a source says now replaces, and a post does not.
        new: what is written.
    """
    new_at, new_by = new
    if new_at is None:
        return {}
    if labelled_by is None:
        return {} if new_by == "posted" else {"known_at": new_at, "labelled_by": new_by}
    change: dict[str, Any] = {}
    if known_at is None or new_at < known_at:
        change["known_at"] = new_at
    if STRENGTH.index(new_by) < STRENGTH.index(labelled_by):
        change["labelled_by"] = new_by
    return change


def _update(
    cluster: Cluster,
    index: str,
    changed: Sequence[tuple[Document, dict[str, Any], dict[str, Any]]],
    patience: Patience,
) -> list[Document]:
    """Update documents; return those to look at again."""
    lines: list[bytes] = []
    for document, there, change in changed:
        at = {"_id": document.id, "if_seq_no": there["_seq_no"], "if_primary_term": there["_primary_term"]}
        lines += [orjson.dumps({"update": at}), orjson.dumps({"doc": change})]
    again: list[Document] = []
    for (document, _, _), item in zip(changed, cluster.bulk(index, lines), strict=True):
        status, error = item["update"]["status"], item["update"].get("error")
        if status < 300:
            continue
        if status == _CONFLICT:
            again.append(document)
        elif status in BUSY_STATUSES:
            patience.wait(StoreBusyError(reason_of(error)))
            again.append(document)
        else:
            raise cluster.error(f"{index} refuses the document {document.id}: {reason_of(error)}")
    return again
