"""What a job's pod reads, writes and deletes in the artifact root is what the policy in docs/kubernetes.md allows."""

import json
import re
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tiny_students import CLASSES, save_dataset, save_student

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Student
from flywheel.config.evaluation import EvaluationConfig
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.runtimes.job_command import run_job

PAGE = Path(__file__).parents[2] / "docs/kubernetes.md"


class Recorded(dict[str, Any]):
    """The objects of fsspec's memory file system, and what is done with them, by kind and path in the root."""

    def __init__(self, objects: dict[str, Any]) -> None:
        super().__init__(objects)
        self.seen: dict[str, set[str]] = defaultdict(set)

    def _see(self, kind: str, key: object) -> None:
        self.seen[kind].add(str(key).removeprefix("/artifacts/"))

    def __getitem__(self, key: str) -> Any:
        self._see("read", key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._see("written", key)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self._see("deleted", key)
        super().__delitem__(key)

    def pop(self, key: str, *default: Any) -> Any:
        self._see("deleted", key)
        return super().pop(key, *default)


@pytest.fixture
def policy() -> dict[str, list[str]]:
    """Give the patterns of paths in the root that the page lets a pod read, and write."""
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (found,) = [json.loads(block) for block in blocks if "2012-10-17" in block]
    return {
        statement["Sid"]: [
            resource.removeprefix("arn:aws:s3:::bucket/flywheel/") for resource in statement["Resource"]
        ]
        for statement in found["Statement"]
        if statement["Sid"] in ("Read", "Write")
    }


def allowed(path: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def general(paths: set[str], keys: dict[str, str]) -> set[str]:
    """Return paths with the names of keys, and one for each artifact's files."""
    named = set()
    for path in paths:
        for name, key in keys.items():
            path = re.sub(rf"{key}/.*", f"{name}/*", path)
        named.add(path)
    return named


def test_a_jobs_pod_touches_what_its_policy_allows_and_nothing_else(
    memory_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: dict[str, list[str]]
) -> None:
    for name, value in (("FLYWHEEL_DEVICE", "cpu"), ("FLYWHEEL_THREADS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_student(tmp_path / "student")
    save_dataset(tmp_path, "d1", train=60)
    root = ArtifactRoot(memory_root)
    for file in (tmp_path / "datasets/d1").iterdir():
        root.put_file(file, f"datasets/d1/{file.name}")
    root.write_json("version.json", {"version": 1})
    student = Student(model_name="tiny-1m", weights=str(tmp_path / "student"))
    training = TrainingConfig(epochs=2, batch_size=16, learning_rate=5e-3, checkpoint_seconds=1e-9)
    trained = CustomizeSpec(
        artifact_root=memory_root,
        student=student,
        dataset="d1",
        size=40,
        training=training,
        lora=LoraConfig(adapter_dim=4),
    )
    asked = EvaluateSpec(
        artifact_root=memory_root,
        student=student,
        dataset="d1",
        adapter=trained.key,
        size=40,
        classes=CLASSES,
        evaluation=EvaluationConfig(bootstrap_samples=100),
    )
    files = fsspec.filesystem("memory")
    keys = {"ADAPTER": trained.key, "EVALUATION": asked.key, "DATASET": "d1"}
    found = {}
    for kind, spec in (("customize", trained), ("evaluate", asked)):
        path = f"runs/r/jobs/tiny@40/{kind}.spec.json"
        root.write_json(path, spec.model_dump(mode="json"))
        recorded = Recorded(files.store)
        monkeypatch.setattr(type(files), "store", recorded)
        run_job(kind, f"{memory_root}/{path}")
        monkeypatch.setattr(type(files), "store", dict(recorded))
        found[kind] = recorded.seen
        for done, paths in recorded.seen.items():
            patterns = policy["Read" if done == "read" else "Write"]
            # What was written may be opened, too: the file system here does so as it writes.
            refused = {one for one in paths - recorded.seen["written"] if not allowed(one, patterns)}
            refused |= {one for one in paths & recorded.seen["written"] if not allowed(one, policy["Write"])}
            assert not refused, (kind, done)
    assert general(found["customize"]["written"], keys) == {
        "adapters/ADAPTER/*",
        "scratch/adapters/ADAPTER/*",
        "runs/r/jobs/tiny@40/customize.json",
        "runs/r/jobs/tiny@40/customize.progress.json",
    }
    assert general(found["customize"]["deleted"], keys) == {
        "scratch/adapters/ADAPTER/*",
        "runs/r/jobs/tiny@40/customize.progress.json",
    }
    assert general(found["evaluate"]["written"], keys) == {
        "evaluations/EVALUATION/*",
        "runs/r/jobs/tiny@40/evaluate.json",
        "runs/r/jobs/tiny@40/evaluate.progress.json",
    }


@pytest.mark.parametrize(
    "path",
    [
        "version.json",
        "runs/r/plan.json",
        "runs/r/report.json",
        "runs/r/stages/curate.json",
        "runs/r/jobs/tiny@40/customize.spec.json",
        "runs/r/jobs/tiny@40/evaluate.spec.json",
        "runs/r/cancelled.json",
        "champions/news_classifier/default/champion.json",
        "champions/news_classifier/default/decisions/0000000001.json",
        "datasets/d1/train.jsonl",
        "datasets/d1/manifest.json",
        "confirmations/k.json",
        "latest.json",
        "cache/triton.tar",
    ],
)
def test_a_pod_may_not_write_what_decides(policy: dict[str, list[str]], path: str) -> None:
    assert not allowed(path, policy["Write"])
