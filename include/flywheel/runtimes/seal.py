"""A seal on what tasks tell each other, so that nobody else can tell it.

With Airflow's simple auth manager, whoever may start a run may also write its XComs: one that names another
folder would have the next task read its plan, with an interpreter of the writer's, from there, and one of
`review` would approve. So what decides is told with an HMAC under Airflow's fernet key, which tasks and API
server have and users do not. Without a fernet key anybody can seal; all of our installations have one.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from airflow.configuration import conf

_SEAL = "seal"


def sealed(kind: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told, with its seal.

    Args:
        kind: what it is about: one thing told does not pass for another.
    """
    return {**told, _SEAL: _sealed_with(_keys()[0], kind, told)}


def is_sealed(kind: str, told: Any) -> bool:
    """Return whether something was told by a task of ours, and is as it was told."""
    if not isinstance(told, Mapping) or not isinstance(told.get(_SEAL), str):
        return False
    said = {name: value for name, value in told.items() if name != _SEAL}
    return any(hmac.compare_digest(_sealed_with(key, kind, said), told[_SEAL]) for key in _keys())


def _sealed_with(key: bytes, kind: str, told: Mapping[str, Any]) -> str:
    return hmac.digest(key, json.dumps([kind, told], sort_keys=True).encode(), "sha256").hex()


@cache
def _keys() -> list[bytes]:
    """Return Airflow's fernet keys, the one in force first: there are more while they are changed."""
    keys = str(conf.get("core", "fernet_key", fallback="") or "").split(",")
    return [b"flywheel " + key.strip().encode() for key in keys]
