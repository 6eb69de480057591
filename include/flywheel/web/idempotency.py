"""A POST that a client sends again, with the same `Idempotency-Key`, is done once and answered alike.

After draft-ietf-httpapi-idempotency-key-header: another body under the same key is a 422, the same request
while the first is being done a 409. Answers are kept for a day, in the artifact root; an error is not kept,
so that the request may be sent again.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar, cast

import orjson
from fastapi import Header, Response
from pydantic import BaseModel

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.errors import ArtifactError
from flywheel.web import settings
from flywheel.web.problems import Problem

Given = TypeVar("Given", bound=BaseModel)

log = logging.getLogger(__name__)

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key again, with the same body, gives the same answer and does nothing.",
        examples=["6f1c2a9e-nightly-2026-03-01"],
    ),
]

_FOLDER = "idempotency"
_ABANDONED_SECONDS = 600.0
_lock = threading.Lock()
_running: set[str] = set()


def once(user: Any, route: str, key: str | None, asked: BaseModel, work: Callable[[], Given]) -> Given:
    """Do work, or return what it gave when it was asked for before under the same key.

    That is then the response itself, which a route may return in place of its model.

    Raises:
        Problem: the key stands for another request, or for one that is being done.
    """
    if key is None:
        return work()
    root = settings.artifact_root(settings.config().artifacts.root)
    name = hashlib.sha256(f"{user.get_id()}\0{route}\0{key}".encode()).hexdigest()[:40]
    fingerprint = key_of(asked.model_dump(mode="json"))
    with _lock:
        if name in _running:
            raise _in_progress()
        _running.add(name)
    try:
        kept = _find(root, name)
        if kept is not None:
            return cast(Given, _replay(kept, fingerprint))
        path = f"{_FOLDER}/{_day(0)}/{name}.json"
        _claim(root, path, fingerprint)
        try:
            given = work()
        except BaseException:
            root.discard(path)
            raise
        body = given.model_dump(mode="json")
        root.write_json(path, {"fingerprint": fingerprint, "at": time.time(), "body": body})
        _sweep(root)
        return given
    finally:
        with _lock:
            _running.discard(name)


def _replay(kept: dict[str, Any], fingerprint: str) -> Response:
    if kept["fingerprint"] != fingerprint:
        raise Problem(422, "Idempotency-Key: this key stands for another request; take a new one.")
    if kept.get("body") is None:
        raise _in_progress()
    return Response(
        orjson.dumps(kept["body"]), media_type="application/json", headers={"Idempotent-Replayed": "true"}
    )


def _in_progress() -> Problem:
    return Problem(409, "A request with this Idempotency-Key is being done.", headers={"Retry-After": "2"})


def _find(root: ArtifactRoot, name: str) -> dict[str, Any] | None:
    for days in (0, 1):
        try:
            kept: dict[str, Any] = root.read_json(f"{_FOLDER}/{_day(days)}/{name}.json")
        except ArtifactError:
            continue
        abandoned = kept.get("body") is None and time.time() - kept["at"] > _ABANDONED_SECONDS
        if not abandoned:
            return kept
        root.discard(f"{_FOLDER}/{_day(days)}/{name}.json")
    return None


def _claim(root: ArtifactRoot, path: str, fingerprint: str) -> None:
    """Write down that a request is being done; another process may have begun it in this moment."""
    data = orjson.dumps({"fingerprint": fingerprint, "at": time.time(), "body": None})
    try:
        root.create(path, data)
    except FileExistsError:
        raise _in_progress() from None


def _sweep(root: ArtifactRoot) -> None:
    """Remove the answers of the days before yesterday."""
    for day in root.list(_FOLDER):
        if day < _day(1):
            try:
                root.remove_tree(f"{_FOLDER}/{day}")
            except OSError as error:
                log.info("old answers of %s stay: %s", day, error)


def _day(ago: int) -> str:
    return (datetime.now(UTC) - timedelta(days=ago)).strftime("%Y-%m-%d")
