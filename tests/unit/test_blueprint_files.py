"""Files of the blueprint load unchanged: old ones, new ones and the pieces of its pages."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from flywheel.common.errors import ConfigError
from flywheel.config import Config, load_config
from flywheel.config.loading import validate_config
from flywheel.config.student import CustomizerConfig
from flywheel.runtimes.nemo.job import training_options

# The addresses and the student that a whole file has.
REST = {
    "nmp_config": {
        "nemo_base_url": "http://nemo.test",
        "nim_base_url": "http://nim.test",
        "datastore_base_url": "http://data-store.test",
    },
    "nims": [{"model_name": "meta/llama-3.2-1b-instruct", "context_length": 8192}],
}


def loaded(piece: str) -> Config:
    return validate_config({**REST, **yaml.safe_load(piece)}, "config.yaml")


def test_the_first_release_s_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "nmp_config: {nemo_base_url: 'http://nemo.test', nim_base_url: 'http://nim.test',\n"
        "             datastore_base_url: 'http://data-store.test', nim_parallelism: 2, nmp_namespace: dfwbp}\n"
        "logging_config: {level: INFO}\n"
        "llm_judge_config: {type: remote, url: 'https://judge.test/v1/chat/completions', model_id: m/j,\n"
        "                   api_key_env: NVCF_API_KEY}\n"
        "nims:\n"
        "  - {model_name: meta/llama-3.2-1b-instruct, context_length: 8192, gpus: null, pvc_size: null,\n"
        "     tag: null, customization_enabled: true, customizer_configs: null}\n"
        "data_split_config: {eval_size: 20, val_ratio: 0.1, min_total_records: 50, random_seed: null}\n"
        "icl_config: {max_context_length: 32768, reserved_tokens: 4096, max_examples: 3, min_examples: 1}\n"
        "training_config: {training_type: sft, finetuning_type: lora, epochs: 2, batch_size: 16,\n"
        "                  learning_rate: 0.0001}\n"
        "lora_config: {adapter_dim: 32, adapter_dropout: 0.1}\n"
    )
    config = load_config(path)
    assert config.data_split_config.random_seed == 42
    assert config.runtime.nemo.parallel_nims == 2
    assert config.students[0].gpus == 1


@pytest.mark.parametrize(
    "piece",
    [
        "data_split_config: {eval_size: 100, random_seed: null, limit: 1000}",
        "data_split_config: {eval_size: null, val_ratio: null, limit: null}",
        "lora_config: {adapter_dim: 32, adapter_alpha: 16, adapter_dropout: 0.1}",
        "llm_judge_config: {deployment_type: local, model_name: m/j, context_length: 32768, gpus: 4, tag: '1'}",
        "llm_judge_config: {type: remote, url: 'http://j.test', model_id: m/j, model_name: m/j}",
        "mlflow_config: {enabled: true, tracking_uri: 'http://0.0.0.0:5000'}",
        "mlflow_config:\nlogging_config:\nicl_config:\nllm_judge_config:\nevaluation_config:",
        "icl_config: {example_selection: uniform_distribution, similarity_config: null}",
        "celery_config: {task_time_limit: 7200, task_soft_time_limit: 6600}",
        "evaluation_config: {workload_type: auto, tool_eval_type: null}",
    ],
)
def test_a_piece_of_its_pages_loads(piece: str) -> None:
    assert loaded(piece).students[0].name == "1b"


def test_keys_that_mean_the_same_are_taken() -> None:
    assert loaded("lora_config: {adapter_alpha: 16}").lora_config.alpha == 16
    assert (
        loaded(
            "runtime: {nemo: {parallel_nims: 3}}\nnmp_config: {nim_parallelism: 1}"
        ).runtime.nemo.parallel_nims
        == 3
    )
    piece = "data_split_config: {random_seed: null}"
    assert loaded(piece).data_split_config == loaded("data_split_config: {}").data_split_config
    with pytest.raises(ConfigError, match="adapter_alpha"):
        loaded("lora_config: {adapter_alpha: 16, alpha: 32}")


def test_how_the_customizer_lays_a_job_out_is_told_to_it() -> None:
    config = loaded(
        "nims: [{model_name: m/8b, customizer_configs: {target: m/8b@2, gpus: 4, micro_batch_size: 2, "
        "training_precision: bf16-mixed, num_nodes: 1, tensor_parallel_size: 4, data_parallel_size: 1, "
        "use_sequence_parallel: false}}]"
    )
    options, more = training_options(config.students[0].customizer_configs)
    assert options == {
        "training_type": "sft",
        "finetuning_type": "lora",
        "num_gpus": 4,
        "micro_batch_size": 2,
        "num_nodes": 1,
        "tensor_parallel_size": 4,
        "data_parallel_size": 1,
        "use_sequence_parallel": False,
    }
    assert more == [options, "bf16-mixed"]
    assert training_options(CustomizerConfig(target="m/8b@2", gpus=2))[1] == []  # its name is as before


def test_what_has_no_effect_is_named_once_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**REST, "celery_config": {"a": 1}, "mlflow_config": {"enabled": False}}))
    for _ in range(3):
        load_config(path)
    told = [record for record in caplog.records if "without effect" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.WARNING]
    assert told[0].getMessage().endswith("without effect here: mlflow_config.enabled, celery_config")


def test_a_null_is_no_value_of_our_own_sections() -> None:
    for section in ("promotion: {within: null}", "artifacts: {root: null}", "client_id: null"):
        with pytest.raises(ConfigError):
            loaded(section)
