"""Checks every kernel of the GPU path against `reference`, on the device there is; exits 1 on a difference.

`TRITON_INTERPRET=1 PYTHONPATH=. python tests/gpu_kernel_check.py` needs no GPU.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from benchmarks.gpu_shapes import random_weights
from flywheel.students.gpu import kernels, reference
from flywheel.students.gpu.engine import KernelEngine
from flywheel.students.gpu.kernels import library
from flywheel.students.gpu.layout import Adapter, Architecture
from flywheel.students.gpu.plan import place_row
from flywheel.students.gpu.prefilled import Prefilled
from flywheel.students.label_trie import LabelTrie
from flywheel.students.rows import Sample, build_row

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
failures: list[str] = []


def compare(name: str, found: torch.Tensor, wanted: torch.Tensor, limit: float) -> None:
    found, wanted = found.double(), wanted.double()
    error = float(torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted).clamp(min=1e-30))
    good = error <= limit  # not true of NaN
    print(f"{'ok  ' if good else 'FAIL'} {name:40} {error:.2e} (limit {limit:.0e})")
    if not good:
        failures.append(name)


def strided(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """A random matrix whose rows are further apart than they are wide."""
    return torch.randn(*shape[:-1], shape[-1] + 64, device=DEVICE).to(dtype)[..., : shape[-1]]


def each(name: str, limit: float, arguments: list[object], changed: list[int]) -> None:
    """Run both versions on copies of the arguments and compare the tensors at the places in `changed`."""

    def copies() -> list[object]:
        return [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]

    ours, theirs = copies(), copies()
    for place in changed:  # keep the strides that clone() may have dropped
        for copied in (ours, theirs):
            wide = torch.full((*arguments[place].shape[:-1], arguments[place].shape[-1] + 8), torch.nan)
            view = wide.to(arguments[place])[..., : arguments[place].shape[-1]]
            copied[place] = view.copy_(arguments[place]) if view.dim() > 1 else arguments[place].clone()
    found, wanted = getattr(kernels, name)(*ours), getattr(reference, name)(*theirs)
    for place in changed:
        compare(f"{name}[{place}]", ours[place], theirs[place], limit)
    if found is not None:
        compare(f"{name} returns", found.reshape(-1), wanted.reshape(-1), limit)


def rowwise(dtype: torch.dtype, limit: float) -> None:
    rows, width = 37, 96
    x, y, out = (strided(rows, width, dtype=dtype) for _ in range(3))
    weight, rstd = torch.randn(width, device=DEVICE).to(dtype), torch.rand(rows, device=DEVICE) + 0.5
    each("add_norm", limit, [x, y, weight, 1e-5, out, out, rstd], [4, 5, 6])
    each("add_norm", limit, [x, None, weight, 1e-5, out, out, rstd], [4, 5, 6])
    each("norm_backward", limit, [y, x, rstd, weight, out], [4])
    angles = torch.rand(50, 8, device=DEVICE) * 6
    positions = torch.randint(0, 50, (rows,), dtype=torch.int32, device=DEVICE)
    for sign in (1, -1):
        each("rotate", limit, [x, positions, angles.cos(), angles.sin(), 16, sign], [0])
    targets = torch.randint(-1, 5000, (rows,), device=DEVICE)
    each(
        "cross_entropy",
        limit,
        [strided(rows, 5000, dtype=dtype), targets, torch.full((1,), 0.3, device=DEVICE)],
        [0],
    )


def lora(dtype: torch.dtype, limit: float) -> None:
    rows, width, rank, modules = 150, 200, 4, 3
    x, total = strided(rows, width, dtype=dtype), strided(rows, width, dtype=dtype)
    a, v = strided(modules * rank, width, dtype=dtype), strided(rows, modules * rank, dtype=dtype)
    gradient = torch.randn(modules * rank, width, device=DEVICE)
    seed = torch.full((1,), 2**31 - 77, device=DEVICE)
    for probability in (0.0, 0.1):
        mask = reference.Mask(probability, seed, 0x51234564)
        each("lora_down", limit, [x, a, v, rank, mask], [2])
        each("lora_a_gradient", limit, [v, x, gradient, rank, mask], [2])
        each("lora_input_gradient", limit, [v, a, total, rank, mask], [2])
        each("swiglu", limit, [strided(rows, 2 * width, dtype=dtype), x, a[:rank], v[:, :rank], mask], [1, 3])
    b = torch.zeros(2 * width, 2 * rank, device=DEVICE, dtype=dtype)
    b[:width, :rank].normal_()
    b[width:, rank:].normal_()
    gate_up = strided(rows, 2 * width, dtype=dtype)
    each("swiglu_backward", limit, [gate_up, x, b, v[:, : 2 * rank]], [0, 3])


def attention(
    dtype: torch.dtype, limit: float, prefix: int, heads: int, kv_heads: int, d: int, longest: int = 99
) -> None:
    rng = np.random.default_rng(prefix)
    shared = rng.integers(0, 9, prefix, dtype=np.int32)
    samples = [
        Sample(
            np.concatenate([shared, rng.integers(0, 9, rng.integers(1, longest), dtype=np.int32)]),
            rng.integers(0, 9, rng.integers(1, 9), dtype=np.int32),
        )
        for _ in range(4)
    ]
    row = place_row(build_row(shared, samples), DEVICE, bucket=64)
    tokens = len(row.tokens)
    for name, plan in (("full", row.full), ("last", row.last)):
        q = strided(plan.queries, heads * d, dtype=dtype).view(plan.queries, heads, d)
        qkv = strided(tokens, 2 * kv_heads * d, dtype=dtype)
        k, v = (half.view(tokens, kv_heads, d) for half in qkv.split(kv_heads * d, 1))
        out, wanted = torch.full_like(q, torch.nan), torch.zeros_like(q, dtype=torch.float32)
        log_sum = kernels.attention(q, k, v, plan, d**-0.5, out)
        plain = reference.attention(q.float(), k.float(), v.float(), plan, d**-0.5, wanted)
        compare(f"attention {name} {prefix} {d}", out, wanted, limit)
        grad = strided(plan.queries, heads * d, dtype=dtype).view(plan.queries, heads, d)
        gradients = strided(tokens, 2 * kv_heads * d, dtype=dtype).fill_(torch.nan)
        dk, dv = (half.view(tokens, kv_heads, d) for half in gradients.split(kv_heads * d, 1))
        dq = torch.full_like(q, torch.nan)
        kernels.attention_backward(grad, q, k, v, out, log_sum, plan, d**-0.5, dq, dk, dv)
        exact = [torch.zeros_like(x, dtype=torch.float32) for x in (dq, dk, dv)]
        reference.attention_backward(
            grad.float(), q.float(), k.float(), v.float(), wanted, plain, plan, d**-0.5, *exact
        )
        for letter, found, right in zip("qkv", (dq, dk, dv), exact, strict=True):
            compare(f"attention d{letter} {name} {prefix} {d}", found, right, limit)


def many_queries(limit: float) -> None:
    """So many queries against a prefix that the library is asked for two halves."""
    q = strided(library.HALVED + 128, 4 * 64, dtype=torch.bfloat16).unflatten(1, (4, 64))
    k, v = (strided(1150, 2 * 64, dtype=torch.bfloat16).unflatten(1, (2, 64)) for _ in range(2))
    found = kernels.prefix_attention(q, k, v, 0.125)
    wanted = reference.prefix_attention(q.float(), k.float(), v.float(), 0.125)
    compare("many queries", found[0], wanted[0], limit)
    compare("many queries, log-sum-exp", found[1], wanted[1], limit)


def tree(dtype: torch.dtype, limit: float, prefix: int, heads: int, kv_heads: int, d: int) -> None:
    """Attention of prompts that are followed by a tree of tokens."""
    rng = np.random.default_rng(prefix)
    shared = rng.integers(0, 9, prefix, dtype=np.int32)
    prompts = [
        np.concatenate([shared, rng.integers(0, 9, length, dtype=np.int32)]) for length in (90, 61, 30, 1)
    ]
    trie = LabelTrie([np.array(answer) for answer in ([1, 2, 3], [1, 4, 5], [1, 4, 6], [7, 8], [7, 9])])
    row = place_row(trie.row(shared, prompts), DEVICE, bucket=64)
    for name, plan in (("full", row.full), ("last", row.last)):
        q = strided(plan.queries, heads * d, dtype=dtype).view(plan.queries, heads, d)
        k, v = (strided(plan.keys, kv_heads * d, dtype=dtype).view(plan.keys, kv_heads, d) for _ in range(2))
        out, wanted = torch.full_like(q, torch.nan), torch.zeros_like(q, dtype=torch.float32)
        kernels.attention(q, k, v, plan, d**-0.5, out)
        reference.attention(q.float(), k.float(), v.float(), plan, d**-0.5, wanted)
        compare(f"tree attention {name} {prefix} {d}", out, wanted, limit)


def step(dtype: torch.dtype, limit: float, prefix: int, dropout: float) -> None:
    """A whole training step."""
    arch = Architecture(2, 64, 96, 4, 2, 16, 128, 1e-5, False)
    rng = np.random.default_rng(prefix)
    shared = rng.integers(0, 9, prefix, dtype=np.int32)
    samples = [
        Sample(np.concatenate([shared, rng.integers(0, 9, length, dtype=np.int32)]), np.arange(3))
        for length in (50, 21)
    ]
    row = place_row(build_row(shared, samples), DEVICE, bucket=64)
    gradients = []
    for ops in (kernels, reference):
        torch.manual_seed(0)
        weights = random_weights(arch, 4, DEVICE, dtype, positions=256)
        adapter = Adapter.zeros(arch, 4, 2.0, DEVICE)
        adapter.values.normal_(0, 0.1)
        adapter.pack_into(weights)
        KernelEngine(weights, adapter, dropout, ops).step(row, 1 / row.answers)
        gradients.append(adapter.gradients)
    compare(f"step after {prefix}, dropout {dropout}", gradients[0], gradients[1], limit)


def after_prefix(dtype: torch.dtype, limit: float) -> None:
    """The states of rows after a prefix that was computed before them."""
    arch = Architecture(2, 64, 96, 4, 2, 16, 128, 1e-5, False)
    rng = np.random.default_rng(3)
    shared = rng.integers(0, 9, 70, dtype=np.int32)
    prompts = [np.concatenate([shared, rng.integers(0, 9, n, dtype=np.int32)]) for n in (140, 30, 1)]
    trie = LabelTrie([np.array(answer) for answer in ([1, 2, 3], [1, 4, 5], [7, 8])])
    states = []
    for ops in (kernels, reference):
        torch.manual_seed(0)
        weights, adapter = random_weights(arch, 4, DEVICE, dtype, 256), Adapter.zeros(arch, 4, 2.0, DEVICE)
        prefilled, row = Prefilled(KernelEngine(weights, adapter, ops=ops)), trie.row(shared, prompts)
        prefilled(row)
        states.append(prefilled(row)[: len(row.predicting)].clone())
    compare("states after a prefix", states[0], states[1], limit)


def main() -> None:
    torch.manual_seed(0)
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        if DEVICE.type == "cpu" and dtype == torch.bfloat16:
            continue  # the interpreter and the library's attention have no bf16 here
        print(dtype)
        rowwise(dtype, limit)
        lora(dtype, limit)
        for prefix, dropout in ((0, 0.0), (40, 0.1)):
            step(dtype, 2e-2 if dtype == torch.bfloat16 else limit, prefix, dropout)
        after_prefix(dtype, 2e-2 if dtype == torch.bfloat16 else limit)
        shapes = [(0, 4, 2, 16), (70, 4, 2, 16)]
        if DEVICE.type == "cuda":
            shapes = [(0, 4, 2, 64), (70, 8, 2, 64), (1150, 8, 2, 64), (70, 6, 2, 128), (1150, 8, 8, 128)]
        for shape in shapes:
            attention(dtype, limit, *shape)
            attention(dtype, limit, *shape, longest=300)
            tree(dtype, limit, *shape)
    if DEVICE.type == "cuda":
        many_queries(1e-2)
    sys.exit(f"failed: {failures}" if failures else 0)


if __name__ == "__main__":
    main()
