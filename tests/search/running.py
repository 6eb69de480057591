"""Start a node for tests, or skip them with the reason why it cannot run here."""

from __future__ import annotations

import os

import pytest

from tests.search.node import SearchNode, UnavailableError

VARIABLE = "AIRFLOW_CONN_FLYWHEEL_ELASTICSEARCH"


def start_node(**options: bool | int) -> SearchNode:
    """Return a running node; skip where the machine cannot run it, and fail where that is CI."""
    try:
        node = SearchNode(**options)
    except UnavailableError as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(reason))
    return node.__enter__()
