"""The Elasticsearch store: the contract of all stores, on a real node."""

from collections.abc import Iterator

import pytest

from flywheel.config.store import ElasticsearchConfig
from flywheel.stores import RecordStore
from flywheel.stores.elasticsearch import ElasticsearchStore
from tests.unit.store_contract import StoreContract


class TestElasticsearchStore(StoreContract):
    @pytest.fixture
    def store(self, config: ElasticsearchConfig) -> Iterator[RecordStore]:
        with ElasticsearchStore(config) as opened:
            yield opened

    def reopen(self, store: RecordStore) -> RecordStore:
        assert isinstance(store, ElasticsearchStore)
        return ElasticsearchStore(store.config)
