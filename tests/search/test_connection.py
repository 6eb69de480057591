"""Who may use the node, and how a person is told what to mend: real users, certificates and refusals."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flywheel.common.errors import StoreError
from flywheel.config.store import ElasticsearchConfig
from flywheel.stores.elasticsearch import ElasticsearchStore
from flywheel.stores.elasticsearch.client import connect
from tests.certificates import make_authority
from tests.search.node import SearchNode
from tests.search.running import VARIABLE
from tests.unit.store_contract import ALWAYS, SCOPE, records

Refusal = Callable[[str], str]


@pytest.fixture
def refusal(
    config: ElasticsearchConfig,
    node: SearchNode,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Refusal:
    """Open a store through a connection and return the error, which must show no password."""
    caplog.set_level(logging.DEBUG)

    def open_with(connection: str) -> str:
        monkeypatch.setenv(VARIABLE, connection)
        impatient = config.model_copy(update={"wait_seconds": 1.0})
        with pytest.raises(StoreError) as error:
            ElasticsearchStore(impatient).close()
        for user in node.users:
            assert node.password(user) not in f"{error.value!r} {caplog.text}"
        assert "WRONG" not in f"{error.value!r} {caplog.text}"
        return str(error.value)

    return open_with


def test_the_right_user_with_the_ca_of_the_node_can_work(
    config: ElasticsearchConfig, caplog: pytest.LogCaptureFixture, node: SearchNode
) -> None:
    caplog.set_level(logging.DEBUG)
    with ElasticsearchStore(config) as store:
        store.write(records(3))
        assert store.count(*SCOPE, ALWAYS) == 3
        assert node.password("flywheel") not in f"{caplog.text} {store._cluster!r} {store.config!r}"


def test_a_uri_is_as_good_as_json(
    config: ElasticsearchConfig, node: SearchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.parse import quote

    user = f"flywheel:{quote(node.password('flywheel'), safe='')}"
    uri = f"elasticsearch://{user}@localhost:{node.port}/https?ca_certs={quote(str(node.ca), safe='')}"
    monkeypatch.setenv(VARIABLE, uri)
    with ElasticsearchStore(config) as store:
        assert store.count(*SCOPE, ALWAYS) == 0


def test_a_wrong_password_names_the_user_and_the_connection(refusal: Refusal, node: SearchNode) -> None:
    said = refusal(node.connection(password="WRONG"))
    assert "does not accept the user 'flywheel' with the password of the connection" in said
    assert "'flywheel_elasticsearch'" in said


def test_without_a_user_it_says_where_one_goes(refusal: Refusal, node: SearchNode) -> None:
    assert "asks for a user; set login and password, or api_key in extra" in refusal(node.connection(None))


def test_a_key_that_is_not_valid_is_called_a_key(refusal: Refusal, node: SearchNode) -> None:
    assert "does not accept the API key" in refusal(node.connection(None, api_key="aWQ6V1JPTkc="))


def test_an_unknown_ca_says_where_to_put_the_right_one(
    refusal: Refusal, node: SearchNode, tmp_path: Path
) -> None:
    other = make_authority(tmp_path / "other").certificate
    said = refusal(node.connection(ca_certs=str(other)))
    assert "signed by a CA that is unknown here; set ca_certs in extra" in said


def test_a_ca_file_that_is_not_there_is_named(refusal: Refusal, node: SearchNode) -> None:
    assert "/no/ca.crt; there is no such file here" in refusal(node.connection(ca_certs="/no/ca.crt"))


def test_a_user_without_rights_is_told_which(refusal: Refusal, node: SearchNode) -> None:
    said = refusal(node.connection("bystander"))
    assert "the user 'bystander' may not" in said
    assert "unauthorized" in said
    assert "docs/elasticsearch.md" in said


def test_an_expired_certificate_says_so(refusal: Refusal, node: SearchNode) -> None:
    node.certify(-2)
    try:
        _wait_for_expiry(node, expired=True)
        assert "its certificate has expired; renew it on the server" in refusal(node.connection())
    finally:
        node.certify(365)
        _wait_for_expiry(node, expired=False)


def _wait_for_expiry(node: SearchNode, *, expired: bool) -> None:
    """Wait until the node serves another certificate: it looks at the files every few seconds."""
    context = ssl.create_default_context(cafile=str(node.ca))
    for _ in range(600):
        try:
            with socket.create_connection(("localhost", node.port)) as plain:
                context.wrap_socket(plain, server_hostname="localhost").close()
            if not expired:
                return
        except ssl.SSLCertVerificationError:
            if expired:
                return
        time.sleep(0.2)
    raise AssertionError("the node does not take the new certificate")


def test_http_to_a_node_with_tls_names_the_schema(refusal: Refusal, node: SearchNode) -> None:
    connection = {**json.loads(node.connection()), "schema": "http"}
    assert "mend host, port and schema (http or https)" in refusal(json.dumps(connection))


def test_a_node_that_is_not_there_is_named(refusal: Refusal) -> None:
    said = refusal('{"conn_type": "elasticsearch", "host": "127.0.0.1", "port": 9, "schema": "http"}')
    assert "http://127.0.0.1:9: cannot be reached" in said


def test_no_connection_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, config: ElasticsearchConfig
) -> None:
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(StoreError, match=f"there is no connection 'flywheel_elasticsearch'.*set {VARIABLE}"):
        connect(config)


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        ('{"conn_type": "elasticsearch"}', "has no host"),
        ('{"host": "h", "extra": {"ca_cert": "x"}}', "extra has ca_cert, which nothing here knows"),
        ('{"host": "https://u:SECRET@h:9200"}', "has a user in it"),
        ('{"host": "h", "schema": "ftp"}', "expected the schema http or https"),
        ('{"host": "h", "extra": "{"}', "its extra is not valid JSON"),
        ('{"host": ', "not valid JSON"),
        ("elasticsearch://u:SECRET@h:port", "not a URI"),
        ('{"extra": {"cloud_id": "SECRET"}}', "the client does not take it"),
    ],
)
def test_a_connection_with_a_mistake_is_explained_without_its_secrets(
    connection: str, expected: str, monkeypatch: pytest.MonkeyPatch, config: ElasticsearchConfig
) -> None:
    monkeypatch.setenv(VARIABLE, connection)
    with pytest.raises(StoreError) as error:
        connect(config)
    assert expected in str(error.value)
    assert "SECRET" not in str(error.value)


def test_cloud_id_api_key_and_several_hosts_reach_the_client(
    monkeypatch: pytest.MonkeyPatch, config: ElasticsearchConfig
) -> None:
    cloud_id = "name:ZXhhbXBsZS5vcmckYWJjJGRlZg=="  # example.org$abc$def
    monkeypatch.setenv(VARIABLE, json.dumps({"extra": {"cloud_id": cloud_id, "api_key": "id:key"}}))
    client = connect(config).client
    assert [node.host for node in client.transport.node_pool.all()] == ["abc.example.org"]
    assert client._headers["authorization"].startswith("ApiKey ")
    monkeypatch.setenv(VARIABLE, json.dumps({"host": "a, https://b:9243", "port": 9201, "schema": "http"}))
    nodes = connect(config).client.transport.node_pool.all()
    assert sorted(f"{node.config.scheme}://{node.host}:{node.port}" for node in nodes) == [
        "http://a:9201",
        "https://b:9243",
    ]
