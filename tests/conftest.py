"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator

import fsspec
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the drills out where they are not asked for (docs/testing.md)."""
    if os.environ.get("FLYWHEEL_DRILL") != "full":
        for item in items:
            if item.get_closest_marker("drill"):
                item.add_marker(pytest.mark.skip(reason="a drill, for minutes: make drills"))


@pytest.fixture
def memory_root() -> Iterator[str]:
    """Give the URL of an empty remote artifact root, kept in this process's memory."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield "memory://artifacts"
    files.store.clear()
