"""Fixtures shared by all tests."""

from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture
def memory_root() -> Iterator[str]:
    """Give the URL of an empty remote artifact root, kept in this process's memory."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield "memory://artifacts"
    files.store.clear()
