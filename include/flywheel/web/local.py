"""Whether a request is of this machine: `api.token_required: false` lets only such do without a token.

What counts is what the server listens on, not what a request says of itself: a proxy with its usual settings
passes requests on from this machine, with this machine's name, and adds no header. So the server has to
listen on loopback addresses alone, and Airflow must not know itself by another name (`[api] base_url`), as it
does where a proxy publishes it. The request's own ends and headers are looked at on top of that.
"""

from __future__ import annotations

import ipaddress
from functools import cache
from urllib.parse import urlsplit

import psutil
from airflow.configuration import conf
from fastapi import Request

_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def is_local(request: Request) -> bool:
    """Return whether a request was sent on this machine, to this machine, by no page of another site."""
    server = request.scope.get("server")
    return (
        request.client is not None
        and is_loopback(request.client.host)
        and server is not None
        and is_loopback(server[0])
        and not any(name in request.headers for name in _PROXY_HEADERS)
        and is_loopback(_host(request.headers.get("host", "")))
        and not is_cross_site(request)
        and listens_on_loopback_alone(server[1])
        and is_published_nowhere()
    )


@cache
def listens_on_loopback_alone(port: int) -> bool:
    """Return whether this process takes connections to a port on loopback addresses and on no other.

    Of a server that hands its connections on from another process nothing is known: then it does not.
    """
    connections = psutil.Process().net_connections(kind="tcp")
    hosts = [
        connection.laddr.ip
        for connection in connections
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    return bool(hosts) and all(map(is_loopback, hosts))


def is_published_nowhere() -> bool:
    """Return whether Airflow knows itself by no address that others reach."""
    address = conf.get("api", "base_url", fallback="")
    return not address or is_loopback(urlsplit(address).hostname or "")


def is_cross_site(request: Request) -> bool:
    """Return whether a browser says that a page of another origin sent a request."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower()


def is_loopback(host: str) -> bool:
    """Return whether a name or address is this machine's alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(value: str) -> str:
    return urlsplit(f"//{value}").hostname or ""
