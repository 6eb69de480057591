"""What a run may set of the configuration: scientific settings, and nothing that is the operator's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk import BaseNotifier
from airflow.sdk.exceptions import ParamValidationError
from jsonschema import Draft7Validator
from jsonschema.validators import validator_for
from pydantic import BaseModel

from flywheel.common.errors import ConfigError
from flywheel.config import Config, load_config
from flywheel.config.loading import validate_config
from flywheel.config.overrides import override_config
from flywheel.config.sides import MOST, SIDES, is_open, leaves, side_of
from flywheel.orchestration import dag_params
from flywheel.orchestration.ahead import import_ahead
from flywheel.orchestration.notifications import notify
from flywheel.orchestration.settings import config_of, read_config, unchanged_as_none
from flywheel.runs.plan import make_plan

NIMS = [{"model_name": "meta/llama-3.2-1b-instruct"}, {"model_name": "meta/llama-3.1-8b-instruct"}]
# Sections of which no key is a run's.
CLOSED = ["nims", "source", "teacher", "runtime", "store", "artifacts", "schedule", "notifications"]
CLOSED += ["mlflow_config", "logging_config", "api", "nmp_config", "llm_judge_config"]
# What the last reviewer did, and what stands open in the same way.
ATTACKS: list[tuple[str, dict[str, Any]]] = [
    ("notifications", {"notifications": {"on_promotion": [{"notifier": "subprocess.check_output"}]}}),
    ("notifications", {"notifications": {}}),
    ("teacher", {"teacher": {"further_endpoints": [{"base_url": "http://x", "key_variable": "HOME"}]}}),
    ("teacher", {"teacher": {"budget": {"calls": None}}}),
    ("source", {"source": {"path": "/etc/passwd"}}),
    ("source", {"source": [{"path": "/etc/passwd"}]}),
    ("runtime", {"runtime": {"python": "/tmp/python"}}),
    ("runtime", {"runtime": {"kubernetes": {"pod_template": "x"}}}),
    ("artifacts", {"artifacts": {"root": "/tmp"}}),
    ("store", {"store": {"path": "/tmp/x"}}),
    ("llm_judge_config", {"llm_judge_config": {"api_key_env": "AWS_SECRET_ACCESS_KEY", "url": "http://x"}}),
    ("mlflow_config", {"mlflow_config": {"tracking_uri": "http://x"}}),
    ("nims", {"nims": [{"model_name": "x", "weights": "/etc"}]}),
    ("nims", {"nim": [{"model_name": "x", "weights": "/etc"}]}),
    ("workload", {"workload": "/etc/passwd"}),
    ("client_id", {"client_id": "another"}),
    ("api", {"api": {"token_required": False}}),
    ("promotion.approval_timeout_hours", {"promotion": {"approval_timeout_hours": 1e9}}),
    ("training_config.checkpoint_seconds", {"training_config": {"checkpoint_seconds": 0.001}}),
    (
        "icl_config.similarity_config.embedding_nim_config",
        {"icl_config": {"similarity_config": {"embedding_nim_config": {"url": "http://x"}}}},
    ),
]
LOOSER: list[tuple[str, Any]] = [
    ("within", 0.2),
    ("error_rate", 0.1),
    ("margin", 0.5),
    ("min_eval", 399),
    ("hold_share", 0.1),
    ("approval", "automatic"),
]
STRICTER = {"within": 0.01, "error_rate": 0.001, "margin": 0, "min_eval": 9000, "hold_share": 1}


@pytest.fixture
def config() -> Config:
    sections = {"promotion": {"approval": "human"}, "icl_config": {"max_examples": 2}}
    return validate_config({"nims": NIMS, **sections}, "test")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a project's folder with a config file."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"nims": NIMS, "artifacts": {"root": "here"}}))
    (tmp_path / "experiments").mkdir()
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(tmp_path / "config.yaml"))
    return tmp_path


def write(home: Path, name: str, **sections: Any) -> None:
    (home / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(sections))


# -- sides ---------------------------------------------------------------------------------------------


def test_every_key_of_the_schema_has_its_side() -> None:
    """A new key fails here until it has its row in flywheel.config.sides."""
    assert {path for path, _ in leaves()} == set(SIDES)
    assert set(MOST) <= {path for path, side in SIDES.items() if side == "run"}


def test_what_reaches_out_of_an_experiment_is_the_operators() -> None:
    for path in SIDES:
        section = path.split(".")[0]
        assert (side_of(path) == "operator") or section not in CLOSED, path
    words = ("url", "uri", "path", "key", "image", "secret", "connection", "python", "root", "variable")
    ours = [path for path, side in SIDES.items() if side != "operator"]
    assert not [path for path in ours if any(word in path.rpartition(".")[2] for word in words)]
    assert not any(is_open(section) for section in CLOSED)


def test_a_key_without_a_row_is_the_operators() -> None:
    assert side_of("training_config.new_key") == "operator"


@pytest.mark.parametrize("path", [path for path, side in SIDES.items() if side == "operator"])
def test_each_key_of_the_operators_is_refused_by_its_name(config: Config, path: str) -> None:
    value: Any = "x"
    for name in reversed(path.split(".")):
        value = {name: value}
    with pytest.raises(ConfigError, match="the operator's files set it") as refused:
        override_config(config, value)
    named = str(refused.value).split(":")[0]
    assert path == named or path.startswith(f"{named}.")


@pytest.mark.parametrize(("named", "overrides"), ATTACKS)
def test_a_run_does_not_set_what_is_the_operators(
    config: Config, named: str, overrides: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"^{named}: a run may not set this; the operator's files set it"):
        make_plan(config, run_id="r", cutoff=datetime.now(UTC), overrides=overrides)
    with pytest.raises(ParamValidationError, match="the operator's files set it"):
        dag_params(config)["overrides"].resolve(overrides)


def test_a_process_that_has_done_it_ahead_does_not_write_the_schema_again(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.orchestration.ahead.read_config", lambda: config)
    import_ahead()
    monkeypatch.setattr(BaseModel, "model_json_schema", lambda *_, **__: pytest.fail("written again"))
    assert dag_params(config)["overrides"].schema["properties"]


LATER = {"prefixItems", "unevaluatedProperties", "dependentRequired", "$dynamicRef", "$defs", "minContains"}


def test_params_are_of_a_draft_that_is_checked_fast_and_knows_all_their_keywords(config: Config) -> None:
    for name, param in dag_params(config).items():
        assert validator_for(param.schema) is Draft7Validator, name
        assert not LATER & set(keys(param.schema)), name


def keys(schema: Any) -> Iterator[str]:
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    yield from schema if isinstance(schema, dict) else ()
    for one in inner:
        yield from keys(one)


def test_all_that_is_refused_is_named(config: Config) -> None:
    with pytest.raises(ConfigError) as refused:
        override_config(config, {"store": {"path": "x"}, "artifacts": {"root": "x"}, "lora_config": 3})
    lines = str(refused.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["store", "artifacts", "lora_config"]


# -- what a run sets -----------------------------------------------------------------------------------


def test_a_run_sets_scientific_keys_and_may_promote_by_itself(tmp_path: Path) -> None:
    config = validate_config({"nims": NIMS, "artifacts": {"root": str(tmp_path)}}, "test")
    overrides = {
        "sizes": [7, 9],
        "student_prompt": "text",
        "training_config": {"epochs": 3, "learning_rate": 0.002},
        "lora_config": {"adapter_dim": 8, "adapter_alpha": 4},
        "evaluation_config": {"max_new_tokens": 9},
        "icl_config": {"max_examples": 1},
    }
    dag_params(config)["overrides"].resolve(overrides)
    plan = make_plan(config, run_id="r", cutoff=datetime.now(UTC), overrides=overrides)
    assert plan.config.sizes == (7, 9)
    assert plan.config.training_config.batch_size == config.training_config.batch_size
    assert (plan.config.lora_config.adapter_dim, plan.config.lora_config.alpha) == (8, 4)
    assert plan.config.icl_config is not None and plan.config.icl_config.max_examples == 1
    assert plan.exam_changes == () and plan.needs_a_person == ""


@pytest.mark.parametrize(
    "overrides",
    [
        {"training_config": {"epochs": 10**6}},
        {"training_config": {"epochs": 0}},
        {"training_config": {"epochs": "many"}},
        {"lora_config": {"adapter_dim": 10**9}},
        {"sizes": [10**12]},
        {"sizes": list(range(1, 100))},
        {"icl_config": {"max_context_length": 10**9}},
        {"training_config": {"epoch": 1}},
        {"trainig_config": {}},
    ],
)
def test_form_and_plan_have_the_same_bounds(config: Config, overrides: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        override_config(config, overrides)
    with pytest.raises(ParamValidationError):
        dag_params(config)["overrides"].resolve(overrides)


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ({"data_split_config": {"random_seed": 7}}, ("data_split_config.random_seed",)),
        ({"data_split_config": {"random_seed": 42}}, ()),
        ({"data_split_config": {"split": "temporal"}}, ("data_split_config.split",)),
        ({"data_split_config": {"eval_size": 10}}, ("data_split_config.eval_size",)),
        ({"promotion": {"metric": "accuracy"}}, ("promotion.metric",)),
        ({"promotion": {"of": "best"}}, ("promotion.of",)),
        ({"evaluation_config": {"bootstrap_samples": 100}}, ("evaluation_config.bootstrap_samples",)),
    ],
)
def test_another_examination_waits_for_a_person(
    tmp_path: Path, overrides: dict[str, Any], changed: tuple[str, ...]
) -> None:
    config = validate_config({"nims": NIMS, "artifacts": {"root": str(tmp_path)}}, "test")
    plan = make_plan(config, run_id="r", cutoff=datetime.now(UTC), overrides=overrides)
    assert plan.exam_changes == changed
    assert bool(plan.needs_a_person) == bool(changed)
    assert all(key in plan.needs_a_person for key in changed)


def test_a_gate_may_be_made_stricter(config: Config) -> None:
    changed, exam = override_config(config, {"promotion": STRICTER})
    assert {key: getattr(changed.promotion, key) for key in STRICTER} == STRICTER
    assert exam == ()
    dag_params(config)["overrides"].resolve({"promotion": STRICTER})


@pytest.mark.parametrize(("key", "value"), LOOSER)
def test_a_gate_is_never_made_looser(config: Config, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^promotion.{key}: .*never looser than the operator's files"):
        override_config(config, {"promotion": {key: value}})
    with pytest.raises(ParamValidationError):
        dag_params(config)["overrides"].resolve({"promotion": {key: value}})


def test_approval_by_a_person_is_not_taken_away(config: Config) -> None:
    assert dag_params(config)["approval"].schema["enum"] == ["human"]
    with pytest.raises(ConfigError, match="approval: human"):
        make_plan(config, run_id="r", cutoff=datetime.now(UTC), approval="automatic")


# -- the form ------------------------------------------------------------------------------------------


def test_fields_of_the_form_that_nobody_changed_are_as_the_file_says_when_the_run_starts(home: Path) -> None:
    form = {name: param.value for name, param in dag_params(load_config()).items()}
    params = unchanged_as_none(form | {"students": ["8b"]}, load_config())
    assert params.pop("students") == ["8b"]
    assert set(params.values()) == {None}


# -- notifiers -----------------------------------------------------------------------------------------

CALLED: list[str] = []


class Heard(BaseNotifier):
    """Notes that it was called."""

    def __init__(self, text: str = "heard") -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Any) -> None:
        CALLED.append(self.text)


def shell(**_: Any) -> Any:
    """Stand for what runs a shell."""
    CALLED.append("a shell ran")
    return lambda context: None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("subprocess.check_output", "BaseNotifier"),
        (f"{__name__}.shell", "BaseNotifier"),
        ("collections.OrderedDict", "BaseNotifier"),
        ("no_such_module.Notifier", "cannot be imported"),
    ],
)
def test_only_notifiers_are_called(home: Path, path: str, said: str) -> None:
    CALLED.clear()
    notifications = {"on_promotion": [{"notifier": path}]}
    write(home, "loud", notifications=notifications)
    with pytest.raises(ConfigError, match=rf"notifications\.on_promotion\.0\.notifier: .*{said}"):
        config_of("loud")
    (home / "config.yaml").write_text(yaml.safe_dump({"nims": NIMS, "notifications": notifications}))
    with pytest.raises(ConfigError, match=said):
        read_config()
    notify(load_config().notifications.on_promotion, {})
    assert CALLED == []


def test_a_notifier_is_called(home: Path) -> None:
    CALLED.clear()
    write(home, "loud", notifications={"on_promotion": [{"notifier": f"{__name__}.Heard"}]})
    notify(config_of("loud").notifications.on_promotion, {})
    assert CALLED == ["heard"]
