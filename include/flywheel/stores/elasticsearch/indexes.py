"""The indexes of the store: templates with strict mappings, one alias each, and how they become newer ones.

`PREFIX-records`, `PREFIX-prompts`, `PREFIX-answers` and `PREFIX-owners` are aliases, and all work goes
through them. Behind each stands one index, `PREFIX-records-v1`, made from the composable template
`PREFIX-records`; the number is the version of its mappings, which their `_meta.flywheel_version` says as
well. A newer flywheel makes the index of the next version, copies the documents over, and switches the
alias: in one step, so readers see either all of the old index or all of the new one. Meanwhile the old one
takes no writes: writers wait. A migration that was killed is taken up by whoever opens the store next;
documents have ids, so copying some again does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from elasticsearch import ApiError, NotFoundError

from flywheel.common.errors import StoreError
from flywheel.stores.elasticsearch.bulk import BulkWriter, Document
from flywheel.stores.elasticsearch.client import Cluster
from flywheel.stores.elasticsearch.paging import pages
from flywheel.stores.elasticsearch.product import reason_of
from flywheel.stores.elasticsearch.windows import windows

log = logging.getLogger(__name__)

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

_KEYWORD = {"type": "keyword"}
_STORED_TEXT = {"type": "keyword", "index": False, "doc_values": False}
_STORED_OBJECT = {"type": "object", "enabled": False}
_DATE = {"type": "date", "format": "epoch_second"}
_SORT_KEY = {"type": "keyword", "index": False}


@dataclass(frozen=True)
class Schema:
    """A kind of documents: the name of its alias behind the prefix, and its mappings.

    Attributes:
        time: a date field that every document has.
        key: a keyword field, the same as the document's id, that documents of one time are sorted by.
        version: raised when `properties` change.
        upgrades: by version, what makes a document of it one of the next version.
    """

    name: str
    time: str
    key: str
    version: int
    properties: Mapping[str, Any]
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)


def _known(document: dict[str, Any]) -> dict[str, Any]:
    """Return a record of version 1 with `known_at`: its timestamp, though not after now, for it is here.

    Who labelled it is told by the sources that give it again (see `flywheel.stores.elasticsearch.again`).
    """
    if document["timestamp"] > 0:
        document["known_at"] = min(document["timestamp"], int(time.time()))
    return document


# `request` holds what differs from a prompt (see flywheel.stores.prompts), `response` is as logged.
RECORDS = Schema(
    "records",
    time="timestamp",
    key="id",
    version=2,
    properties={
        "id": _SORT_KEY,
        "workload_id": _KEYWORD,
        "client_id": _KEYWORD,
        "timestamp": _DATE,
        "label": _KEYWORD,
        "request": _STORED_OBJECT,
        "response": _STORED_OBJECT,
        "batch": _STORED_TEXT,
        "known_at": _DATE,
        "labelled_by": _KEYWORD,
    },
    upgrades={1: _known},
)
PROMPTS = Schema(
    "prompts",
    time="created",
    key="id",
    version=1,
    properties={
        "id": _SORT_KEY,
        "skeleton": _KEYWORD,
        "created": _DATE,
        "request": _STORED_OBJECT,
    },
)
ANSWERS = Schema(
    "answers",
    time="created",
    key="key",
    version=1,
    properties={
        "key": _SORT_KEY,
        "model": _KEYWORD,
        "created": _DATE,
        "content": _STORED_TEXT,
        "usage": _STORED_OBJECT,
    },
)
OWNERS = Schema(  # who has asked for an answer
    "owners",
    time="created",
    key="id",
    version=1,
    properties={
        "id": _SORT_KEY,
        "created": _DATE,
        "workload_id": _KEYWORD,
        "client_id": _KEYWORD,
        "key": _KEYWORD,
    },
)
SCHEMAS = (RECORDS, PROMPTS, ANSWERS, OWNERS)


class Indexes:
    """The indexes behind one prefix.

    Args:
        replicas: copies of each shard; None lets the cluster decide.
    """

    def __init__(self, cluster: Cluster, prefix: str, shards: int, replicas: int | None) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._settings: dict[str, Any] = {
            "number_of_shards": shards,
            # Nobody waits for a search to see what was just written: who reads asks for a refresh first.
            "refresh_interval": "30s",
            **({"auto_expand_replicas": "0-1"} if replicas is None else {"number_of_replicas": replicas}),
        }

    def alias(self, schema: Schema) -> str:
        """Return the name that documents of a schema are read and written by."""
        return f"{self._prefix}-{schema.name}"

    def prepare(self, schema: Schema) -> None:
        """Make the index, or bring it to the schema's version.

        Raises:
            StoreError: a newer flywheel made it, or it is not flywheel's.
        """
        there = self._there(schema)
        if schema.version in there.values() and len(there) == 1:
            return
        for index, version in there.items():
            if version > schema.version:
                raise self._cluster.error(
                    f"a newer flywheel made {index} (version {version}, this one knows "
                    f"{schema.version}); install that version, or choose another "
                    "store.elasticsearch.index"
                )
        self._put_template(schema)
        old = {index: version for index, version in there.items() if version < schema.version}
        if not old:
            self._make(schema, with_alias=True)
        for index, version in old.items():
            self._migrate(schema, index, version)

    def _index(self, schema: Schema) -> str:
        return f"{self.alias(schema)}-v{schema.version}"

    def _there(self, schema: Schema) -> dict[str, int]:
        """Return the indexes behind the alias with their versions."""
        alias = self.alias(schema)
        try:
            found = self._cluster.call(f"look for the alias {alias}", self._mapping, alias)
        except StoreError as error:
            if isinstance(error.__cause__, NotFoundError):
                return {}
            raise
        versions = {}
        for index, body in found.items():
            version = body["mappings"].get("_meta", {}).get("flywheel_version")
            if not isinstance(version, int) or index == alias:
                raise self._cluster.error(
                    f"{index} is not flywheel's; choose another store.elasticsearch.index"
                )
            versions[index] = version
        return versions

    def _mapping(self, alias: str) -> dict[str, Any]:
        return dict(self._cluster.client.indices.get_mapping(index=alias).body)

    def _put_template(self, schema: Schema) -> None:
        alias = self.alias(schema)
        self._cluster.call(
            f"make the index template {alias}",
            self._cluster.client.indices.put_index_template,
            name=alias,
            index_patterns=[f"{alias}-v*"],
            priority=500,
            version=schema.version,
            template={
                "settings": self._settings,
                "mappings": {
                    "dynamic": "strict",
                    "_meta": {"flywheel_version": schema.version},
                    "properties": dict(schema.properties),
                },
            },
            meta={"description": f"{schema.name} of flywheel, see docs/elasticsearch.md"},
        )

    def _make(self, schema: Schema, *, with_alias: bool) -> None:
        """Make the index of the schema's version; that another process just did is as good."""
        index = self._index(schema)
        aliases = {self.alias(schema): {"is_write_index": True}} if with_alias else {}
        try:
            self._cluster.call(
                f"make the index {index}", self._cluster.client.indices.create, index=index, aliases=aliases
            )
        except StoreError as error:
            cause = error.__cause__
            if not (isinstance(cause, ApiError) and "already exists" in reason_of(cause.body)):
                raise
        self._cluster.call(
            f"wait for the index {index}",
            self._cluster.client.cluster.health,
            index=index,
            wait_for_status="yellow",
            timeout="30s",
        )

    def _migrate(self, schema: Schema, old: str, version: int) -> None:
        new, alias = self._index(schema), self.alias(schema)
        client, call = self._cluster.client, self._cluster.call
        log.info("bringing %s to version %d: copying %s", alias, schema.version, old)
        self._make(schema, with_alias=False)
        try:
            call(f"stop writes to {old}", client.indices.add_block, index=old, block="write")
            call(f"refresh {old}", client.indices.refresh, index=old)
            with BulkWriter(self._cluster, new) as writer:
                for document in self._upgraded(schema, old, version):
                    writer.add(document)
            call(f"refresh {new}", client.indices.refresh, index=new)
            counts = [call("count documents", client.count, index=name)["count"] for name in (old, new)]
        except StoreError as error:
            if isinstance(error.__cause__, NotFoundError) and self._there(schema) == {new: schema.version}:
                return  # another process was faster
            raise
        if counts[1] < counts[0]:
            raise self._cluster.error(
                f"{old} has {counts[0]} documents, its copy {new} only {counts[1]}; nothing was switched, "
                "run this again"
            )
        actions: Sequence[dict[str, Any]] = (
            {"add": {"index": new, "alias": alias, "is_write_index": True}},
            {"remove_index": {"index": old}},
        )
        try:
            call(f"switch the alias {alias}", client.indices.update_aliases, actions=actions)
        except StoreError as error:
            if not isinstance(error.__cause__, NotFoundError):
                raise
        log.info("%s is at version %d: %d documents", alias, schema.version, counts[1])

    def _upgraded(self, schema: Schema, old: str, version: int) -> Iterator[Document]:
        queries = windows(self._cluster, old, schema.time)
        for page in pages(self._cluster, old, queries, [schema.time, schema.key]):
            for hit in page:
                source = hit["_source"]
                for step in range(version, schema.version):
                    upgrade = schema.upgrades.get(step)
                    source = upgrade(source) if upgrade else source
                yield Document(source[schema.key], orjson.dumps(source))
