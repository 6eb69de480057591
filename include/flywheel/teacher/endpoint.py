"""Where the teacher is, and the key to it: from the environment, the configuration or Airflow's connections.

| | first | then | then |
|---|---|---|---|
| address | FLYWHEEL_TEACHER_BASE_URL | `teacher.base_url` | the connection `teacher.connection` |
| key | FLYWHEEL_TEACHER_API_KEY | the connection's password, if the address came from it | none |

The key is sent as `Authorization: Bearer KEY`, or alone in the header that `teacher.key_header` names;
`teacher.headers` adds others, whose values come from variables or the connection's extra.

The connection's password and extra are sent to the connection's own host only. A connection is, as everywhere
in Airflow, in a secrets backend, an AIRFLOW_CONN_… variable (JSON or URI) or an entry made in its UI; the
variable works without Airflow, too.

`teacher.further_endpoints` adds others with the same model; where FLYWHEEL_TEACHER_BASE_URL is set, they are
left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from flywheel.common.connections import Connection, find_connection
from flywheel.common.errors import TeacherError, UnusableTeacherError
from flywheel.common.redaction import HIDDEN, SHORTEST, clean, register
from flywheel.config.endpoint import Header
from flywheel.config.teacher import TeacherConfig

URL_VARIABLE = "FLYWHEEL_TEACHER_BASE_URL"
KEY_VARIABLE = "FLYWHEEL_TEACHER_API_KEY"
_CHAT = "/chat/completions"


@dataclass(frozen=True)
class Endpoint:
    """The chat-completions URL of an OpenAI-compatible server, with its key and headers, never printed.

    Attributes:
        key_header: the header that the key goes into.
        headers: further ones.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    key_header: str = "Authorization"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        register(self.api_key)

    def own_headers(self) -> dict[str, str]:
        """Return the headers that a call to it must have: its key's and its own."""
        if not self.api_key:
            return dict(self.headers)
        is_bearer = self.key_header.lower() == "authorization"
        return {self.key_header: f"Bearer {self.api_key}" if is_bearer else self.api_key, **self.headers}

    def without_secrets(self, text: str) -> str:
        """Return what it said, without the key and the headers' values that it may have repeated, and
        without escape codes.
        """
        for value in self.headers.values():  # also such as are no secret of ours, but may be one to others
            if len(value) >= SHORTEST:
                text = text.replace(value, HIDDEN)
        return clean(text)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, where no proxy stands between."""
        return urlsplit(self.url).hostname in {"localhost", "127.0.0.1", "::1"}


def resolve_endpoint(config: TeacherConfig) -> Endpoint:
    """Return the teacher's endpoint.

    Raises:
        TeacherError: none is configured, or its address is no http(s) URL.
    """
    base_url, origin = os.environ.get(URL_VARIABLE, "").strip(), URL_VARIABLE
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    if not base_url and config.base_url:
        base_url, origin = config.base_url.strip(), "teacher.base_url"
    connection = None
    if not base_url:
        origin = f"the connection {config.connection!r}"
        connection = find_connection(config.connection, TeacherError)
        if connection is None:
            raise UnusableTeacherError(
                f"the teacher's address is not known: add an Airflow connection {config.connection!r} (host, "
                f"and the key as password), or set {URL_VARIABLE} and {KEY_VARIABLE}, or teacher.base_url in "
                f"the config"
            )
        base_url = _url_of(connection)
        key = key or connection.password.strip()
    return Endpoint(
        chat_url(base_url, origin),
        _usable(key) if key else None,
        config.key_header,
        headers_of(config.headers, "teacher", connection),
    )


def resolve_endpoints(config: TeacherConfig) -> list[Endpoint]:
    """Return the teacher's endpoint and the further ones.

    Raises:
        TeacherError: see `resolve_endpoint`; or a further one has no address, or not the key it should have.
    """
    found = [resolve_endpoint(config)]
    if os.environ.get(URL_VARIABLE, "").strip():
        return found
    for index, further in enumerate(config.further_endpoints):
        where = f"teacher.further_endpoints.{index}"
        connection = None
        if further.connection is not None:
            connection = find_connection(further.connection, TeacherError)
            if connection is None:
                raise TeacherError(
                    f"{where}: add an Airflow connection {further.connection!r}: host, key as password"
                )
            origin = f"the connection {further.connection!r}"
            base_url, key = _url_of(connection), connection.password.strip()
        else:
            origin, base_url = f"{where}.base_url", str(further.base_url)
            key = _key_in(further.key_variable, where) if further.key_variable else ""
        endpoint = Endpoint(
            chat_url(base_url, origin),
            _usable(key) if key else None,
            further.key_header,
            headers_of(further.headers, where, connection),
        )
        if endpoint.url in [other.url for other in found]:
            raise TeacherError(f"{where}: {endpoint.url} is there already; name each endpoint once")
        found.append(endpoint)
    return found


def _key_in(variable: str, where: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TeacherError(f"{where}.key_variable: the environment has no {variable}; set it to the key")
    return key


def _usable(value: str, what: str = "the teacher's key") -> str:
    if not (value.isascii() and value.isprintable()):
        raise TeacherError(f"{what} holds characters that it cannot have, such as a line end")
    return value


def chat_url(base_url: str, origin: str) -> str:
    """Return the chat-completions URL of a base URL; one without a path gets the customary /v1."""
    try:
        parts = urlsplit(base_url)
        parts.port  # noqa: B018  raises on a wrong one
    except ValueError:  # its message may show what is left of a password
        raise TeacherError(f"{origin}: not a URL; check its port and brackets") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        raise TeacherError(
            f"{origin}: expected a URL such as https://integrate.api.nvidia.com/v1; got {shown!r}"
        )
    if "@" in parts.netloc:  # an address is printed in messages, a key must not be
        raise TeacherError(f"{origin}: expected a URL without a user and password; the key has its own place")
    path = parts.path.rstrip("/").removesuffix(_CHAT) or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path + _CHAT, parts.query, ""))


def _url_of(connection: Connection) -> str:
    """Put a base URL together from a connection's fields, as Airflow's HTTP connections are filled in.

    `host` may be the whole URL; else `schema` is the protocol, or the path where a URI put one.
    """
    host, schema, kind = connection.host, connection.schema, connection.conn_type
    if not host:
        raise TeacherError(f"the connection {connection.id!r} has no host; expected the teacher's URL there")
    if "://" in host:
        return host
    protocol = schema if schema in ("http", "https") else kind if kind in ("http", "https") else "https"
    path = "" if schema in ("", "http", "https") else f"/{schema}"
    port = f":{connection.port}" if connection.port else ""
    return f"{protocol}://{host}{port}{path}"


def headers_of(headers: Sequence[Header], where: str, connection: Connection | None = None) -> dict[str, str]:
    """Return the configured headers with their values.

    Args:
        connection: that the address came from, if any: what it holds is sent nowhere else.

    Raises:
        TeacherError: a value is not where it should be.
    """
    found = {}
    for index, header in enumerate(headers):
        key = f"{where}.headers.{index}"
        value: Any = header.value
        if header.variable is not None:
            value = os.environ.get(header.variable, "").strip()
            if not value:
                raise TeacherError(f"{key}.variable: the environment has no {header.variable}; set it")
        elif header.extra is not None:
            if connection is None:
                raise TeacherError(
                    f"{key}.extra: the address comes from no connection, and what a connection holds is "
                    f"sent to its own host alone; use variable"
                )
            value = connection.extra.get(header.extra)
            if not isinstance(value, str) or not value.strip():
                raise TeacherError(
                    f"{key}.extra: the extra of the connection {connection.id!r} has no text {header.extra!r}"
                )
        found[header.name] = _usable(str(value).strip(), f"the value of the header {header.name}")
        if header.value is None:
            register(found[header.name])
    return found
