"""A whole job as a pod runs it: `flywheel customize` and `flywheel evaluate`, cold and with a compile cache.

    python -m benchmarks.job [--shape 1b] [--records 5000] [--eval 1000] [--quick]

A student of a Llama's shape with random weights in bf16, the demo's tokenizer, prompt and headlines (1,146
shared tokens), batches of 64 and dropout 0.1. Three runs with seeds of their own: `cold` in new processes
with no compiled kernels, `warm` in new processes with those that the first left in the artifact root, and
`forked` as the local runtime runs the jobs of a night: forks of a process that has the libraries imported.
Start is what a job takes besides the parts that it reports: Python, imports, the end. `ours` is the warm
run's seconds, `share` what of them was training and answering. There is no peer: benchmarks.table1 has one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from benchmarks import gpu_common as common
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Student, resolve_path
from flywheel.config.schema import EvaluationConfig, RuntimeConfig
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.demo.headlines import generate as make_headlines
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.runtimes.base import Job, JobKind
from flywheel.runtimes.local.processes import Processes
from flywheel.workloads.workload import Workload

DATASET = "benchmark"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="1b", help="1b, 3b, 8b, or the folder of a student")
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--eval", type=int, default=1000, help="held-out records")
    parser.add_argument("--quick", action="store_true", help="the demo's small student on 300 records")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.shape, arguments.records, arguments.eval = "include/flywheel/demo/students/small", 300, 100
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.shape, arguments.records, arguments.eval, Path(folder))
    print(json.dumps(result))


def measure(shape: str, records: int, held_out: int, folder: Path) -> dict[str, Any]:
    """Make the student and the dataset, run both jobs three times, and return the seconds by part."""
    weights = Path(resolve_path(shape)) if "/" in shape else make_student(shape, folder / "student")
    student = Student(model_name="benchmark", weights=str(weights))
    root = ArtifactRoot(str(folder / "artifacts"))
    classes = make_dataset(root, records, held_out)
    runs = {
        name: run_jobs(root, student, records, classes, seed, folder)
        for seed, name in enumerate(("cold", "warm"))
    }
    warm = runs["warm"]
    runtime = Processes(RuntimeConfig())
    # Its first job starts the server that the others are forks of: an adapter that is there already.
    known = json.loads((folder / "customize-1.spec.json").read_text())
    run_job("customize", known, folder / "first", runtime)
    runs["forked"] = run_jobs(root, student, records, classes, 2, folder, runtime)
    return {
        "name": "job",
        "ours": warm["total_s"],
        "peer": None,
        "ratio": None,
        "unit": f"s for {records} records trained and {held_out} answered, warm",
        "share": warm["share"],
        **runs,
        "machine": common.machine(),
        "peak_rss_mb": round(common.peak_rss_mb()),
    }


def make_student(shape: str, folder: Path) -> Path:
    """Write a student of a shape, its weights random, with the demo's tokenizer."""
    import torch
    from transformers import AutoTokenizer

    model = common.peer_model(shape, torch.bfloat16)
    model.generation_config.eos_token_id = 2  # the demo tokenizer's <|end|>
    model.save_pretrained(folder)
    demo = resolve_path("include/flywheel/demo/students/large")
    AutoTokenizer.from_pretrained(demo, local_files_only=True).save_pretrained(folder)
    return folder


def make_dataset(root: ArtifactRoot, records: int, held_out: int) -> tuple[str, ...]:
    """Write a dataset of demo headlines with random labels; return the classes."""
    workload = Workload.load(resolve_path("include/workloads/news_classifier.yaml"))
    rng = random.Random(0)
    lines = []
    for headline in make_headlines(records + 2 * held_out, seed=1):
        label = rng.choice(workload.classes)
        answer = {"role": "assistant", "content": workload.answer_for(label)}
        messages = [*workload.messages(headline.text), answer]
        lines.append(orjson.dumps({"id": str(len(lines)), "label": label, "messages": messages}) + b"\n")
    ends = {"train": records, "val": records + held_out, "eval": records + 2 * held_out}
    with root.build("datasets", DATASET) as folder:
        start = 0
        for name, end in ends.items():
            (folder / f"{name}.jsonl").write_bytes(b"".join(lines[start:end]))
            start = end
    return workload.classes


def run_jobs(
    root: ArtifactRoot,
    student: Student,
    records: int,
    classes: tuple[str, ...],
    seed: int,
    folder: Path,
    runtime: Processes | None = None,
) -> dict[str, Any]:
    """Customize and evaluate, each in a process; return the seconds by part, the total and the share."""
    customize = CustomizeSpec(
        artifact_root=root.url,
        student=student,
        dataset=DATASET,
        size=records,
        training=TrainingConfig(batch_size=64),
        lora=LoraConfig(),
        seed=seed,
    )
    trained = run_job("customize", customize.model_dump(mode="json"), folder / f"customize-{seed}", runtime)
    evaluate = EvaluateSpec(
        artifact_root=root.url,
        student=student,
        dataset=DATASET,
        adapter=trained["result"]["adapter"],
        size=records,
        classes=classes,
        evaluation=EvaluationConfig(batch_size=256),
    )
    answered = run_job("evaluate", evaluate.model_dump(mode="json"), folder / f"evaluate-{seed}", runtime)
    total = trained["wall_s"] + answered["wall_s"]
    work = trained["parts"]["train"] + answered["parts"]["answer"]
    return {
        "total_s": round(total, 2),
        "share": round(work / total, 3),
        "customize": trained["parts"],
        "evaluate": answered["parts"],
        "records_per_second": round(trained["result"]["records_per_second"]),
        "steps": trained["result"]["steps_run"],
    }


def run_job(
    kind: JobKind, spec: dict[str, Any], path: Path, runtime: Processes | None = None
) -> dict[str, Any]:
    """Run a job, by its command or a runtime; return its result, its wall time and the seconds by part."""
    file = path.with_suffix(".spec.json")
    file.write_text(json.dumps(spec))
    started = time.perf_counter()
    if runtime is not None:
        runtime.run(Job(kind, str(file), path.name), lambda line: print(line, file=sys.stderr))
    else:
        command = [sys.executable, "-m", "flywheel.cli.main", kind, str(file)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=sys.stderr)
    wall = time.perf_counter() - started
    answer = json.loads(path.with_suffix(".json").read_text())
    parts = answer["result"]["parts"]
    parts = {"start": wall - sum(parts.values())} | parts
    return {
        "result": answer["result"],
        "wall_s": wall,
        "parts": {name: round(seconds, 2) for name, seconds in parts.items()},
    }


if __name__ == "__main__":
    main()
