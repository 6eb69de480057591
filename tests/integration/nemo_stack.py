"""What the tests of the DAG on NeMo share: files as users of the blueprint have them, and the stand-in's server."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from flywheel.laptop.processes import free_port
from tests.integration.airflow_stack import STUDENTS, wait_for

STUDENTS_OF = {
    "meta/llama-3.2-1b-instruct": "small",
    "meta/llama-3.2-3b-instruct": "medium",
    "meta/llama-3.1-8b-instruct": "large",
}

# As its users have it; the addresses are the stand-in's.
_NIM = """\
  - {model_name: "MODEL", model_type: "llm", context_length: 8192, gpus: 1, pvc_size: 25Gi,
     tag: "1.8.3", customization_enabled: true,
     customizer_configs: {target: "MODEL@2.0", gpus: 1, max_seq_length: 8192}}
"""
_BLUEPRINT = """\
nims:
NIMS\
data_split_config: {eval_size: 60, val_ratio: 0.1, min_total_records: 50, random_seed: 42, limit: null,
                    parse_function_arguments: true, stratify_enabled: true, min_samples_per_class: 2,
                    rare_class_threshold: 1}
training_config: {training_type: sft, finetuning_type: lora, epochs: 4, batch_size: 16, learning_rate: 0.005, max_grad_norm: 0.3}
lora_config: {adapter_dim: 16, adapter_dropout: 0.1, sequence_packing_enabled: true}
evaluation_config: {workload_type: classification, tool_eval_type: tool-calling-metric}
nmp_config: {nemo_base_url: "URL/nemo", nim_base_url: "URL/nim", datastore_base_url: "URL/datastore",
             nmp_namespace: mdfd}
mlflow_config: {tracking_uri: "sqlite:///FOLDER/mlflow.db", experiment_name_prefix: findistil,
                artifact_location: FOLDER/mlruns}
logging_config: {level: INFO}
# Not the blueprint's: under `auto` each runtime takes its own form, and the tables are to be the same.
student_prompt: text
"""


def blueprint(url: str, folder: Path, students: int) -> str:
    """Return a file of the blueprint, with the first students of it."""
    nims = "".join(_NIM.replace("MODEL", model) for model in list(STUDENTS_OF)[:students])
    return _BLUEPRINT.replace("NIMS", nims).replace("URL", url).replace("FOLDER", str(folder))


def with_weights(nims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return students with the weights that are behind them on the stand-in, for runtime local."""
    return [{**nim, "weights": f"{STUDENTS}/{STUDENTS_OF[nim['model_name']]}"} for nim in nims]


class NemoServer:
    """The stand-in in a process of its own."""

    def __init__(self, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = environment
        self._options = options
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "flywheel_stand_ins", "nemo", "--port", str(self._port)]
        self._process = subprocess.Popen(
            [*command, "--folder", str(self._folder), *self._options], env=self._environment
        )
        wait_for(lambda: self._process.poll() is None and self._answers(), 240)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)
        self._process.wait()

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/stand-in/stats")
        return found

    def behave(self, **behaviour: Any) -> None:
        """Have it behave in some way from now on."""
        httpx.post(f"{self.url}/stand-in/behaviour", json=behaviour, trust_env=False).raise_for_status()

    def get(self, path: str, **query: Any) -> Any:
        answer = httpx.get(f"{self.url}{path}", params=query, timeout=60, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def champion(self) -> dict[str, str]:
        """Return where the champion's alias points: {"url", "model_id"}."""
        models = self.get("/nemo/v1/models", page_size=200)["data"]
        (endpoint,) = [model["api_endpoint"] for model in models if model["name"].startswith("champion-")]
        return dict(endpoint)

    def ask_champion(self) -> str:
        """Return what the model that the champion's alias points to answers."""
        endpoint = self.champion()
        body = {
            "model": endpoint["model_id"],
            "messages": [{"role": "user", "content": "Shares fell"}],
            "max_tokens": 8,
        }
        answer = httpx.post(endpoint["url"], json=body, timeout=240, trust_env=False)
        assert answer.is_success, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.HTTPError:
            return False
