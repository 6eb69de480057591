"""All of table 1: 1B, 3B and 8B students on 5,000, 10,000 and 25,000 records, and each one's evaluation.

    python -m benchmarks.table1 [--shapes 1b,3b,8b] [--sizes 5000,10000,25000] [--short] [--no-peers]

Random weights of the real shapes and random tokens, through the functions that a job runs (`fine_tune`,
batches of 64, dropout 0.1; `gpu_answers`, 8 tokens), the base model's evaluation included. With `--short`
the candidates see 36 own tokens instead of 1,150 shared and 70 own ones; the base model sees all. Each shape
is a process of its own, a fork of one that has the libraries imported, as the local runtime runs them; the
start of Python, those imports and the forks are counted. The peers, TRL's SFTTrainer at its fastest setting
and `generate`, are measured for a few steps and extrapolated to the same work. `ratio` is their time by ours.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks import gpu_common as common
from flywheel.students.rows import Tokens

# TRL's fastest setting for each shape: what of 64 samples fits on 80 GB without gradient checkpointing.
TRL_BATCH = {"1b": 16, "3b": 8, "8b": 4}


def main() -> None:
    """Measure and print; with --part, be one shape's process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", default="1b,3b,8b")
    parser.add_argument("--sizes", default="5000,10000,25000")
    parser.add_argument("--eval", type=int, default=1000, help="held-out records")
    parser.add_argument("--batch", type=int, help="prompts answered at once; default: as many as fit")
    parser.add_argument("--short", action="store_true", help="prompts of the record's text alone")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--all-parts", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    shapes = arguments.shapes.split(",")
    if arguments.all_parts:
        peers = not arguments.no_peers
        settings = (sizes, arguments.eval, arguments.batch, peers, arguments.short)
        print(json.dumps(in_forks([(shape, *settings) for shape in shapes])))
        return
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.table1", *sys.argv[1:], "--all-parts"]
    # Asking for a GPU must not initialise CUDA where forks come after it.
    environment = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    parts = found["parts"]
    ours = time.perf_counter() - started - sum(part["peer_measured_s"] for part in parts)
    peers_s = [part["peer_s"] for part in parts]
    peer = sum(peers_s) if all(peers_s) else None
    result = {
        "name": "table1",
        "ours": round(ours, 1),
        "peer": round(peer, 1) if peer else None,
        "ratio": round(peer / ours, 1) if peer else None,
        "unit": "s",
        "start_s": round(ours - sum(part["ours_s"] for part in parts), 1),
        **found,
        "machine": parts[0]["machine"],
        "peak_rss_mb": max(part["peak_rss_mb"] for part in parts),
    }
    print(json.dumps(result))


def in_forks(settings: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Measure each of some settings in a fork of this process, one after another; return what they found.

    Raises:
        RuntimeError: an import initialised CUDA, which a fork cannot use.
    """
    from flywheel.runtimes.local.fork_client import PRELOAD
    from flywheel.runtimes.local.fork_server import preload

    started = time.perf_counter()
    preload(list(PRELOAD))
    if common.has_cuda_context():
        raise RuntimeError("an import initialised CUDA, so that forks could not use it")
    imports_s = time.perf_counter() - started
    parts = []
    for arguments in settings:
        begun = time.perf_counter()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as process:
            part = process.submit(measure, *arguments).result()
        ours_s = time.perf_counter() - begun - part["peer_measured_s"]
        parts.append(part | {"ours_s": round(ours_s, 1)})
    return {"imports_s": round(imports_s, 1), "parts": parts}


def measure(
    shape: str, sizes: Sequence[int], held_out: int, batch: int | None, peers: bool, short: bool
) -> dict[str, Any]:
    """Train and evaluate one shape at all sizes; return the seconds of each part."""
    import torch

    from benchmarks.gpu_shapes import SHAPES
    from flywheel.config.training import LoraConfig, TrainingConfig
    from flywheel.students.adapter import add_adapter
    from flywheel.students.gpu.backend import gpu_answers
    from flywheel.students.training import fine_tune

    started = time.perf_counter()
    vocabulary = SHAPES[shape].vocabulary
    _, samples = common.make_samples(max(sizes) + held_out, vocabulary, short=short)
    prompts = [sample.prompt for sample in samples[-held_out:]]
    whole = [sample.prompt for sample in common.make_samples(held_out, vocabulary, seed=1)[1]]
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = common.peer_model(shape, dtype).requires_grad_(False).eval()
    common.synchronize()
    start_s = time.perf_counter() - started

    def answer(student: Any, prompts: Sequence[Tokens]) -> float:
        begun = time.perf_counter()
        # A stop that is hardly ever made, so that every answer has its 8 tokens.
        gpu_answers(student, prompts, frozenset({3}), max_new_tokens=8, batch_size=batch, force=True)
        common.synchronize()
        return time.perf_counter() - begun

    candidates: list[dict[str, Any]] = []
    base_s = answer(model, whole)
    for size in sizes:
        begun = time.perf_counter()
        adapted = add_adapter(model, LoraConfig(adapter_dim=common.RANK), "random", seed=size)
        config = TrainingConfig(batch_size=64, epochs=1, validations=0)
        outcome = fine_tune(adapted, samples[:size], [], config, dropout=0.1, seed=size)
        common.synchronize()
        trained = time.perf_counter() - begun
        evaluated = answer(adapted, prompts)
        candidates.append(
            {
                "size": size,
                "steps": outcome.steps_run,
                "train_s": round(trained, 2),
                "evaluate_s": round(evaluated, 2),
            }
        )
        model = adapted.unload()
        _clear()
    del model
    _clear()
    begun = time.perf_counter()
    peer = _peer(shape, sizes, held_out, short) if peers and torch.cuda.is_available() else None
    return {
        "shape": shape,
        "start_s": round(start_s, 2),
        "base_evaluate_s": round(base_s, 2),
        "candidates": candidates,
        "peer": peer,
        "peer_s": peer["total_s"] if peer else None,
        "peer_measured_s": round(time.perf_counter() - begun, 1),
        "machine": common.machine(),
        "peak_rss_mb": round(common.peak_rss_mb()),
    }


def _peer(shape: str, sizes: Sequence[int], held_out: int, short: bool) -> dict[str, Any]:
    """Measure a few steps of TRL and a batch of `generate`, and extrapolate."""
    import torch

    from benchmarks.generation import generate, timed
    from benchmarks.gpu_shapes import SHAPES
    from benchmarks.training import trl_steps

    setting = {"batch": TRL_BATCH[shape], "gradient_checkpointing": False, "use_liger_kernel": True}
    if short:
        setting |= {"batch": 64}
    (run,) = trl_steps(shape, 2, [setting], short)
    model = common.peer_model(shape, torch.bfloat16).eval()
    _, samples = common.make_samples(64, SHAPES[shape].vocabulary, short=short)
    batch_s = timed(lambda: generate(model, [sample.prompt for sample in samples], 64), 3)
    steps = sum(math.ceil(size / 64) for size in sizes)
    evaluate_s = (len(sizes) + 1) * held_out / 64 * batch_s
    total = round(steps * run["ms_per_64"] / 1e3 + evaluate_s, 1) if run["ms_per_64"] else None
    return {"trl": run, "generate_64_s": batch_s, "total_s": total}


def _clear() -> None:
    from benchmarks.training import clear

    clear()


if __name__ == "__main__":
    main()
