"""Keys in another header, and headers of one's own: what is sent, and that no secret is printed or planned."""

import logging
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import ConfigError, TeacherError
from flywheel.config.loading import load_config, validate_config
from flywheel.config.teacher import TeacherConfig
from flywheel.teacher.endpoint import resolve_endpoint, resolve_endpoints
from tests.unit.teacher_servers import Script, completion, served
from tests.unit.test_stages_label import label, make, write_headlines

GOOD = (200, {}, completion("[[[earnings]]]"))
SECRETS = {"FLYWHEEL_TEACHER_API_KEY": "key-of-azure", "GATEWAY_KEY": "gateway-secret"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FLYWHEEL_TEACHER_BASE_URL", raising=False)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    write_headlines(
        tmp_path, [(f"Acme unit {number} posts results", "2024-03-01", "") for number in range(12)]
    )
    return tmp_path


HEADERS = {
    "key_header": "api-key",
    "headers": [
        {"name": "OpenAI-Organization", "value": "org-desk"},
        {"name": "Ocp-Apim-Subscription-Key", "variable": "GATEWAY_KEY"},
        {"name": "User-Agent", "value": "desk/1"},
    ],
}


class NeedsKeys(Script):
    """As Azure behind a gateway: the key in `api-key`, another in a header of the gateway's own."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = {name.decode(): value.decode() for name, value in scope["headers"]}
        names = ("api-key", "ocp-apim-subscription-key")
        if [given.get(name) for name in names] != list(SECRETS.values()):
            self.steps = [(401, {}, b"Access denied due to missing subscription key")]
        await super().__call__(scope, receive, send)


def test_the_key_goes_into_the_header_that_the_config_names_and_others_with_it(folder: Path) -> None:
    script = NeedsKeys([GOOD])
    with served(script) as url:
        assert label(make(folder, f"{url}/v1?api-version=1", **HEADERS), folder).labelled == 12
    headers = script.calls[0]["headers"]
    assert headers["openai-organization"] == "org-desk"
    assert headers["user-agent"] == "desk/1"
    assert "authorization" not in headers


def test_without_such_a_setting_the_message_names_the_key(folder: Path) -> None:
    with served(NeedsKeys([GOOD])) as url, pytest.raises(TeacherError, match=r"401.*teacher\.key_header"):
        label(make(folder, url), folder)


def test_no_secret_is_in_the_plan_nor_in_a_log_nor_in_an_error(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"wrong keys: {', '.join(SECRETS.values())}".encode()
    with served(Script([(401, {}, echo)])) as url:
        plan = make(folder, url, **HEADERS)
        with pytest.raises(TeacherError, match=r"wrong keys: \*\*\*, \*\*\*") as caught:
            label(plan, folder)
    told = [plan.model_dump_json(), repr(resolve_endpoints(plan.config.teacher)), caplog.text]
    for secret in SECRETS.values():
        assert not any(secret in text for text in (*told, str(caught.value)))
    assert "GATEWAY_KEY" in told[0]


def test_a_header_may_come_from_the_extra_of_the_connection_and_goes_to_its_host_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_FLYWHEEL_TEACHER",
        '{"host": "https://a.test/v1", "password": "p", "extra": {"gateway": "from-extra"}}',
    )
    monkeypatch.delenv("FLYWHEEL_TEACHER_API_KEY")
    header = {"name": "X-Gateway-Token", "extra": "gateway"}
    found = resolve_endpoint(TeacherConfig.model_validate({"headers": [header]}))
    assert found.own_headers() == {"Authorization": "Bearer p", "X-Gateway-Token": "from-extra"}
    assert "from-extra" not in repr(found)
    with pytest.raises(TeacherError, match=r"teacher\.headers\.0\.extra: the address comes from no connec"):
        resolve_endpoint(TeacherConfig.model_validate({"headers": [header], "base_url": "http://b.test"}))
    with pytest.raises(TeacherError, match=r"teacher\.headers\.0\.extra: .* has no text 'other'"):
        resolve_endpoint(TeacherConfig.model_validate({"headers": [header | {"extra": "other"}]}))
    # The first one's headers are not sent to the others.
    further = {"base_url": "http://c.test", "key_variable": "GATEWAY_KEY", "key_header": "X-Key"}
    both = resolve_endpoints(
        TeacherConfig.model_validate({"headers": [header], "further_endpoints": [further]})
    )
    assert both[1].own_headers() == {"X-Key": "gateway-secret"}


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([{"name": "X"}], "one of value, variable and extra for X"),
        ([{"name": "X", "value": "a", "variable": "B"}], "one of value, variable and extra for X"),
        ([{"name": "X-Api-Key", "value": "sk-very-secret"}], "variable or extra for X-Api-Key"),
        ([{"name": "Authorization", "value": "sk-very-secret"}], "variable or extra for Authorization"),
        ([{"name": "Authorization", "variable": "A"}], "which is the key's"),
        ([{"name": "Host", "value": "sk-very-secret"}], "another name than Host"),
        ([{"name": "X", "value": "sk-very-secret\r\nHost: b"}], "printable ASCII"),
        ([{"name": "X Y", "value": "sk-very-secret"}], "should match pattern"),
        ([{"name": "X", "value": "a"}, {"name": "x", "value": "b"}], "more than once"),
        ([{"name": "X", "value": ["sk-very-secret"]}], "a valid string"),
    ],
)
def test_a_wrong_header_is_named_without_its_value(tmp_path: Path, headers: Any, message: str) -> None:
    data = {"nims": [{"model_name": "a/b"}], "teacher": {"headers": headers}}
    with pytest.raises(ConfigError, match=message) as caught:
        validate_config(data, "x")
    assert "sk-very-secret" not in str(caught.value)


def test_a_header_whose_variable_is_not_set_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "nims: [{model_name: a/b}]\n"
        "teacher:\n"
        "  base_url: http://a.test\n"
        "  headers: [{name: X-Key, variable: NO_SUCH_VARIABLE}]\n"
    )
    with pytest.raises(TeacherError, match=r"teacher\.headers\.0\.variable: .* no NO_SUCH_VARIABLE"):
        resolve_endpoint(load_config(path).teacher)
