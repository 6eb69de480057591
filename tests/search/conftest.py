"""One node for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from flywheel.config.store import ElasticsearchConfig
from flywheel.stores.elasticsearch import ElasticsearchStore
from tests.search.node import SearchNode
from tests.search.running import VARIABLE, start_node


@pytest.fixture(scope="session")
def node() -> Iterator[SearchNode]:
    running = start_node()
    try:
        yield running
    finally:
        running.delete()


@pytest.fixture
def connected(node: SearchNode, monkeypatch: pytest.MonkeyPatch) -> SearchNode:
    """Give the node, with the default connection set to its user `flywheel`."""
    monkeypatch.setenv(VARIABLE, node.connection())
    return node


_numbers = iter(range(1, 1_000_000))


@pytest.fixture
def config(connected: SearchNode) -> ElasticsearchConfig:
    """Give the configuration of a store that no other test uses."""
    return ElasticsearchConfig(index=f"flywheel-test{os.getpid()}-{next(_numbers)}", wait_seconds=60)


@pytest.fixture
def store(config: ElasticsearchConfig) -> Iterator[ElasticsearchStore]:
    with ElasticsearchStore(config) as opened:
        yield opened
