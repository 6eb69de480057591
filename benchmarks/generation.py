"""Greedy answers of 8 tokens to 64 and 512 prompts that begin alike, beside transformers' `generate`.

    python -m benchmarks.generation [--shape 1b] [--repeats 3]

Random weights of a Llama's shape, bf16; a prompt of 1,150 shared and 70 own tokens. `generate` runs with
sdpa attention and its dynamic cache, in batches of 64 and 256, the faster of which counts. `ratio` is at
512 prompts. `same_tokens_fp32` compares both on a 4-layer model in fp32. `choosing` is the seconds in which
512 prompts are answered by one of 5 labels of 6 tokens (`evaluation_config.decoding: labels`), and `generate`
by it: other answers than free ones, of as many prompts. `short`: 4,096 prompts of 36 own tokens and nothing
shared, answers a second of free answers and of a choice, by the batch; `found` is the size that an evaluation
takes by itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import gpu_common as common
from benchmarks.gpu_shapes import SHAPES
from flywheel.students.gpu.backend import gpu_answers, gpu_choices
from flywheel.students.gpu.decoder import GpuDecoder
from flywheel.students.gpu.layout import Adapter, Weights
from flywheel.students.label_trie import LabelTrie
from flywheel.students.rows import Tokens

NEW = 8
STOP = 3  # never made: every answer is NEW tokens long


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="1b")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.shape, arguments.repeats)))


def measure(shape: str, repeats: int) -> dict[str, Any]:
    """Return the benchmark's result."""
    model = common.peer_model(shape, torch.bfloat16).eval()
    decoder = make_decoder(model)
    prefix, samples = common.make_samples(512, SHAPES[shape].vocabulary)
    prompts = [sample.prompt for sample in samples]
    seconds: dict[str, Any] = {}
    for count in (64, 512):
        some = prompts[:count]
        ours = timed(lambda some=some: decoder.answer(prefix, some), repeats + 2)
        peers = {
            batch: timed(lambda some=some, batch=batch: generate(model, some, batch), 2)
            for batch in (64, 256)
            if batch <= count
        }
        seconds[str(count)] = {"ours": ours, "generate": peers, "ratio": round(min(peers.values()) / ours, 1)}
    return {
        "name": f"generation-{shape}",
        "ours": seconds["512"]["ours"],
        "peer": min(seconds["512"]["generate"].values()),
        "ratio": seconds["512"]["ratio"],
        "unit": "s per 512 prompts of 8 new tokens",
        "by_prompts": seconds,
        "short": short_answers(model),
        "choosing": choosing(model, prompts, seconds["512"]["generate"]),
        "same_tokens_fp32": same_tokens(shape),
        "machine": common.machine(),
        "peak_rss_mb": round(common.peak_rss_mb()),
    }


def make_decoder(model: Any) -> GpuDecoder:
    """Return our decoder over a copy of a transformers model's weights, with an adapter of zeros."""
    dtype = next(model.parameters()).dtype
    weights = Weights.pack(model, common.RANK, 2048, dtype, common.device())
    adapter = Adapter.zeros(weights.arch, common.RANK, 2.0, common.device())
    adapter.pack_into(weights)
    return GpuDecoder(weights, adapter, {STOP}, NEW)


@torch.inference_mode()
def generate(model: Any, prompts: Sequence[Tokens], batch: int) -> list[list[int]]:
    """Return what transformers' `generate` answers."""
    answers: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        ids = torch.from_numpy(np.stack(prompts[start : start + batch]).astype(np.int64)).to(common.device())
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, min_new_tokens=NEW,
            do_sample=False, eos_token_id=STOP, pad_token_id=2,
        )  # fmt: skip
        answers += made[:, ids.shape[1] :].tolist()
    return answers


def timed(work: Any, repeats: int) -> float:
    """Return the fastest of several runs after the first, in seconds."""
    times = []
    for _ in range(repeats):
        common.synchronize()
        started = time.perf_counter()
        work()
        common.synchronize()
        times.append(time.perf_counter() - started)
    return round(min(times[1:]), 4)


def choosing(model: Any, prompts: Sequence[Tokens], peers: dict[int, float]) -> dict[str, float]:
    """Time the choice among labels; to pack the weights is not counted, as it is not for free answers."""
    _, samples = common.make_samples(5, model.config.vocab_size, seed=2)
    trie = LabelTrie([sample.answer for sample in samples])
    seconds = []
    for _ in range(5):
        answers = gpu_choices(model, prompts, trie, batch_size=len(prompts), force=True)
        assert answers is not None
        seconds.append(sum(answers.batch_seconds))
    best = round(min(seconds[1:]), 4)
    return {"ours": best, "ratio": round(min(peers.values()) / best, 1)}


def short_answers(model: Any, count: int = 4096) -> list[dict[str, Any]]:
    """Return the answers a second to short prompts, by the batch; the size that is found comes last."""
    _, samples = common.make_samples(count, model.config.vocab_size, seed=3, short=True)
    prompts = [sample.prompt for sample in samples]
    trie = LabelTrie([sample.answer for sample in samples[:5]])
    rows = []
    for batch in (256, 512, 1024, 2048, None):
        chosen = [gpu_choices(model, prompts, trie, batch_size=batch, force=True) for _ in range(2)]
        free = gpu_answers(
            model, prompts, frozenset({STOP}), max_new_tokens=NEW, batch_size=batch, force=True
        )
        assert free is not None
        seconds = {"choosing": min(sum(one.batch_seconds) for one in chosen if one is not None)}
        seconds["free"] = sum(free.batch_seconds)
        rows.append(
            {
                "batch": free.batch_size if batch else [one.batch_size for one in (chosen[0], free) if one],
                "found": batch is None,
                **{f"{name}_per_s": round(count / taken) for name, taken in seconds.items()},
            }
        )
    return rows


def same_tokens(shape: str, count: int = 32) -> bool:
    """Whether ours and `generate` answer alike in fp32."""
    arch = dataclasses.replace(SHAPES[shape], layers=4, vocabulary=8192)
    model = common.peer_model(arch, torch.float32).eval()
    prefix, samples = common.make_samples(count, arch.vocabulary, seed=1)
    prompts = [sample.prompt for sample in samples]
    return make_decoder(model).answer(prefix, prompts) == generate(model, prompts, count)


if __name__ == "__main__":
    main()
