"""What answers in the place of an Elasticsearch of version 8 or 9: another product, an older one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import elastic_transport
from elasticsearch import ApiError, Elasticsearch, UnsupportedProductError

NEEDED = "needed is Elasticsearch 8 or 9 (docs/elasticsearch.md), or store.type sqlite"
_OLDEST = 8
_TAGLINE = "You Know, for Search"


def is_other_server(error: Exception) -> bool:
    """Return whether an error says that the server is none which this client knows.

    A client of version 8 asks for answers in a form of its own, which servers of 7 and OpenSearch refuse;
    what answers without naming Elasticsearch as its product is refused by the client.
    """
    if isinstance(error, UnsupportedProductError | elastic_transport.SerializationError):
        return True
    if not isinstance(error, ApiError):
        return False
    refused = error.status_code == 400 and "media_type_header_exception" in str(error.body)
    return refused or error.status_code in (406, 415)


def what_answers(client: Elasticsearch, its: str) -> str:
    """Ask a server what it is, and return a sentence of it.

    Args:
        its: the connection, for the message.
    """
    body = _greeting(client)
    version = body.get("version")
    version = version if isinstance(version, Mapping) else {}
    number, tagline = str(version.get("number") or "")[:40], str(body.get("tagline") or "")
    distribution = str(version.get("distribution") or "")
    if distribution.lower() == "opensearch" or "opensearch" in tagline.lower():
        return f"this is OpenSearch{f' {number}' if number else ''}, which is not Elasticsearch; {NEEDED}"
    major = number.partition(".")[0]
    if major.isdigit() and int(major) < _OLDEST:
        return f"its version is {number}; {NEEDED}"
    if tagline == _TAGLINE:
        return (
            f"it is Elasticsearch {number}, but its answers lack the header X-Elastic-Product: have the "
            "proxy before it pass that on"
        )
    named = f" ({distribution or tagline} {number})" if distribution or tagline else ""
    return f"what answers there is not Elasticsearch{named}; mend host and port of the {its}; {NEEDED}"


def _greeting(client: Elasticsearch) -> Mapping[str, Any]:
    """Return what a server says of itself; {} where it says nothing that can be read."""
    try:
        # Of any form: the client makes its own form, which they refuse, out of plain JSON.
        body: Any = client.perform_request("GET", "/", headers={"accept": "*/*"}).body
    except ApiError as error:
        body = error.body
    except elastic_transport.TransportError:
        return {}
    return body if isinstance(body, Mapping) else {}


def reason_of(body: Any) -> str:
    """Return the server's own words from an answer or an item of one."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(error, Mapping):
        return _clipped(str(error))
    words = [str(error.get("reason") or error.get("type") or "")]
    cause = error.get("caused_by")
    if isinstance(cause, Mapping) and cause.get("reason"):
        words.append(str(cause["reason"]))
    return _clipped(": ".join(dict.fromkeys(word for word in words if word)))


def _clipped(text: str) -> str:
    """Return a text without its middle where it is long: a reason often ends with what matters."""
    return text if len(text) <= 500 else f"{text[:250]} ... {text[-250:]}"
