"""Who may ask the endpoint, for which models, and how much: keys by their hash, each with its limits."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from flywheel.common.connections import find_connection
from flywheel.common.errors import ConfigError
from flywheel.config.serving import ServingKey
from flywheel.serving.openai import ApiError


class Caller:
    """One key, and what its requests have used of its limits.

    Requests a minute are a token bucket: a minute's worth may come at once, then they come as it fills.

    Args:
        key: of the config.
        clock: seconds.
    """

    def __init__(self, key: ServingKey, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self._key, self._clock = key.name, key, clock
        self._left, self._seen, self._at_once = float(key.per_minute or 0), clock(), 0

    def may_ask(self, model: str) -> bool:
        """Whether a model is among those of the key."""
        return not self._key.models or any(fnmatchcase(model, pattern) for pattern in self._key.models)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Take a request's place within the key's limits, until it is answered.

        Raises:
            ApiError: 429, with the seconds after which to come again.
        """
        if self._key.at_once is not None and self._at_once >= self._key.at_once:
            raise _too_many(f"this key may have {self._key.at_once} requests answered at once", 1)
        if self._key.per_minute is not None:
            now, rate = self._clock(), self._key.per_minute / 60
            self._left = min(self._key.per_minute, self._left + (now - self._seen) * rate)
            self._seen = now
            if self._left < 1:
                wait = math.ceil((1 - self._left) / rate)
                raise _too_many(f"this key may send {self._key.per_minute} requests a minute", wait)
            self._left -= 1
        self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1


class Door:
    """Lets requests in whose key is known; without keys all are, for only this machine is listened to.

    Args:
        keys: of the config; those of connections are looked up now, and hashed.

    Raises:
        ConfigError: a key's connection is missing or holds none.
    """

    def __init__(self, keys: Sequence[ServingKey]) -> None:
        self._callers = [(_digest_of(key), Caller(key)) for key in keys]

    def admit(self, authorization: str) -> Caller | None:
        """Return whose key a request has; None where there are no keys.

        Args:
            authorization: the header.

        Raises:
            ApiError: 401, its key is missing or unknown.
        """
        if not self._callers:
            return None
        scheme, _, key = authorization.partition(" ")
        given = hashlib.sha256(key.strip().encode()).hexdigest()
        known = [caller for digest, caller in self._callers if hmac.compare_digest(digest, given)]
        if scheme.lower() != "bearer" or not known:
            said = "this endpoint asks for a key: Authorization: Bearer KEY"
            raise ApiError(401, said, code="invalid_api_key")
        return known[0]


def _digest_of(key: ServingKey) -> str:
    if key.sha256 is not None:
        return key.sha256
    assert key.connection is not None
    found = find_connection(key.connection, ConfigError)
    if found is None or not found.password:
        raise ConfigError(
            f"serving.keys: {key.name}: the Airflow connection {key.connection} is missing or has no "
            "password; it holds the key"
        )
    return hashlib.sha256(found.password.encode()).hexdigest()


def _too_many(said: str, wait: int) -> ApiError:
    kind, code = "rate_limit_error", "rate_limit_exceeded"
    return ApiError(429, f"{said}; come again", kind=kind, code=code, retry_after=wait)
