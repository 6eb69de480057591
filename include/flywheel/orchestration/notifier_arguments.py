"""The arguments of a notifier, with what an Airflow connection holds put in where the config names one."""

from __future__ import annotations

from typing import Any

from flywheel.common.connections import Connection, find_connection, variable_of
from flywheel.common.errors import ConfigError

_REFERENCE = {"connection", "field"}
_FIELDS = ("password", "login", "host")


def resolved(value: Any) -> Any:
    """Return a value of the config with each `{connection: ID, field: FIELD}` in it replaced, at any depth.

    Args:
        value: FIELD is `password`, `login`, `host`, or `extra.NAME`: a field of the connection's extra.

    Raises:
        ConfigError: there is no such connection, or it has nothing there.
    """
    if isinstance(value, dict):
        if set(value) == _REFERENCE:
            return _looked_up(str(value["connection"]), str(value["field"]))
        return {name: resolved(inner) for name, inner in value.items()}
    return [resolved(inner) for inner in value] if isinstance(value, list | tuple) else value


def _looked_up(connection_id: str, field: str) -> Any:
    found = find_connection(connection_id, ConfigError)
    if found is None:
        raise ConfigError(
            f"a notifier's argument: there is no Airflow connection {connection_id!r}; add it, or set "
            f"{variable_of(connection_id)}"
        )
    value = _field_of(found, field)
    if not value:
        raise ConfigError(
            f"a notifier's argument: the connection {connection_id!r} has no {field}; expected one of "
            f"{', '.join(_FIELDS)} or extra.NAME"
        )
    return value


def _field_of(connection: Connection, field: str) -> Any:
    if field.startswith("extra."):
        return connection.extra.get(field.removeprefix("extra."))
    return getattr(connection, field) if field in _FIELDS else None
