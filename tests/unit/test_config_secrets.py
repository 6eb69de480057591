"""No secret lies in a config file, and so in no plan: each is refused with the way to do it right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from flywheel.common.errors import ConfigError
from flywheel.config import load_config
from flywheel.config.loading import validate_config
from flywheel.config.schema import Config, section_in
from flywheel.orchestration.notifier_arguments import resolved
from flywheel.runs.plan import override_config

MINIMAL: dict[str, Any] = {"nims": [{"model_name": "meta/llama-3.2-1b-instruct"}]}
PASSWORD = "Tr0ub4dor-and-3"


def texts_of(section: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Give the path of each key of the schema whose value is, or holds, a text."""
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None:
            yield from texts_of(inner, (*path, name))
        elif "str" in str(field.annotation) or "Any" in str(field.annotation):
            yield (*path, name)


ADDRESSES = (
    f"http://user:{PASSWORD}@host.test:5000/v1",
    f"https://{PASSWORD}@host.test",
    f"postgresql+psycopg2://u:{PASSWORD}/with#odd?signs@db.test/mlflow",
    f"https://host.test/v1?api_key={PASSWORD}",
)
KEYS = list(texts_of(Config))


def placed(path: tuple[str, ...], value: str) -> dict[str, Any]:
    """Return a config with a text at a key; sections that are lists get one item."""
    section: type[BaseModel] = Config
    data: dict[str, Any] = {**MINIMAL}
    here = data
    for part in path[:-1]:
        field = section.model_fields[part]
        section = section_in(field.annotation) or section
        is_list = "tuple" in str(field.annotation)
        is_mapping = "dict" in str(field.annotation)
        inner: dict[str, Any] = {}
        here[part] = [inner] if is_list else {"1b": inner} if is_mapping else inner
        here = inner
    holder = section.model_fields[path[-1]].annotation
    kinds = str(holder) + str(get_args(holder))
    here[path[-1]] = {"x": value} if "dict" in kinds else [value] if "tuple" in kinds else value
    return data


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_no_key_takes_an_address_with_a_secret_in_it(path: tuple[str, ...]) -> None:
    for address in ADDRESSES:
        with pytest.raises(ConfigError) as caught:
            validate_config(placed(path, address), "config.yaml")
        message = str(caught.value)
        assert path[-1] in message and "address without" in message, address
        assert PASSWORD not in message


def test_the_walk_meets_the_keys_that_hold_addresses() -> None:
    assert {
        ("mlflow_config", "tracking_uri"),
        ("mlflow_config", "artifact_location"),
        ("teacher", "base_url"),
        ("teacher", "further_endpoints", "base_url"),
        ("llm_judge_config", "url"),
        ("nmp_config", "nemo_base_url"),
        ("nmp_config", "nim_base_url"),
        ("nmp_config", "datastore_base_url"),
        ("artifacts", "root"),
        ("source", "path"),
        ("schedule", "asset"),
        ("notifications", "on_promotion", "arguments"),
        ("celery_config",),
    } <= set(KEYS)


def test_the_message_names_the_line_and_the_way_of_each_section(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "nims: [{model_name: meta/llama-3.2-1b-instruct}]\n"
        f"mlflow_config: {{tracking_uri: 'http://u:{PASSWORD}@mlflow.test'}}\n"
        f"artifacts: {{root: 's3://AKEY:{PASSWORD}@bucket'}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    first, second = str(caught.value).splitlines()
    assert "line 2: mlflow_config.tracking_uri" in first
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in first
    assert "line 3: artifacts.root" in second and "AWS_SECRET_ACCESS_KEY" in second


def test_an_override_of_a_run_may_not_hold_one_either() -> None:
    config = validate_config(MINIMAL, "config.yaml")
    with pytest.raises(ConfigError, match="a run may not set this") as caught:
        override_config(config, {"mlflow_config": {"tracking_uri": f"http://u:{PASSWORD}@mlflow.test"}})
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"token": PASSWORD},
        {"integration_key": PASSWORD},
        {"apiKey": PASSWORD},
        {"headers": {"Authorization": f"Bearer {PASSWORD}"}},
        {"webhook_url": "https://chat.test/hook/1"},
        {"text": "see", "url": "https://hooks.slack.com/services/T000/B000/XXXX"},
        {"text": "xoxb-123456789012-abcdef"},
    ],
    ids=str,
)
def test_a_notifier_s_arguments_hold_no_secret(arguments: dict[str, Any]) -> None:
    data = {**MINIMAL, "notifications": {"on_failure": [{"notifier": "a.B", "arguments": arguments}]}}
    with pytest.raises(ConfigError) as caught:
        validate_config(data, "config.yaml")
    assert "{connection: ID, field: password}" in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "FLYWHEEL_TEACHER_API_KEY"]
)
def test_a_pod_s_variables_hold_no_secret(name: str) -> None:
    data = {**MINIMAL, "runtime": {"kubernetes": {"environment": {name: PASSWORD}}}}
    with pytest.raises(ConfigError, match=r"runtime\.kubernetes\.secrets"):
        validate_config(data, "config.yaml")


@pytest.mark.parametrize(
    "section",
    [
        {"artifacts": {"root": "abfs://container@account.dfs.core.windows.net/flywheel"}},
        {"source": {"path": "s3://bucket/a@b/*.csv"}},
        {"mlflow_config": {"tracking_uri": "http://mlflow.test:5000/team@desk"}},
        {"teacher": {"base_url": "https://x.test/v1?api-version=2024-10-21"}},
        {"teacher": {"request": {"max_completion_tokens": 100}}},
        {"runtime": {"kubernetes": {"environment": {"TOKENIZERS_PARALLELISM": "false"}}}},
        {"runtime": {"kubernetes": {"tolerations": [{"key": "nvidia.com/gpu"}], "secrets": ["flywheel-s3"]}}},
        {
            "notifications": {
                "on_failure": [
                    {
                        "notifier": "a.B",
                        "arguments": {
                            "slack_conn_id": "slack",
                            "token": {"connection": "desk", "field": "password"},
                            "to": "desk@bank.test",
                            "dedup_key": "night",
                        },
                    }
                ]
            }
        },
    ],
    ids=str,
)
def test_what_only_looks_like_one_is_taken(section: dict[str, Any]) -> None:
    validate_config({**MINIMAL, **section}, "config.yaml")


def test_the_shipped_configs_hold_none() -> None:
    project = Path(__file__).parents[2]
    for file in (project / "include/config.yaml", project / "docker/compose.config.yaml"):
        validate_config(yaml.safe_load(file.read_text()), str(file))


def test_a_notifier_gets_what_its_connection_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_DESK", f'{{"conn_type": "http", "password": "{PASSWORD}", "extra": {{"team": "fx"}}}}'
    )
    arguments = {
        "token": {"connection": "desk", "field": "password"},
        "blocks": [{"team": {"connection": "desk", "field": "extra.team"}}],
        "text": "promoted",
    }
    assert resolved(arguments) == {"token": PASSWORD, "blocks": [{"team": "fx"}], "text": "promoted"}
    with pytest.raises(ConfigError, match="no login"):
        resolved({"connection": "desk", "field": "login"})
    with pytest.raises(ConfigError, match="AIRFLOW_CONN_NOBODY"):
        resolved({"connection": "nobody", "field": "password"})
