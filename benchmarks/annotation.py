"""Texts a second of a labelled history, its memory, and what a plain pipeline and vLLM give on the same.

    python -m benchmarks.annotation [--quick] [--texts N] [--sample N] [--without-vllm] [--student small]

A demo student (short prompts) is the champion of a night of 2024; the demo's headlines of the year after are
labelled by `flywheel annotate`, from a CSV file to Parquet files with their manifest, each month a job, as
many jobs at once as there are cores: once a tenth of them, once all. Rates are of what the one labels more
than the other in what it takes longer: without Python's start, imports, and a student's loading for each
month, as the rates of the others are; `texts_per_second` of a run has all that in it. `memory_ratio` is the
peak of a job's memory with all texts by that with a tenth. On a sample the same student is asked by
transformers' text-generation pipeline with the adapter merged in, as its documentation has it, and by vLLM on
the CPU (`make install-vllm`, or FLYWHEEL_VLLM), 64 requests at once; both have the same short prompts and
the same two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from examples.wheel import backfill
from flywheel.annotation.manifest import read_manifest
from flywheel.annotation.spec import ShardResult
from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.artifacts.root_files import RootFiles
from flywheel.demo.headlines import generate
from flywheel.promotion.champion import Champion
from flywheel.promotion.timeline import Timeline
from tests.unit.backfilled import WORKLOAD, night_config, write_rows
from tests.vllm_server import executable, vllm

PROJECT = Path(__file__).resolve().parents[1]
START, NIGHT, END = date(2024, 1, 1), datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE = 64
# Texts labelled before the others and thrown away: what jobs are forks of has imported its libraries then.
WARM_UP = 500


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--texts", type=int)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--records", type=int, default=600, help="that the champion was trained on")
    parser.add_argument("--student", default="small", help="of include/flywheel/demo/students")
    parser.add_argument("--without-vllm", action="store_true")
    arguments = parser.parse_args()
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory(prefix="benchmark-annotation-") as folder:
        found = _measure(Path(folder), arguments)
    print(json.dumps(found))


def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    texts = arguments.texts or (40_000 if arguments.quick else 1_000_000)
    sample = arguments.sample or (64 if arguments.quick else 512)
    weights = PROJECT / "include/flywheel/demo/students" / arguments.student
    champion = _champion(folder, weights, arguments)
    runs = {}
    for count in (WARM_UP, texts // 10, texts):
        place = folder / f"{count}"
        place.mkdir()
        asked = _write(place / "headlines.csv", count)
        config = {**_config(folder, weights, arguments), "source": [{"path": str(place / "headlines.csv")}]}
        config["annotation"] = {"out": str(place / "out")}
        (place / "config.json").write_text(json.dumps(config))
        runs[count] = _label(folder, place / "config.json")
        print(f"{count:,} texts: {json.dumps(runs[count])}", file=sys.stderr, flush=True)
    part, whole = runs[texts // 10], runs[texts]
    adapter = folder / "artifacts/adapters" / champion.adapter
    pipeline = _pipeline(weights, adapter, asked[:sample])
    print(f"pipeline: {pipeline:.1f} texts/s", file=sys.stderr, flush=True)
    by_vllm = None
    if not arguments.without_vllm and executable() is not None:
        by_vllm = _by_vllm(folder, weights, adapter, asked[:sample])
    ours = round((whole["texts"] - part["texts"]) / (whole["seconds"] - part["seconds"]), 1)
    return {
        "name": "annotation",
        "ours": ours,
        "peer": round(pipeline, 1),
        "ratio": round(ours / pipeline, 1),
        "unit": f"texts/s of {texts:,}, from CSV to Parquet, {arguments.student} @ {champion.size}",
        "peer_name": f"transformers pipeline, {sample} texts in batches of 16",
        "vllm": None if by_vllm is None else round(by_vllm, 1),
        "vllm_ratio": None if by_vllm is None else round(ours / by_vllm, 1),
        "memory_ratio": round(whole["peak_rss_mb"] / part["peak_rss_mb"], 3),
        "peak_rss_mb": whole["peak_rss_mb"],
        "runs": [part, whole],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


def _config(folder: Path, weights: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    student = {"model_name": f"demo/{weights.name}", "name": weights.name, "weights": str(weights), "gpus": 0}
    own = night_config(folder)
    return {
        **own,
        "nims": [student],
        "sizes": [arguments.records],
        "student_prompt": "text",
        "data_split_config": {**own["data_split_config"], "calibration_ratio": 0.1},
        "lora_config": {"adapter_dropout": 0.0},
        "training_config": {"batch_size": 32, "epochs": 3, "learning_rate": 0.005, "validations": 0},
        "promotion": {"within": 0.99, "min_eval": 1},
    }


def _champion(folder: Path, weights: Path, arguments: argparse.Namespace) -> Champion:
    made = generate(arguments.records * 2, seed=3, start=START, end=NIGHT.date())
    write_rows(folder, ((item.text, item.timestamp, item.teacher_label) for item in made))
    backfill(_config(folder, weights, arguments), [NIGHT])
    champion = Timeline(ArtifactRoot(str(folder / "artifacts")), WORKLOAD.id, "desk").champion_at(1 << 40)
    assert champion is not None
    return champion


def _write(path: Path, count: int) -> list[str]:
    """Write headlines of the year after the night; return the first of them."""
    first: list[str] = []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["headline", "date"])
        for item in generate(count, seed=5, start=NIGHT.date(), end=END.date()):
            writer.writerow([item.text, item.timestamp])
            if len(first) < 1000:
                first.append(item.text)
    return first


def _label(folder: Path, config: Path) -> dict[str, Any]:
    """Label the headlines of a config as people do, by the command."""
    span = ["--from", f"{NIGHT:%Y-%m-%d}", "--to", f"{END:%Y-%m-%d}"]
    command = [sys.executable, "-m", "flywheel.cli.main", "annotate", *span]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, "FLYWHEEL_CONFIG": str(config)},
        check=True,
        stdout=sys.stderr,
        stderr=subprocess.DEVNULL,
    )
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    (output,) = (config.parent / "out").glob("*/*/*")
    manifest = read_manifest(RootFiles(str(output)))
    assert manifest is not None
    work = folder / "artifacts" / "annotations/work" / key_of("work", str(output))
    results = [ShardResult.model_validate(json.loads(path.read_text())["result"]) for path in _results(work)]
    assert manifest.labelled == manifest.rows == sum(result.asked for result in results)
    return {
        "texts": manifest.rows,
        "seconds": round(seconds, 2),
        "texts_per_second": round(manifest.rows / seconds, 1),
        "jobs": len(results),
        "jobs_seconds": round(sum(result.seconds for result in results), 1),
        "plan_cpu_seconds": round(after.ru_utime - before.ru_utime, 2),
        "peak_rss_mb": max(result.peak_mb for result in results),
        "megabytes": round(sum(one.size for one in manifest.files.values()) / 1e6, 1),
    }


def _results(work: Path) -> list[Path]:
    return [path for path in sorted(work.glob("20*.json")) if not path.name.endswith(".spec.json")]


def _pipeline(weights: Path, adapter: Path, texts: list[str]) -> float:
    """Return texts a second of transformers' pipeline, warm."""
    import transformers
    from peft import PeftModel

    tokenizer = transformers.AutoTokenizer.from_pretrained(weights, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(weights)
    model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    asked = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    chats = [[{"role": "user", "content": text}] for text in texts]
    settings = {"max_new_tokens": 12, "do_sample": False, "batch_size": 16, "return_full_text": False}
    asked(chats[:16], **settings)
    started = time.perf_counter()
    asked(chats, **settings)
    return len(texts) / (time.perf_counter() - started)


def _by_vllm(folder: Path, weights: Path, adapter: Path, texts: list[str]) -> float:
    """Return texts a second of vLLM, warm, with so many requests at once."""
    with vllm(weights, folder / "vllm.log") as url:
        order = {"lora_name": "champion", "lora_path": str(adapter.resolve())}
        httpx.post(f"{url}/v1/load_lora_adapter", json=order, timeout=120).raise_for_status()
        asyncio.run(_ask(url, texts[:AT_ONCE]))
        started = time.perf_counter()
        asyncio.run(_ask(url, texts))
        return len(texts) / (time.perf_counter() - started)


async def _ask(url: str, texts: list[str]) -> None:
    waiting = iter(texts)

    async def caller(client: httpx.AsyncClient) -> None:
        for text in waiting:
            body = {"model": "champion", "messages": [{"role": "user", "content": text}]}
            answer = await client.post(
                f"{url}/v1/chat/completions", json={**body, "max_tokens": 12, "temperature": 0}
            )
            answer.raise_for_status()

    async with httpx.AsyncClient(timeout=600) as client:
        await asyncio.gather(*(caller(client) for _ in islice(range(AT_ONCE), len(texts))))


if __name__ == "__main__":
    main()
