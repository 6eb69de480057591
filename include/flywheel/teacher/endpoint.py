"""Where the teacher is, and the key to it: from the environment, the configuration or Airflow's connections.

| | first | then | then |
|---|---|---|---|
| address | FLYWHEEL_TEACHER_BASE_URL | `teacher.base_url` | the connection `teacher.connection` |
| key | FLYWHEEL_TEACHER_API_KEY | the connection's password, if the address came from it | none |

The connection's password is sent to the connection's own host only. A connection is, as everywhere in
Airflow, in a secrets backend, an AIRFLOW_CONN_… variable (JSON or URI) or an entry made in its UI; the
variable works without Airflow, too.

`teacher.further_endpoints` adds others with the same model; where FLYWHEEL_TEACHER_BASE_URL is set, they are
left out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from flywheel.config.teacher import TeacherConfig
from flywheel.errors import TeacherError

URL_VARIABLE = "FLYWHEEL_TEACHER_BASE_URL"
KEY_VARIABLE = "FLYWHEEL_TEACHER_API_KEY"
_CHAT = "/chat/completions"


@dataclass(frozen=True)
class Endpoint:
    """The chat-completions URL of an OpenAI-compatible server, and its key, which is never printed."""

    url: str
    api_key: str | None = field(default=None, repr=False)

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
    if not base_url:
        origin = f"the connection {config.connection!r}"
        connection = _connection(config.connection)
        if connection is None:
            raise TeacherError(
                f"the teacher's address is not known: add an Airflow connection {config.connection!r} (host, "
                f"and the key as password), or set {URL_VARIABLE} and {KEY_VARIABLE}, or teacher.base_url in "
                f"the config"
            )
        base_url, password = connection
        key = key or password
    return Endpoint(chat_url(base_url, origin), _usable(key))


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
        if further.connection is not None:
            connection = _connection(further.connection)
            if connection is None:
                raise TeacherError(
                    f"{where}: add an Airflow connection {further.connection!r}: host, key as password"
                )
            origin = f"the connection {further.connection!r}"
            base_url, key = connection
        else:
            origin, base_url = f"{where}.base_url", str(further.base_url)
            key = _key_in(further.key_variable, where) if further.key_variable else None
        endpoint = Endpoint(chat_url(base_url, origin), _usable(key))
        if endpoint.url in [other.url for other in found]:
            raise TeacherError(f"{where}: {endpoint.url} is there already; name each endpoint once")
        found.append(endpoint)
    return found


def _key_in(variable: str, where: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TeacherError(f"{where}.key_variable: the environment has no {variable}; set it to the key")
    return key


def _usable(key: str | None) -> str | None:
    if key is not None and not (key.isascii() and key.isprintable()):
        raise TeacherError("the teacher's key holds characters that a key cannot have, such as a line end")
    return key


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


def _connection(connection_id: str) -> tuple[str, str | None] | None:
    """Return base URL and key of an Airflow connection; None if there is no such connection."""
    variable = os.environ.get(f"AIRFLOW_CONN_{connection_id.upper()}", "").strip()
    if variable.startswith("{"):
        try:
            return _of_fields(json.loads(variable), connection_id)
        except json.JSONDecodeError as error:
            raise TeacherError(f"AIRFLOW_CONN_{connection_id.upper()}: not valid JSON: {error}") from None
    if variable:
        parts = urlsplit(variable)
        fields = {
            "conn_type": parts.scheme,
            "host": unquote(parts.hostname or ""),
            "port": parts.port,
            "password": unquote(parts.password or ""),
            "schema": unquote(parts.path.lstrip("/")),
        }
        return _of_fields(fields, connection_id)
    return _airflow_connection(connection_id)


def _airflow_connection(connection_id: str) -> tuple[str, str | None] | None:
    """Ask Airflow, if it is there: the one place of this package that touches it."""
    try:
        from airflow.sdk import Connection
        from airflow.sdk.exceptions import AirflowException
    except ImportError:
        return None
    try:
        found = Connection.get(connection_id)
    except (AirflowException, ImportError, RuntimeError):  # no such connection, or not inside a task
        return None
    names = ("conn_type", "host", "port", "password", "schema")
    return _of_fields({name: getattr(found, name, None) for name in names}, connection_id)


def _of_fields(fields: dict[str, Any], connection_id: str) -> tuple[str, str | None]:
    """Put a base URL together from a connection's fields, as Airflow's HTTP connections are filled in.

    `host` may be the whole URL; else `schema` is the protocol, or the path where a URI put one.
    """
    host = str(fields.get("host") or "").strip()
    if not host:
        raise TeacherError(f"the connection {connection_id!r} has no host; expected the teacher's URL there")
    password = str(fields.get("password") or "").strip() or None
    if "://" in host:
        return host, password
    schema = str(fields.get("schema") or "").strip("/ ")
    kind = str(fields.get("conn_type") or "")
    protocol = schema if schema in ("http", "https") else kind if kind in ("http", "https") else "https"
    path = "" if schema in ("", "http", "https") else f"/{schema}"
    port = f":{fields['port']}" if fields.get("port") else ""
    return f"{protocol}://{host}{port}{path}", password
