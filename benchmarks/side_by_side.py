"""Three adapters of one student trained side by side, beside the same three one after another.

    python -m benchmarks.side_by_side [--shape 1b] [--adapters 3] [--samples 64] [--steps 20] [--quick]

Each adapter has rows of its own; side by side, one pass over the frozen weights serves all of them. Random
weights of a Llama's shape, LoRA r = 16 on all linear layers, 1,150 shared and 70 own tokens, answers of 6;
bf16 on a GPU. `ours` and `peer` are milliseconds for a step of every adapter, the optimizer included.
`adapters_differ` is the largest distance between the adapters trained in either way, by the distance that
they went: |side by side - one after another| / |one after another - start|.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import gpu_common as common
from flywheel.students.gpu.engine import Engine
from flywheel.students.gpu.graphs import GraphedEngine
from flywheel.students.gpu.layout import Adapter, Architecture, Weights
from flywheel.students.gpu.plan import DeviceRow, join_rows, place_row
from flywheel.students.gpu.shapes import SHAPES, random_weights
from flywheel.students.rows import build_row

TINY = Architecture(2, 128, 256, 2, 1, 64, 4096, 1e-5, False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="1b")
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--samples", type=int, default=64, help="samples a step of each adapter")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, 4 samples, few steps")
    arguments = parser.parse_args()
    if arguments.quick:
        print(json.dumps(measure("tiny", TINY, arguments.adapters, 4, 2)))
        return
    arch, samples = SHAPES[arguments.shape], arguments.samples
    print(json.dumps(measure(arguments.shape, arch, arguments.adapters, samples, arguments.steps)))


def measure(shape: str, arch: Architecture, count: int, samples: int, steps: int) -> dict[str, Any]:
    """Train in either way from the same start; return the times and how far the adapters differ."""
    weights = _weights(arch, count)
    rows = [_row(arch, samples, place) for place in range(count)]
    starts = [_start(arch, place) for place in range(count)]
    together, together_ms = _train(weights, starts, join_rows(rows), steps)
    apart, apart_ms = [], 0.0
    for start, row in zip(starts, rows, strict=True):
        (values,), ms = _train(_weights(arch, 1), [start], row, steps)
        apart.append(values)
        apart_ms += ms
    differ = max(
        float(torch.linalg.norm(a - b) / torch.linalg.norm(b - start))
        for a, b, start in zip(together, apart, starts, strict=True)
    )
    return {
        "name": f"side_by_side-{shape}",
        "ours": round(together_ms, 2),
        "peer": round(apart_ms, 2),
        "ratio": round(apart_ms / together_ms, 3),
        "unit": f"ms for a step of {samples} samples of each of {count} adapters",
        "adapters_differ": differ,
        "steps": steps,
        "machine": common.machine(),
        "peak_rss_mb": round(common.peak_rss_mb()),
    }


def _weights(arch: Architecture, adapters: int) -> Weights:
    """Return the frozen weights, the same at each call, with room for so many adapters."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if common.device().type == "cuda" else torch.float32
    return random_weights(arch, common.RANK, common.device(), dtype, adapters=adapters)


def _row(arch: Architecture, samples: int, seed: int) -> DeviceRow:
    prefix, data = common.make_samples(samples, arch.vocabulary, seed)
    return place_row(build_row(prefix, data), common.device())


def _start(arch: Architecture, seed: int) -> torch.Tensor:
    """Return an adapter's first values: A random, B zero."""
    torch.manual_seed(seed)
    adapter = Adapter.zeros(arch, common.RANK, 2.0, common.device())
    for matrices in adapter.a.values():
        matrices.normal_(0, 0.02)
    return adapter.values.clone()


def _train(
    weights: Weights, starts: Sequence[torch.Tensor], row: DeviceRow, steps: int
) -> tuple[list[torch.Tensor], float]:
    """Take some steps on the same row; return the adapters' values and the median time of a step."""
    adapters = [Adapter.zeros(weights.arch, common.RANK, 2.0, start.device) for start in starts]
    for place, (adapter, start) in enumerate(zip(adapters, starts, strict=True)):
        adapter.values.copy_(start)
        adapter.pack_into(weights, place)
    engine: Any = Engine(weights, adapters)
    engine = GraphedEngine(engine) if weights.embedding.is_cuda else engine
    optimizers = [torch.optim.AdamW([adapter.values], lr=1e-4, fused=True) for adapter in adapters]
    scales = [1 / part.answers for part in row.parts]

    def step(index: int) -> None:
        for adapter in adapters:
            adapter.gradients.zero_()
        engine.step(row, scales, [index] * len(adapters))
        for place, (adapter, optimizer) in enumerate(zip(adapters, optimizers, strict=True)):
            torch.nn.utils.clip_grad_norm_([adapter.values], 1.0)
            optimizer.step()
            adapter.pack_into(weights, place)

    ms = common.median_ms(step, steps)
    return [adapter.values.clone() for adapter in adapters], ms


if __name__ == "__main__":
    main()
