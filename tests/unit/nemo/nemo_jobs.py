"""Jobs of a flywheel on the stand-in for NeMo: what the tests of runtime nemo share."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_students import CLASSES

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from flywheel.config.evaluation import EvaluationConfig
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.runtimes import Job, open_runtime
from flywheel.runtimes.nemo.job import NemoJob
from flywheel.runtimes.nemo.runtime import describe
from tests.unit.nemo.nemo_server import Server, config_of

SIZE = 48


class Flywheel:
    """An artifact root with jobs on a stand-in."""

    def __init__(self, server: Server, material: Path, folder: Path, **sections: Any) -> None:
        self.server = server
        self.root = ArtifactRoot(str(folder))
        (folder / "datasets").mkdir(parents=True, exist_ok=True)
        if not (folder / "datasets" / "d1").exists():
            shutil.copytree(material / "artifacts" / "datasets" / "d1", folder / "datasets" / "d1")
        self.config: Config = config_of(server, folder, **sections)
        self.lines: list[str] = []

    def customize_spec(self, size: int = SIZE, student: int = 0, **changes: Any) -> CustomizeSpec:
        training = TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-2, validations=1)
        settings = {"training": training, "lora": LoraConfig(adapter_dim=4), "dataset": "d1", **changes}
        return CustomizeSpec(
            artifact_root=self.root.url, student=self.config.students[student], size=size, **settings
        )

    def evaluate_spec(self, adapter: str | None = None, student: int = 0) -> EvaluateSpec:
        return EvaluateSpec(
            artifact_root=self.root.url,
            student=self.config.students[student],
            dataset="d1",
            adapter=adapter,
            size=SIZE if adapter else None,
            classes=CLASSES,
            evaluation=EvaluationConfig(max_new_tokens=8, bootstrap_samples=100),
        )

    def url(self, spec: CustomizeSpec | EvaluateSpec, run: str = "r") -> str:
        kind = "customize" if isinstance(spec, CustomizeSpec) else "evaluate"
        path = f"runs/{run}/jobs/1b@{spec.size}/{kind}.spec.json"
        self.root.write_json(path, spec.model_dump(mode="json"))
        return f"{self.root.url}/{path}"

    def run(self, spec: CustomizeSpec | EvaluateSpec, run: str = "r", runtime: Any = None) -> Any:
        url = self.url(spec, run)
        kind = "customize" if isinstance(spec, CustomizeSpec) else "evaluate"
        (runtime or open_runtime(self.config)).run(Job(kind, url, f"{kind} 1b"), self.lines.append)
        path = url.removeprefix(f"{self.root.url}/").replace(".spec.json", ".json")
        result = self.root.read_json(path)["result"]
        return (CustomizeResult if kind == "customize" else EvaluateResult).model_validate(result)

    def job(self, spec: CustomizeSpec | EvaluateSpec) -> NemoJob:
        return describe("job", self.url(spec), self.config, "r")


Start = Callable[..., Flywheel]


def changed(spec: Any, **changes: Any) -> Any:
    return type(spec).model_validate({**spec.model_dump(), **changes})


def wait_until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
