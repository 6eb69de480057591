"""Airflow connections, read where Airflow is and where it is not.

A connection is, as everywhere in Airflow, in a secrets backend, an AIRFLOW_CONN_… variable (JSON or URI) or
an entry made in its UI. The variable works without Airflow, too: in a pod, and on the command line.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from flywheel.common.errors import FlywheelError
from flywheel.common.redaction import is_secret_name, passwords_in, register


@dataclass(frozen=True)
class Connection:
    """The fields of a connection; the secret ones are never printed.

    Attributes:
        conn_type: such as `http`; a URI's scheme.
        host: a name, or whatever else the connection's type puts there.
        extra: the decoded JSON of the field of that name.
    """

    id: str
    conn_type: str = ""
    host: str = ""
    port: int | None = None
    schema: str = ""
    login: str = ""
    password: str = field(default="", repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)


CONNECTION_PREFIX = "AIRFLOW_CONN_"


def variable_of(connection_id: str) -> str:
    """Return the name of the environment variable that holds a connection."""
    return f"{CONNECTION_PREFIX}{connection_id.upper()}"


def as_variable(connection: Connection) -> tuple[str, str]:
    """Return the environment variable that tells another process of a connection, and its value."""
    fields = asdict(connection)
    return variable_of(fields.pop("id")), json.dumps(fields)


def find_connection(connection_id: str, error: type[FlywheelError]) -> Connection | None:
    """Return a connection, its secrets being registered; None if there is none of that id.

    Args:
        error: what is raised for one that cannot be read.
    """
    name = variable_of(connection_id)
    value = os.environ.get(name, "").strip()
    if value.startswith("{"):
        try:
            fields = json.loads(value)
        except json.JSONDecodeError as problem:
            raise error(f"{name}: not valid JSON: {problem.msg} at character {problem.pos}") from None
        return _of_fields(connection_id, fields, error)
    if value:
        try:
            return _of_fields(connection_id, _of_uri(value), error)
        except ValueError:  # its message may show what is left of a password
            raise error(f"{name}: not a URI; check its port, brackets and quoting") from None
    return _airflow_connection(connection_id, error)


def _of_uri(uri: str) -> dict[str, Any]:
    """Read a connection's URI as Airflow does: the path is `schema`, the query is `extra`."""
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return {
        "conn_type": parts.scheme,
        "host": unquote(parts.hostname or ""),
        "port": parts.port,
        "schema": unquote(parts.path.strip("/")),
        "login": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "extra": query.get("__extra__") or query,
    }


def _airflow_connection(connection_id: str, error: type[FlywheelError]) -> Connection | None:
    """Ask Airflow, if it is there."""
    try:
        from airflow.sdk import Connection as AirflowConnection
        from airflow.sdk.exceptions import AirflowException
    except ImportError:
        return None
    try:
        found = AirflowConnection.get(connection_id)
    except (AirflowException, ImportError, RuntimeError):  # no such connection, or not inside a task
        return None
    names = ("conn_type", "host", "port", "schema", "login", "password", "extra")
    return _of_fields(connection_id, {name: getattr(found, name, None) for name in names}, error)


def _of_fields(connection_id: str, fields: dict[str, Any], error: type[FlywheelError]) -> Connection:
    extra = fields.get("extra") or {}
    if isinstance(extra, str):
        try:
            extra = json.loads(extra)
        except json.JSONDecodeError:
            raise error(f"the connection {connection_id!r}: its extra is not valid JSON") from None
    if not isinstance(extra, dict):
        raise error(f"the connection {connection_id!r}: its extra is no JSON object")
    password = str(fields.get("password") or "")
    secret = [str(value) for name, value in extra.items() if is_secret_name(name)]
    register(password, *secret, *passwords_in(str(fields.get("host") or "")))
    port = fields.get("port")
    if port is not None and not (isinstance(port, int) or str(port).isdigit()):
        raise error(f"the connection {connection_id!r}: its port is no number")
    return Connection(
        id=connection_id,
        conn_type=str(fields.get("conn_type") or ""),
        host=str(fields.get("host") or "").strip(),
        port=int(port) if port else None,
        schema=str(fields.get("schema") or "").strip("/ "),
        login=str(fields.get("login") or ""),
        password=password,
        extra=extra,
    )
