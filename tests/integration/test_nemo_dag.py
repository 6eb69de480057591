"""A file of the NVIDIA Data Flywheel Blueprint turns the whole DAG on the stand-in for NeMo, as runtime local does.

By `airflow dags test`: the whole of Airflow's database and tasks, with the triggers run in line, no scheduler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flywheel.artifacts import ArtifactRoot
from flywheel.demo.headlines import write_csv
from flywheel.laptop.processes import free_port
from tests.integration.airflow_stack import PROJECT, STUDENTS, wait_for

pytestmark = pytest.mark.slow

SIZE = 120
# As its users have it; the addresses are the stand-in's.
BLUEPRINT = """\
nims:
  - {model_name: "meta/llama-3.2-1b-instruct", model_type: "llm", context_length: 8192, gpus: 1, pvc_size: 25Gi,
     tag: "1.8.3", customization_enabled: true,
     customizer_configs: {target: "meta/llama-3.2-1b-instruct@2.0", gpus: 1, max_seq_length: 8192}}
data_split_config: {eval_size: 60, val_ratio: 0.1, min_total_records: 50, random_seed: 42, limit: null,
                    parse_function_arguments: true, stratify_enabled: true, min_samples_per_class: 2,
                    rare_class_threshold: 1}
training_config: {training_type: sft, finetuning_type: lora, epochs: 1, batch_size: 64, learning_rate: 0.0001}
lora_config: {adapter_dim: 16, adapter_dropout: 0.1, sequence_packing_enabled: true}
evaluation_config: {workload_type: classification, tool_eval_type: tool-calling-metric}
nmp_config: {nemo_base_url: "URL/nemo", nim_base_url: "URL/nim", datastore_base_url: "URL/datastore",
             nmp_namespace: mdfd}
mlflow_config: {tracking_uri: "sqlite:///FOLDER/mlflow.db", experiment_name_prefix: findistil,
                artifact_location: FOLDER/mlruns}
logging_config: {level: INFO}
"""


@contextmanager
def serving(command: list[str], url: str, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "flywheel.cli", *command], env=environment)
    try:
        wait_for(lambda: process.poll() is None and answers(url), 240)
        yield
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def turn(folder: Path, environment: dict[str, str], name: str, **overrides: Any) -> dict[str, float]:
    """Turn the wheel once; return the scores of the table."""
    root = folder / name
    conf = {
        "sizes": [SIZE],
        "overrides": {
            "source": [{"path": "headlines.csv", "columns": {"human_label": "human_label"}}],
            "teacher": {"model": "stand-in", "concurrency": 4},
            "artifacts": {"root": str(root)},
            "promotion": {"within": 1.0},
            **overrides,
        },
    }
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "test", "flywheel", "--conf", json.dumps(conf)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    (run,) = ArtifactRoot(str(root)).list("runs")
    report = json.loads((root / "runs" / run / "report.json").read_text())
    assert report["decision"]["state"] == "promoted"
    return {f"{row['student']} @ {row['size']}": row["f1_weighted"] for row in report["candidates"]}


def test_the_whole_dag_gives_the_table_of_runtime_local(tmp_path: Path) -> None:
    home, teacher, nemo = tmp_path / "home", free_port(), free_port()
    home.mkdir()
    for name in ("dags", "plugins", "include"):
        (home / name).symlink_to(PROJECT / name)
    write_csv(home / "headlines.csv", 420)
    url = f"http://127.0.0.1:{nemo}"
    (home / "config.yaml").write_text(BLUEPRINT.replace("URL", url).replace("FOLDER", str(tmp_path)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment.update(
        FLYWHEEL_HOME=str(home),
        FLYWHEEL_CONFIG=str(home / "config.yaml"),
        FLYWHEEL_DEVICE="cpu",
        AIRFLOW_HOME=str(home / "state" / "airflow"),
        AIRFLOW_CONN_FLYWHEEL_TEACHER=f"http://127.0.0.1:{teacher}/v1",
    )
    prepare = "from flywheel.laptop import home, prepare; prepare(); home.write_settings(home.Ports())"
    subprocess.run([sys.executable, "-c", prepare], env=environment, check=True)
    labels = ["stand-in-teacher", "--answers", str(home / "headlines.csv"), "--port", str(teacher)]
    services = [
        "stand-in-nemo",
        "--folder",
        str(tmp_path / "nemo"),
        "--port",
        str(nemo),
        "--pending-seconds",
        "0.2",
    ]
    with (
        serving(labels, f"http://127.0.0.1:{teacher}/health", environment),
        serving(services, f"{url}/health", environment),
    ):
        there = turn(tmp_path, environment, "nemo")
        stats = httpx.get(f"{url}/stand-in/stats", trust_env=False).json()
        # The same file on runtime local, which needs to know where the weights are.
        nims = yaml.safe_load((home / "config.yaml").read_text())["nims"]
        here = [{**nim, "weights": f"{STUDENTS}/small"} for nim in nims]
        local = turn(tmp_path, environment, "local", runtime={"type": "local"}, nims=here)
    assert there == local
    assert stats["deployed"] == [] and stats["wrong"] == []
    assert stats["counts"]["customizations made"] == stats["counts"]["datasets made"] == 1
