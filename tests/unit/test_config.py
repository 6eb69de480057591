"""The configuration: blueprint files load unchanged, and a mistake names file, line, key and the nearest key."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flywheel.common.errors import ConfigError
from flywheel.config import load_config
from flywheel.config.overrides import override_config
from flywheel.demo.tasks import write_missing
from flywheel.runs.plan import make_plan
from flywheel.workloads.records import Record

BLUEPRINT = """\
nims:
  - {model_name: "meta/llama-3.2-1b-instruct", model_type: "llm", context_length: 8192, gpus: 1, pvc_size: 25Gi,
     tag: "1.8.3", customization_enabled: true,
     customizer_configs: {target: "meta/llama-3.2-1b-instruct@2.0", gpus: 1, max_seq_length: 8192}}
data_split_config: {eval_size: 100, val_ratio: 0.1, min_total_records: 50, random_seed: 42, limit: null,
                    parse_function_arguments: true, stratify_enabled: true, min_samples_per_class: 2,
                    rare_class_threshold: 1}
training_config: {training_type: sft, finetuning_type: lora, epochs: 1, batch_size: 64, learning_rate: 0.0001}
lora_config: {adapter_dim: 16, adapter_dropout: 0.1, sequence_packing_enabled: true}
evaluation_config: {workload_type: classification, tool_eval_type: tool-calling-metric}
nmp_config: {nemo_base_url: "http://nemo.test", nim_base_url: "http://nim.test",
             datastore_base_url: "http://data-store.test", nmp_namespace: mdfd}
mlflow_config: {tracking_uri: "http://0.0.0.0:5000", experiment_name_prefix: findistil, artifact_location: ./mlruns}
logging_config: {level: INFO}
"""

MINIMAL = "nims:\n  - {model_name: meta/llama-3.2-1b-instruct}\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_blueprint_file_loads_unchanged(write) -> None:
    config = load_config(write(BLUEPRINT))
    student = config.students[0]
    assert (student.name, student.gpus, student.customizer_configs.max_seq_length) == ("1b", 1, 8192)
    assert config.data_split_config.eval_size == 100
    assert config.mlflow_config.experiment_name_prefix == "findistil"


def test_a_blueprint_file_means_nemo_and_a_runtime_of_its_own_stays(write) -> None:
    assert load_config(write(BLUEPRINT)).runtime.type == "nemo"
    assert load_config(write(BLUEPRINT + "runtime: {parallel: 2}\n")).runtime.type == "nemo"
    assert load_config(write(BLUEPRINT + "runtime: {type: local}\n")).runtime.type == "local"
    assert load_config(write(MINIMAL)).runtime.type == "local"


def test_nemo_without_its_addresses_is_an_error(write) -> None:
    with pytest.raises(ConfigError, match=r"nmp_config\.nemo_base_url, as runtime.type is nemo"):
        load_config(write(MINIMAL + "runtime: {type: nemo}\n"))
    with pytest.raises(ConfigError, match=r"nmp_config\.nemo_base_url: expected an address such as"):
        load_config(write(MINIMAL + "nmp_config: {nemo_base_url: nemo.test}\n"))


def test_nim_is_another_spelling_of_nims(write) -> None:
    assert load_config(write(BLUEPRINT.replace("nims:", "nim:"))) == load_config(write(BLUEPRINT))


def test_keys_without_effect_are_named_in_one_log_line(write, caplog) -> None:
    for _ in range(2):
        load_config(write(BLUEPRINT))
    lines = [record.getMessage() for record in caplog.records if "without effect" in record.getMessage()]
    assert len(lines) == 1
    assert "nims.*.model_type" in lines[0]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize("name, kind", [("tool_calling", "auto"), ("generic", "generic")])
def test_the_demos_of_other_workloads_are_valid_and_have_their_records(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(f"include/{name}.yaml")
    plan = make_plan(config, run_id="r", cutoff=datetime(2026, 1, 1, tzinfo=UTC))
    assert plan.workload.classes == ()
    assert config.evaluation_config.workload_type == kind
    (source,) = config.source
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    write_missing([source.path, "another/file.jsonl"])
    (written,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == tmp_path / source.path
    assert (
        Record.from_json(json.loads(written.read_bytes().splitlines()[0]), (), {}).workload_id
        == plan.workload_id
    )


def test_the_shipped_config_is_valid() -> None:
    assert len(load_config().students) == 3


@pytest.mark.parametrize(
    ("model_name", "name"),
    [
        ("meta/llama-3.2-1b-instruct", "1b"),
        ("meta/llama-3.1-8b-instruct", "8b"),
        ("nvidia/llama-3.3-nemotron-super-49b-v1", "49b"),
        ("own/tiny-0.5m", "0.5m"),
        ("distilgpt2", "distilgpt2"),
    ],
)
def test_short_names_come_from_the_size_in_the_model_name(write, model_name: str, name: str) -> None:
    assert load_config(write(f"nims: [{{model_name: {model_name}}}]")).students[0].name == name


def test_one_source_may_stand_without_a_list(write) -> None:
    config = load_config(write(MINIMAL + "source: {path: data/*.csv}\n"))
    assert [source.path for source in config.source] == ["data/*.csv"]


WRONG = {
    "unknown section": (
        MINIMAL + "trainig_config: {epochs: 2}\n",
        ["line 3", "trainig_config", "'training_config'"],
    ),
    "unknown key": (
        MINIMAL + "training_config:\n  epochs: 2\n  batchsize: 3\n",
        ["line 5", "training_config.batchsize", "'batch_size'"],
    ),
    "unknown key in a list": ("nims:\n  - model_name: a\n    gpu: 1\n", ["line 3", "nims.0.gpu", "'gpus'"]),
    "unknown nested key": (
        "nims:\n  - model_name: a\n    customizer_configs:\n      max_seq_len: 1\n",
        ["line 4", "max_seq_len", "'max_seq_length'"],
    ),
    "key like no other": (MINIMAL + "zzz: 1\n", ["line 3", "zzz", "valid keys are"]),
    "missing students": ("client_id: a\n", ["line 1", "nims", "missing"]),
    "no students": ("nims: []\n", ["line 1", "nims", "at least 1"]),
    "missing model name": ("nims:\n  - {gpus: 1}\n", ["line 2", "nims.0.model_name", "missing"]),
    "empty model name": ("nims: [{model_name: ''}]\n", ["model_name", "at least 1 character"]),
    "two students of one name": (
        "nims: [{model_name: a/x-1b}, {model_name: b/y-1b}]\n",
        ["nims", "'1b'", "different names"],
    ),
    "name with a slash": ("nims: [{model_name: a, name: a/b}]\n", ["letters, digits"]),
    "text for a number": (
        MINIMAL + "training_config: {epochs: many}\n",
        ["training_config.epochs", "'many'"],
    ),
    "negative rate": (
        MINIMAL + "training_config: {learning_rate: -1}\n",
        ["learning_rate", "greater than 0"],
    ),
    "rate as text": (MINIMAL + "training_config: {learning_rate: fast}\n", ["learning_rate", "valid number"]),
    "val_ratio of 1": (MINIMAL + "data_split_config: {val_ratio: 1}\n", ["val_ratio", "less than 1"]),
    "eval_size of 0": (
        MINIMAL + "data_split_config: {eval_size: 0}\n",
        ["eval_size", "greater than or equal to 1"],
    ),
    "sizes that fall": (MINIMAL + "sizes: [500, 100]\n", ["line 3", "sizes", "rising numbers"]),
    "sizes that repeat": (MINIMAL + "sizes: [100, 100]\n", ["sizes", "rising numbers"]),
    "size of zero": (MINIMAL + "sizes: [0]\n", ["sizes.0", "greater than or equal to 1"]),
    "unknown training type": (
        MINIMAL + "training_config: {training_type: dpo}\n",
        ["training_type", "'sft'"],
    ),
    "unknown runtime": (MINIMAL + "runtime: {type: slurm}\n", ["runtime.type", "'local'", "'slurm'"]),
    "unknown store": (MINIMAL + "store: {type: mongodb}\n", ["store.type", "'sqlite'"]),
    "unknown level": (MINIMAL + "logging_config: {level: LOUD}\n", ["logging_config.level", "'INFO'"]),
    "unknown zone": (MINIMAL + "schedule: {time_zone: Mars/Olympus}\n", ["schedule.time_zone", "IANA"]),
    "bad cron": (MINIMAL + "schedule: {cron: nightly}\n", ["schedule.cron", "five fields"]),
    "six cron fields": (MINIMAL + "schedule: {cron: '0 0 2 * * *'}\n", ["schedule.cron", "five fields"]),
    "notifier without a module": (
        MINIMAL + "notifications: {on_failure: [{notifier: Slack}]}\n",
        ["notifications.on_failure.0.notifier", "'Slack'"],
    ),
    "section as a list": (MINIMAL + "teacher: [a]\n", ["line 3", "teacher"]),
    "list for the whole file": ("- a\n- b\n", ["line 1", "expected a mapping"]),
    "empty file": ("", ["expected a mapping"]),
    "key given twice": (MINIMAL + "sizes: [1]\nsizes: [2]\n", ["line 4", "'sizes'", "line 3"]),
    "not YAML": ("nims: [\n", ["line", "not valid YAML"]),
    "tab indentation": ("nims:\n\t- a\n", ["line 2", "not valid YAML"]),
    "not UTF-8": (b"client_id: \xff\xfe\n", ["UTF-8"]),
    "a cascade without probabilities": (
        MINIMAL + "serving: {cascade: {agreement: 0.95}}\n",
        ["evaluation_config.decoding: labels", "serving.cascade"],
    ),
    "a cascade without a slice to set it on": (
        MINIMAL + "serving: {cascade: {agreement: 0.95}}\nevaluation_config: {decoding: labels}\n",
        ["data_split_config.calibration_ratio", "serving.cascade"],
    ),
    "a Python object": ("nims: !!python/object/apply:os.getcwd []\n", ["line 1", "not valid YAML"]),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_config_names_file_line_key_and_what_was_expected(write, case: str) -> None:
    text, expected = WRONG[case]
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert str(path) in message
    for part in expected:
        assert part in message, message


def test_all_mistakes_of_a_file_are_named_at_once(write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(MINIMAL + "training_config: {epochs: 0, batch_size: 0}\nstore: {kind: x}\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; set FLYWHEEL_CONFIG"):
        load_config(tmp_path / "none.yaml")


def test_an_override_changes_one_key_and_is_validated(write) -> None:
    config = load_config(write(BLUEPRINT))
    changed, exam = override_config(config, {"training_config": {"epochs": 3}})
    assert exam == ()
    assert changed.training_config.epochs == 3
    assert changed.training_config.batch_size == config.training_config.batch_size
    assert changed.students == config.students
    with pytest.raises(ConfigError, match=r"run parameters: training_config\.epoch: .*'epochs'"):
        override_config(config, {"training_config": {"epoch": 3}})


def test_the_reference_page_is_the_schema_s() -> None:
    from flywheel.config.reference import page

    committed = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert committed.read_text() == page(), "python -m flywheel.config.reference > docs/configuration.md"


def test_every_key_of_the_schema_is_explained() -> None:
    from flywheel.config.reference import page

    unexplained = [line for line in page().splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert unexplained == []
