"""The store `elasticsearch`: see docs/elasticsearch.md for its indexes and the rights it needs."""

from flywheel.stores.elasticsearch.store import ElasticsearchStore

__all__ = ["ElasticsearchStore"]
