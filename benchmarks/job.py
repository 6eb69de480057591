"""A whole job as a pod runs it: `flywheel customize` and `flywheel evaluate`, cold and with a compile cache.

    python -m benchmarks.job [--shape 1b] [--sizes 5000,10000,25000] [--eval 1000] [--runs forked] [--quick]

A student of a Llama's shape with random weights in bf16, the demo's tokenizer, prompt and headlines, settings
as shipped (short prompts, epochs by the number of records). Runs with seeds of their own: `cold` in new
processes with no compiled kernels, `warm` in new processes with those that the first left in the artifact
root, both of the first size alone; `forked` as the local runtime runs the jobs of a night, all sizes: forks
of a process that has the libraries imported, on a GPU one process for all of them. Start is what a job takes
besides the parts that it reports: Python, imports, the end. `ours` is the seconds of the forked jobs, `share`
what of them was training and answering. There is no peer: benchmarks.table1 has one.
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
    parser.add_argument("--sizes", default="5000,10000,25000")
    parser.add_argument("--runs", default="cold,warm,forked")
    parser.add_argument("--eval", type=int, default=1000, help="held-out records")
    parser.add_argument("--quick", action="store_true", help="the demo's small student on 300 records")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.shape, arguments.sizes, arguments.eval = "include/flywheel/demo/students/small", "300", 100
    sizes = [int(size) for size in arguments.sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.shape, sizes, arguments.eval, arguments.runs.split(","), Path(folder))
    print(json.dumps(result))


def measure(shape: str, sizes: list[int], held_out: int, wanted: list[str], folder: Path) -> dict[str, Any]:
    """Make the student and the dataset, run the jobs, and return the seconds by part."""
    weights = Path(resolve_path(shape)) if "/" in shape else make_student(shape, folder / "student")
    student = Student(model_name="benchmark", weights=str(weights))
    root = ArtifactRoot(str(folder / "artifacts"))
    classes = make_dataset(root, max(sizes), held_out)
    runs: dict[str, Any] = {
        name: run_jobs(root, student, sizes[0], classes, seed, folder)
        for seed, name in enumerate(("cold", "warm"))
        if name in wanted
    }
    if "forked" in wanted:
        runtime = Processes(RuntimeConfig())
        # The first jobs start the server that the others are forks of, and leave compiled kernels.
        run_jobs(root, student, sizes[0], classes, 2, folder, runtime)
        runs["forked"] = [
            run_jobs(root, student, size, classes, 3, folder, runtime) for size in sorted(sizes, reverse=True)
        ]
    last = runs["forked"] if "forked" in runs else list(runs.values())[-1:]
    total = sum(run["total_s"] for run in last)
    return {
        "name": "job",
        "ours": round(total, 2),
        "peer": None,
        "ratio": None,
        "unit": f"s for {sizes} records trained and {held_out} answered each, as forks",
        "share": round(sum(run["work_s"] for run in last) / total, 3),
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
        training=TrainingConfig(),
        student_prompt="text",
        lora=LoraConfig(),
        seed=seed,
    )
    trained = run_job(
        "customize", customize.model_dump(mode="json"), folder / f"customize-{seed}-{records}", runtime
    )
    evaluate = EvaluateSpec(
        artifact_root=root.url,
        student=student,
        dataset=DATASET,
        adapter=trained["result"]["adapter"],
        size=records,
        classes=classes,
        evaluation=EvaluationConfig(workload_type="classification"),
    )
    answered = run_job(
        "evaluate", evaluate.model_dump(mode="json"), folder / f"evaluate-{seed}-{records}", runtime
    )
    total = trained["wall_s"] + answered["wall_s"]
    work = trained["timing"]["train"] + answered["timing"]["answer"]
    return {
        "records": records,
        "total_s": round(total, 2),
        "work_s": round(work, 2),
        "share": round(work / total, 3),
        "customize": trained["timing"],
        "evaluate": answered["timing"],
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
    parts = answer["result"]["timing"]
    parts = {"start": wall - sum(parts.values())} | parts
    return {
        "result": answer["result"],
        "wall_s": wall,
        "parts": {name: round(seconds, 2) for name, seconds in parts.items()},
    }


if __name__ == "__main__":
    main()
