"""Secrets have no place in a config file: it lies in version control, and a copy in the plan of each run.

Looked for in every text of the file, whatever key it stands under: a user and password in an address, a key
named like a secret, and values in the form of well-known keys. What is found is named, never shown.
"""

from __future__ import annotations

import re
from typing import Any

from flywheel.common.redaction import is_secret_name

Location = tuple[str | int, ...]

# What stands between `//` and the `@` before a host. A password may hold characters that would end a host.
_USERINFO = re.compile(r"//(?:[^/?#\s@]*@|[^/?#\s@:\[]*:(?!\d*(?:[/?#]|$))[^\s@]*@)")
# With these the part before the `@` is no user but a container (abfs://CONTAINER@ACCOUNT.dfs.core.windows.net).
_CONTAINER = re.compile(r"^(?:abfss?|wasbs?)://[^/?#\s@:]*@")
_SECRET_QUERY = re.compile(
    r"^[a-z][a-z0-9+.-]*:.*[?&](?:[\w-]*(?:api[-_]?key|passw(?:or)?d|secret|token|signature)|key|sig|auth)=[^&]",
    re.IGNORECASE,
)
_KNOWN_FORM = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{20,}|nvapi-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|"
    r"gh[opsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[A-Za-z0-9_-]{16,}|A[KS]IA[0-9A-Z]{16})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|hooks\.slack\.com/(?:services|workflows)/\S"
    r"|discord(?:app)?\.com/api/webhooks/\S"
)

# The way to do it right, by how a key begins.
_WAYS = {
    "mlflow_config": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in Airflow's environment, "
    "or leave tracking_uri out and set MLFLOW_TRACKING_URI",
    "teacher": "use an Airflow connection (teacher.connection), or FLYWHEEL_TEACHER_API_KEY; "
    "a further endpoint names a connection or key_variable, a header variable or extra",
    "llm_judge_config": "name the environment variable with the key as api_key_env, of a header as variable",
    "nmp_config": "name the environment variable with the token as key_variable",
    "artifacts": "give the object store's credentials in the environment (AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or a role)",
    "source": "give the object store's credentials in the environment (AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or a role)",
    "store": "use an Airflow connection (store.elasticsearch.connection)",
    "notifications": "keep it in an Airflow connection and write {connection: ID, field: password} for the "
    "argument, or use the notifier's own ..._conn_id",
    "runtime": "name a Kubernetes secret in runtime.kubernetes.secrets, whose keys become variables",
}
_ANY_WAY = "keep it in an Airflow connection or in the environment"


def secrets_in(data: Any) -> list[tuple[Location, str]]:
    """Return where the data of a config holds a secret, each with what to do instead; no value is told."""
    found: list[tuple[Location, str]] = []
    _walk(data, (), found)
    return found


def has_userinfo(text: str) -> bool:
    """Return whether an address in a text has a user or password before its host."""
    return "@" in text and bool(_USERINFO.search(text)) and not _CONTAINER.match(text.strip())


def _walk(value: Any, location: Location, found: list[tuple[Location, str]]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            where = (*location, str(name))
            if is_secret_name(str(name)) and _holds_value(inner):
                found.append((where, f"a secret has no place in this file; {_way(where)}"))
            else:
                _walk(inner, where, found)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _walk(inner, (*location, index), found)
    elif isinstance(value, str):
        if has_userinfo(value):
            found.append((location, f"expected an address without a user and password; {_way(location)}"))
        elif _SECRET_QUERY.search(value.strip()):
            found.append((location, f"expected an address without a key in it; {_way(location)}"))
        elif _KNOWN_FORM.search(value):
            found.append(
                (location, f"this looks like a key, which has no place in this file; {_way(location)}")
            )


def _holds_value(value: Any) -> bool:
    """Return whether this may be a secret itself: a text or number, but no reference such as a mapping."""
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""


def _way(location: Location) -> str:
    return _WAYS.get(str(location[0]), _ANY_WAY) if location else _ANY_WAY
