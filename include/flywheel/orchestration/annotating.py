"""The tasks of the DAG `flywheel_annotate`: a plan, one job for each shard of time, and the manifest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Param, get_current_context, task

from flywheel.common.errors import ConfigError
from flywheel.common.redaction import install
from flywheel.config import Config
from flywheel.config.experiments import experiment_of
from flywheel.orchestration.settings import read_config
from flywheel.runtimes import open_runtime
from flywheel.runtimes.context import cutoff_of
from flywheel.workloads.experiments import experiments

_TIME = r"^$|^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?)?$"


def annotating() -> dict[str, Config]:
    """Return the experiments with a section `annotation`, by name: each has a DAG.

    Raises:
        ConfigError: config.yaml is wrong. An experiment that is wrong is its own DAG's matter.
    """
    found = {"": read_config()} | {one.name: one.config for one in experiments() if one.name}
    return {name: one for name, one in found.items() if one and "annotation" in one.model_fields_set}


def annotate_params() -> dict[str, Param]:
    """Return the fields of the trigger form; where texts and labels lie is the operator's alone."""
    return {
        "from": Param(
            "",
            type="string",
            pattern=_TIME,
            title="From",
            description="UTC date or time from which on texts are labelled. Empty: the last days, as "
            "annotation.days says.",
        ),
        "to": Param(
            "", type="string", pattern=_TIME, title="To", description="Before which they are. Empty: now."
        ),
    }


@task(max_active_tis_per_dag=1, execution_timeout=timedelta(hours=12))
def plan_shards() -> list[str]:
    """Read the sources once; return the specs of the shards that are to be labelled."""
    from flywheel.annotation.work import plan_work, unfinished
    from flywheel.artifacts.root import ArtifactRoot
    from flywheel.config import load_config

    install()
    context = get_current_context()
    config = load_config(experiment=experiment_of(context["ti"].dag_id))
    params = context["params"]
    end = _time(params["to"]) or cutoff_of(context)
    start = _time(params["from"]) or end - timedelta(days=config.annotation.days)
    work = plan_work(config, start, end)
    context["ti"].xcom_push(key="work", value={"root": config.artifacts.root, "path": work.path})
    root = ArtifactRoot(config.artifacts.root)
    return [f"{root.url}/{work.spec_path(shard)}" for shard in unfinished(work)]


@task(trigger_rule="none_failed", execution_timeout=timedelta(hours=1))
def write_manifest() -> dict[str, Any]:
    """Write the manifest and the data card over all files."""
    from flywheel.annotation.work import finish_work, read_work
    from flywheel.artifacts.root import ArtifactRoot

    where = get_current_context()["ti"].xcom_pull(task_ids="plan_shards", key="work")
    work = read_work(ArtifactRoot(where["root"]), where["path"])
    manifest = finish_work(work)
    return {"out": work.out, "rows": manifest.rows, "labelled": manifest.labelled, "digest": manifest.digest}


def shards(config: Config) -> Any:
    """Return the tasks of the shards, by the config's runtime, which are to be expanded over specs."""
    return open_runtime(config).shards()


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise ConfigError(f"from, to: expected a date or a time such as 2019-03-01, got {text!r}") from None
