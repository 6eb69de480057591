"""Whose each key of the configuration is: the one table of what a run may set for itself.

Who may start a run is not the operator. A run's params choose among scientific settings; addresses, paths,
code, names of variables, images and looser gates come from the operator's files alone.

    run       a run sets it as it likes, within `MOST`
    exam      decides how candidates are examined: a run that changes it never promotes by itself
    gate      a run may make it stricter, never looser
    operator  the operator's files alone set it

A key that is in no row here is the operator's, and fails a test: each new key needs its row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from flywheel.config.schema import Config, section_in

Side = Literal["run", "exam", "gate", "operator"]

# Keys by section, "" for the top level. A list of sections, such as `nims`, is a section here.
_TABLE: dict[Side, dict[str, str]] = {
    "run": {
        "": "sizes student_prompt",
        "training_config": "training_type finetuning_type epochs batch_size learning_rate warmup_ratio "
        "weight_decay max_grad_norm min_steps early_stop_patience validations",
        "tuning": "trials",
        "lora_config": "adapter_dim adapter_dropout sequence_packing_enabled alpha",
        "evaluation_config": "batch_size max_new_tokens decoding",
        "icl_config": "max_context_length reserved_tokens max_examples min_examples example_selection",
        "icl_config.similarity_config": "relevance_ratio",
    },
    "exam": {
        "data_split_config": "eval_size val_ratio min_total_records random_seed limit "
        "parse_function_arguments stratify_enabled min_samples_per_class rare_class_threshold "
        "near_duplicate_similarity split event_similarity event_days gap_days calibration_ratio",
        "evaluation_config": "workload_type tool_eval_type bootstrap_samples",
        "promotion": "metric of",
    },
    "gate": {"promotion": "within error_rate margin min_eval approval four_eyes hold_share"},
    "operator": {
        "": "client_id workload embedding_config celery_config",
        "nims": "model_name model_type context_length gpus pvc_size tag registry_base "
        "customization_enabled name family weights",
        "nims.customizer_configs": "target gpus max_seq_length epochs learning_rate micro_batch_size "
        "training_precision num_nodes tensor_parallel_size data_parallel_size use_sequence_parallel",
        "serving": "port url switch_seconds batch_size wait_ms most_waiting engine timeout_seconds "
        "follow_seconds log log_folder audit",
        "serving.keys": "name sha256 connection models per_minute at_once",
        "serving.vllm": "student url connection folder",
        "serving.cascade": "agreement",
        "serving.watch": "cron time_zone",
        "source": "path kind format time_zone time_format known_after stale_after max_unpacked_gb max_ratio",
        "source.columns": "text timestamp human_label",
        "teacher": "model connection base_url key_header concurrency adaptive timeout_seconds max_attempts "
        "outage_seconds ask_again temperature max_tokens request logprobs",
        "teacher.headers": "name value variable extra",
        "teacher.further_endpoints": "connection base_url key_variable key_header",
        "teacher.further_endpoints.headers": "name value variable extra",
        "teacher.rate_limits": "requests_per_minute tokens_per_minute",
        "prices": "cpu_hour gpu_hour",
        "teacher.prices": "prompt cached_prompt completion currency",
        "teacher.budget": "calls tokens cost when_spent",
        "teacher.month_budget": "calls tokens cost",
        "teacher.confirm_above": "answers cost",
        "teacher.gate": "min_f1_weighted min_f1_macro min_records judge",
        "training_config": "checkpoint_seconds",
        "promotion": "approval_timeout_hours",
        "runtime": "type parallel threads python variables job_timeout_hours options",
        "runtime.kubernetes": "connection namespace image image_pull_policy image_pull_secrets "
        "service_account requests limits gpu_resource scratch node_selector priority_class "
        "priority_classes volume_claim environment secrets run_as_user pod_template wait_hours "
        "start_minutes lost_minutes log_seconds keep_failed_pods",
        "runtime.kubernetes.tolerations": "key operator value effect toleration_seconds",
        "runtime.kubernetes.students": "image requests limits node_selector priority_class environment "
        "pod_template",
        "runtime.kubernetes.students.tolerations": "key operator value effect toleration_seconds",
        "runtime.nemo": "parallel_jobs parallel_nims parallel_requests evaluator wait_hours deploy_minutes "
        "lost_minutes timeout_seconds poll_seconds serving_alias keep_datasets keep_adapters",
        "store": "type path",
        "store.elasticsearch": "connection index shards replicas wait_seconds timeout_seconds",
        "artifacts": "root",
        "schedule": "cron time_zone asset",
        "dag": "owner tags label_pool",
        "retention": "cron time_zone keep_runs runs_days copies_days quarantine_days unreferenced_days "
        "scratch_days mlflow_days production_days",
        "annotation": "cron time_zone mode lag out text shard_days days",
        "notifications.on_failure": "notifier arguments",
        "notifications.on_promotion": "notifier arguments",
        "notifications.on_worse_champion": "notifier arguments",
        "notifications.on_warning": "notifier arguments",
        "notifications.on_drift": "notifier arguments",
        "notifications.on_stuck": "notifier arguments",
        "notifications": "stuck_minutes",
        "mlflow_config": "tracking_uri experiment_name_prefix artifact_location enabled",
        "logging_config": "level",
        "api": "token_required max_body_kb max_records_mb reads_per_minute writes_per_minute",
        "nmp_config": "nemo_base_url nim_base_url datastore_base_url nmp_namespace key_variable",
        "llm_judge_config": "type url model_name api_key_env key_header request context_length gpus "
        "pvc_size tag registry_base parallel_requests timeout_seconds askings",
        "llm_judge_config.headers": "name value variable extra",
        "icl_config.similarity_config": "embedding_nim_config",
    },
}

SIDES: dict[str, Side] = {
    f"{section}.{key}".lstrip("."): side
    for side, sections in _TABLE.items()
    for section, keys in sections.items()
    for key in keys.split()
}

# The most that a run may ask for: one run is not to fill a disk, nor to keep a machine for a month.
MOST: dict[str, float] = {
    "sizes": 10_000_000,
    "training_config.epochs": 100,
    "training_config.batch_size": 4096,
    "training_config.learning_rate": 1,
    "training_config.weight_decay": 10,
    "training_config.max_grad_norm": 1000,
    "training_config.min_steps": 100_000,
    "training_config.early_stop_patience": 1000,
    "training_config.validations": 1000,
    "tuning.trials": 81,
    "lora_config.adapter_dim": 1024,
    "lora_config.alpha": 65_536,
    "evaluation_config.batch_size": 4096,
    "evaluation_config.max_new_tokens": 8192,
    "icl_config.max_context_length": 131_072,
    "icl_config.reserved_tokens": 131_072,
    "icl_config.max_examples": 64,
    "icl_config.min_examples": 64,
}
MOST_SIZES = 16

# Gates that are stricter where they are lower; the others are stricter where they are higher.
LOWER_IS_STRICTER = frozenset({"promotion.within", "promotion.error_rate", "promotion.margin"})
# Values of a gate that are words, from the loosest to the strictest.
WORDS: dict[str, tuple[str, ...]] = {"promotion.approval": ("automatic", "human")}


def leaves(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Give each key of the schema that is no section, by its dotted path."""
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner:
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def side_of(path: str) -> Side:
    """Return whose a key is; a key without a row is the operator's."""
    return SIDES.get(path, "operator")


def is_open(section: str) -> bool:
    """Return whether a run may set any key of a section."""
    return any(path.startswith(f"{section}.") and side != "operator" for path, side in SIDES.items())


def field_named(section: type[BaseModel], key: str) -> str | None:
    """Return the name of the field that a key of a file means, by whichever spelling; None: there is none."""
    if key in section.model_fields:
        return key
    for name, field in section.model_fields.items():
        if isinstance(field.validation_alias, AliasChoices) and key in field.validation_alias.choices:
            return name
    return None


def value_of(config: BaseModel, path: str) -> Any:
    """Return the value of a key; None where the section with it is not there."""
    value: Any = config
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value
