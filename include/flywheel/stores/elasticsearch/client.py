"""The client of a cluster: from a connection, with errors as sentences, and patience where it helps.

The connection is the one of apache-airflow-providers-elasticsearch, type `elasticsearch`: host, port, schema
(http or https), login and password, and in `extra` the arguments of the official client, such as `api_key`,
`ca_certs` or `cloud_id`. Beyond the provider's hook, `host` may be a whole URL, or several separated by
commas.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import elastic_transport
from elasticsearch import ApiError, Elasticsearch
from elasticsearch.serializer import OrjsonSerializer

from flywheel.common.connections import Connection, find_connection, variable_of
from flywheel.common.errors import StoreError
from flywheel.common.patience import Patience
from flywheel.config.store import ElasticsearchConfig
from flywheel.stores.elasticsearch.product import is_other_server, reason_of, what_answers

log = logging.getLogger(__name__)
_requests_log = logging.getLogger("elastic_transport.transport")

# What a connection's extra may hold: these go to the client as they are ...
_CLIENT_ARGUMENTS = frozenset(
    {
        "api_key",
        "bearer_auth",
        "ca_certs",
        "client_cert",
        "client_key",
        "cloud_id",
        "http_compress",
        "ssl_assert_fingerprint",
        "ssl_assert_hostname",
        "verify_certs",
    }
)
# ... and these are for the provider's SQL hook.
_SQL_ARGUMENTS = frozenset({"fetch_size", "field_multi_value_leniency"})
# A server that restarts, is overloaded, or has lost the one behind it.
BUSY_STATUSES = frozenset({429, 502, 503, 504})
NDJSON = {"content-type": "application/x-ndjson", "accept": "application/json"}
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0

Result = TypeVar("Result")


class StoreBusyError(Exception):
    """The server has no room for documents now."""


class _CompatibleOrjson(OrjsonSerializer):
    """Reads what a server answers with to a client of version 8."""

    mimetype = "application/vnd.elasticsearch+json"


@dataclass(frozen=True)
class Cluster:
    """A client, and what its errors are told with.

    Attributes:
        client: of the official package.
        where: the addresses, for messages.
        connection: the connection's id.
        user: whose password is used; "" with an API key, or without any.
        wait_seconds: longest wait for a server that does not answer or takes no more.
    """

    client: Elasticsearch
    where: str
    connection: str
    user: str
    has_key: bool
    wait_seconds: float

    def call(self, doing: str, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Call the server; where it is away or busy, wait and call again.

        Args:
            doing: what for, such as "count records".

        Raises:
            StoreError: it refuses, or stays away.
        """
        patience = self.patience(doing)
        while True:
            try:
                return function(*arguments, **named)
            except (ApiError, elastic_transport.TransportError) as error:
                patience.wait(error)

    def bulk(self, index: str, lines: Iterable[bytes]) -> list[dict[str, Any]]:
        """Do something with several documents of an index, each by its lines; return what became of each.

        Raises:
            StoreError: as `call`.
        """
        answer = self.call(
            "write documents",
            self.client.perform_request,
            "POST",
            f"/{index}/_bulk",
            headers=NDJSON,
            body=b"\n".join([*lines, b""]),
        )
        found: list[dict[str, Any]] = answer["items"]
        return found

    def patience(self, doing: str) -> Patience:
        """Return what waits between attempts, up to `wait_seconds` without a success."""
        return Patience(
            self.wait_seconds,
            lambda error: self.explained(doing, error),
            may_pass=may_pass,
            say=lambda error: log.warning("Elasticsearch: cannot %s yet (%s); waiting", doing, _short(error)),
            first=FIRST_PAUSE,
            longest=LONGEST_PAUSE,
        )

    def explained(self, doing: str, error: Exception) -> StoreError:
        """Return an error that a person understands."""
        return self.error(self._explain(doing, error))

    def error(self, problem: str) -> StoreError:
        """Return an error that names the cluster and the problem."""
        return StoreError(f"Elasticsearch at {self.where}: {problem}")

    def _explain(self, doing: str, error: Exception) -> str:
        its = f"connection {self.connection!r}"
        if is_other_server(error):
            return what_answers(self.client, its)
        if isinstance(error, elastic_transport.TlsError):
            return _tls_problem(_text(error), its)
        if isinstance(error, elastic_transport.ConnectionTimeout):
            return f"cannot {doing}: no answer in time; see whether the cluster is overloaded"
        if isinstance(error, elastic_transport.ConnectionError):
            return (
                f"cannot be reached ({_short(error)}); start it, or mend host, port and schema (http or "
                f"https) of the {its}"
            )
        if isinstance(error, StoreBusyError):
            return f"cannot {doing}: {error}; see whether its disks are full, then run this again"
        if not isinstance(error, ApiError):
            return f"cannot {doing}: {_short(error)}"
        status, reason = error.status_code, reason_of(error.body)
        if status == 401:
            if self.has_key:
                return f"does not accept the API key of the {its}; put a valid one into its extra (api_key)"
            if self.user:
                return f"does not accept the user {self.user!r} with the password of the {its}; mend either"
            return f"asks for a user; set login and password, or api_key in extra, of the {its}"
        if status == 403 and "blocked" not in reason:
            who = f"the user {self.user!r}" if self.user else f"the key of the {its}"
            return (
                f"{who} may not {doing}: {reason}. Give it a role with the privileges that "
                "docs/elasticsearch.md lists"
            )
        if status == 403 or status == 429:
            return f"cannot {doing}: {reason}; see whether its disks are full, then run this again"
        return f"cannot {doing}: HTTP {status}, {reason}"


def connect(config: ElasticsearchConfig) -> Cluster:
    """Return the cluster of the config's connection; nothing is sent yet.

    Raises:
        StoreError: there is no such connection, or one of its fields is wrong.
    """
    if _requests_log.level == logging.NOTSET:
        _requests_log.setLevel(logging.WARNING)  # a line for each request helps nobody
    connection = find_connection(config.connection, StoreError)
    if connection is None:
        raise StoreError(
            f"there is no connection {config.connection!r}: add it in Airflow (type elasticsearch: host, "
            "port, schema https, login and password, or api_key in extra), or set "
            f"{variable_of(config.connection)}"
        )
    arguments = _client_arguments(connection)
    where = ", ".join(arguments.get("hosts", ())) or "its Elastic Cloud"
    try:
        client = Elasticsearch(
            **arguments,
            request_timeout=config.timeout_seconds,
            max_retries=0,  # done by `Cluster.call` and the writer, with more patience
            serializers={
                "application/json": OrjsonSerializer(),
                _CompatibleOrjson.mimetype: _CompatibleOrjson(),
            },
        )
    except (ValueError, TypeError, OSError) as error:
        # The client's own words may repeat an argument, and so a secret.
        raise StoreError(
            f"the connection {config.connection!r}: the client does not take it ({type(error).__name__}); "
            f"check its host, port, schema and the extras {', '.join(sorted(connection.extra)) or '(none)'}"
        ) from None
    with_key = "api_key" in arguments or "bearer_auth" in arguments
    user = "" if with_key else connection.login
    return Cluster(client, where, config.connection, user, with_key, config.wait_seconds)


def _client_arguments(connection: Connection) -> dict[str, Any]:
    extra = connection.extra
    if unknown := sorted(set(extra) - _CLIENT_ARGUMENTS - _SQL_ARGUMENTS):
        raise StoreError(
            f"the connection {connection.id!r}: extra has {', '.join(unknown)}, which nothing here knows; "
            f"known are {', '.join(sorted(_CLIENT_ARGUMENTS))}"
        )
    arguments: dict[str, Any] = {name: value for name, value in extra.items() if name in _CLIENT_ARGUMENTS}
    for name in ("verify_certs", "http_compress"):
        if isinstance(arguments.get(name), str):  # as a URI's query gives it
            arguments[name] = arguments[name].lower() in ("true", "1", "yes")
    ca_certs = arguments.get("ca_certs")
    if isinstance(ca_certs, str) and not os.path.exists(ca_certs):
        raise StoreError(
            f"the connection {connection.id!r}: extra.ca_certs names {ca_certs}; there is no such file here"
        )
    if "cloud_id" not in arguments:
        arguments["hosts"] = _hosts(connection)
    if "api_key" not in arguments and "bearer_auth" not in arguments and connection.login:
        arguments["basic_auth"] = (connection.login, connection.password)
    if not any("https" in host for host in arguments.get("hosts", ("https",))):
        for name in ("ca_certs", "verify_certs", "ssl_assert_fingerprint", "ssl_assert_hostname"):
            arguments.pop(name, None)
    return arguments


def _hosts(connection: Connection) -> list[str]:
    """Return the URLs of a connection's hosts."""
    where = f"the connection {connection.id!r}"
    if not connection.host:
        raise StoreError(f"{where} has no host; expected the server's name there, or cloud_id in extra")
    urls = []
    for host in connection.host.split(","):
        url = host.strip() if "://" in host else f"{connection.schema or 'http'}://{host.strip()}"
        try:
            parts = urlsplit(url)
            port = parts.port or connection.port or 9200
        except ValueError:
            raise StoreError(f"{where}: its host is no name or URL; check its port and brackets") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StoreError(f"{where}: expected the schema http or https, and a name or URL as host")
        if "@" in parts.netloc:  # an address is printed in messages, a password must not be
            raise StoreError(
                f"{where}: its host has a user in it; login and password have fields of their own"
            )
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        urls.append(f"{parts.scheme}://{name}:{port}{parts.path.rstrip('/')}")
    return urls


def may_pass(error: Exception) -> bool:
    """Return whether the same call may succeed later."""
    if isinstance(error, ApiError):
        blocked = error.status_code == 403 and "blocked" in reason_of(error.body)
        return error.status_code in BUSY_STATUSES or blocked
    if isinstance(error, elastic_transport.TlsError):
        return False
    passing = elastic_transport.ConnectionError | elastic_transport.ConnectionTimeout | StoreBusyError
    return isinstance(error, passing)


def _tls_problem(text: str, its: str) -> str:
    if "has expired" in text:
        return "its certificate has expired; renew it on the server"
    if "not yet valid" in text:
        return "its certificate is not valid yet; check the clocks of both machines"
    if "doesn't match" in text or "mismatch" in text.lower():
        return f"its certificate is for another name; use that name as host of the {its}"
    if "fingerprint" in text.lower():
        return f"its certificate has another fingerprint than ssl_assert_fingerprint of the {its}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            f"its certificate is signed by a CA that is unknown here; set ca_certs in extra of the {its} to "
            "the file of the server's CA"
        )
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text.lower():
        return f"it does not speak TLS; set schema http in the {its}"
    return f"no TLS connection: {text[:300]}"


def _short(error: Exception) -> str:
    if isinstance(error, ApiError):
        return f"HTTP {error.status_code}, {reason_of(error.body)}"[:300]
    if isinstance(error, elastic_transport.ConnectionTimeout):
        return "no answer in time"
    return _text(error)[:300]


def _text(error: Exception) -> str:
    """Return an error's message with those of its causes, which the client's own text may leave out."""
    causes = getattr(error, "errors", ())
    return ": ".join(str(part) for part in (getattr(error, "message", error), *causes))
