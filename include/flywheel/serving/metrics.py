"""What Prometheus is told about the endpoint, at `/metrics`: requests, those in flight, how long they took.

A model's name is one of the endpoint's own, so that no caller makes new series: candidates are `candidate`,
names that are none are `unknown`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Passing:
    """A request on its way; `model` and `status` are filled in as they become known."""

    model = "unknown"
    status = 500


class Metrics:
    """Counts of one endpoint; each has its own, so that several may live in a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = {"registry": self._registry, "namespace": "flywheel", "subsystem": "serving"}
        self._in_flight = Gauge("in_flight", "Chat completions that have come and are not answered.", **own)
        self._requests = Counter("requests", "Chat completions answered.", ["model", "status"], **own)
        self._seconds = Histogram(
            "seconds", "From a request's arrival to its answer.", ["model"], buckets=_SECONDS, **own
        )
        self._listeners = Histogram(
            "listener_seconds",
            "What a listener took of an answer: cascade with its teacher, log until it is on the disk.",
            ["listener"],
            buckets=_SECONDS,
            **own,
        )
        self._champion = Gauge(
            "champion", "1: the adapter that answers by this name.", ["model", "adapter"], **own
        )

    @contextmanager
    def request(self) -> Iterator[Passing]:
        """Count a chat completion, answered or refused."""
        passing, began = Passing(), time.perf_counter()
        self._in_flight.inc()
        try:
            yield passing
        finally:
            self._in_flight.dec()
            self._requests.labels(passing.model, str(passing.status)).inc()
            self._seconds.labels(passing.model).observe(time.perf_counter() - began)

    @contextmanager
    def listener(self, name: str) -> Iterator[None]:
        """Time a listener of an answer."""
        with self._listeners.labels(name).time():
            yield

    def exposition(self, champions: Mapping[str, str]) -> bytes:
        """Return all of it in Prometheus' text form.

        Args:
            champions: keys of the adapters that answer, by name.
        """
        self._champion.clear()
        for name, adapter in champions.items():
            self._champion.labels(name, adapter).set(1)
        return bytes(generate_latest(self._registry))
