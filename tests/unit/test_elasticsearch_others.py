"""What answers in the place of an Elasticsearch 8 or 9 is told by its name and version."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flywheel.common.errors import StoreError
from flywheel.config.store import StoreConfig
from flywheel.stores import open_store
from tests.unit.teacher_servers import served

COMPATIBLE = "application/vnd.elasticsearch+json"


def greeting(number: str, tagline: str = "You Know, for Search", **version: str) -> dict[str, Any]:
    return {"name": "node", "version": {"number": number, **version}, "tagline": tagline}


class Server:
    """Greets at `/`, and answers anything else as an empty index.

    Args:
        strict: refuses the form that a client of version 8 asks for, as servers of 7 do.
        product: names Elasticsearch in its answers.
    """

    def __init__(self, greets: object, *, strict: bool = False, product: bool = False) -> None:
        self.greets, self.strict, self.product = greets, strict, product

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status, body = 200, self.greets if scope["path"] == "/" else {}
        if self.strict and COMPATIBLE in headers.get("accept", ""):
            reason = "Invalid media-type value on headers [Accept]"
            error = {"type": "media_type_header_exception", "reason": reason}
            status, body = 400, {"error": error, "status": 400}
        kind = "text/html" if isinstance(body, str) else "application/json"
        answer = [(b"content-type", kind.encode())]
        if self.product:
            answer.append((b"x-elastic-product", b"Elasticsearch"))
        await send({"type": "http.response.start", "status": status, "headers": answer})
        data = body if isinstance(body, str) else json.dumps(body)
        await send({"type": "http.response.body", "body": data.encode()})


NEEDED = "needed is Elasticsearch 8 or 9"


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (Server(greeting("2.19.1", "The OpenSearch Project: https://opensearch.org/", distribution="opensearch")),
         f"this is OpenSearch 2.19.1, which is not Elasticsearch; {NEEDED}"),
        (Server(greeting("3.0.0", "The OpenSearch Project", distribution="opensearch"), strict=True),
         "this is OpenSearch 3.0.0"),
        (Server(greeting("7.10.2", "The OpenSearch Project: https://opensearch.org/")),
         "this is OpenSearch 7.10.2"),  # one that passes itself off as its ancestor
        (Server(greeting("7.17.28"), strict=True, product=True), f"its version is 7.17.28; {NEEDED}"),
        (Server(greeting("7.10.2")), f"its version is 7.10.2; {NEEDED}"),
        (Server(greeting("6.8.23"), strict=True), f"its version is 6.8.23; {NEEDED}"),
        (Server(greeting("8.19.0")), "lack the header X-Elastic-Product"),
        (Server({"status": "ok"}), "what answers there is not Elasticsearch; mend host and port"),
        (Server("<html>Sign in</html>"), "what answers there is not Elasticsearch; mend host and port"),
        (Server(["a"]), "what answers there is not Elasticsearch"),
    ],
)  # fmt: skip
def test_a_server_of_another_kind_or_version_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server, said: str
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    with served(server) as url:
        parts = urlsplit(url)
        fields = {"conn_type": "elasticsearch", "host": parts.hostname, "port": parts.port, "schema": "http"}
        monkeypatch.setenv("AIRFLOW_CONN_FLYWHEEL_ELASTICSEARCH", json.dumps(fields))
        config = StoreConfig.model_validate({"type": "elasticsearch", "elasticsearch": {"wait_seconds": 0.1}})
        with pytest.raises(StoreError) as caught, open_store(config) as store:
            store.scopes()
    assert said in str(caught.value)
    assert "HTTP 200" not in str(caught.value)
