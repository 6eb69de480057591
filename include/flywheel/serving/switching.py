"""Waiting until the endpoint answers with a champion: what the DAG's task `serve` does.

The endpoint follows the champions by itself, and says at `/health/ready` which adapter answers for whom.
Every address that its name has is asked, so that with a headless Service all replicas must have switched.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx

from flywheel.common.errors import ServingError

_EACH_SECONDS = 5.0
_STILL = "what answered before still does"


def wait_until_served(
    url: str,
    *,
    workload: str,
    client: str,
    adapter: str,
    seconds: float,
    say: Callable[[str], None],
    pause: float = 0.5,
) -> None:
    """Return when the endpoint answers with an adapter.

    Args:
        url: of the endpoint, with or without `/v1`.
        seconds: to wait at most.
        say: hears what is waited for, once for each change.

    Raises:
        ServingError: it cannot load the adapter, or does not answer with it in time; the reason in its words.
            What answered before still does.
    """
    url = url.rstrip("/").removesuffix("/v1")
    deadline, said = time.monotonic() + seconds, ""
    while True:
        found = [_state(*place, workload, client, adapter) for place in _places(url)]
        waiting = [state for state in found if state != ""]
        if found and not waiting:
            say(f"{url} answers {workload} with {adapter}, at {len(found)} address(es)")
            return
        reason = waiting[0] if waiting else f"{url}: its name has no address"
        if reason != said:
            say(reason)
            said = reason
        if time.monotonic() > deadline:
            raise ServingError(f"not served after {seconds:g} seconds: {reason}; {_STILL}")
        time.sleep(pause)


def _places(url: str) -> list[tuple[httpx.URL, str]]:
    """Return the addresses that the name of a URL has, and the name."""
    named = httpx.URL(url)
    port = named.port or (443 if named.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(named.host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    addresses = sorted({str(entry[4][0]) for entry in found})
    if named.host == "localhost":
        addresses = addresses[:1]  # IPv4 and IPv6 of the same server, which may listen on one of them
    return [(named.copy_with(host=address), named.netloc.decode()) for address in addresses]


def _state(place: httpx.URL, name: str, workload: str, client: str, adapter: str) -> str:
    """Return what is waited for at one address; "" where it answers with the adapter.

    Raises:
        ServingError: it cannot load the adapter.
    """
    host = name.rpartition(":")[0] or name
    try:
        with httpx.Client(timeout=_EACH_SECONDS, trust_env=False) as http:
            path = f"{place.path.rstrip('/')}/health/ready"
            body: Any = http.get(
                place.copy_with(path=path), headers={"host": name}, extensions={"sni_hostname": host}
            ).json()
        key = f"{workload}/{client}"
        if body["answers"].get(key) == adapter:
            return ""
        refused = body["refused"].get(key) or {}
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{place.host}: {str(error) or type(error).__name__}"
    if refused.get("adapter") == adapter:
        raise ServingError(f"the endpoint cannot answer with {adapter}: {refused.get('reason')}; {_STILL}")
    return f"{place.host} answers with {body['answers'].get(key) or 'nothing'}, not yet with {adapter}"
