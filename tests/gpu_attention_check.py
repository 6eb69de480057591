"""Checks the attention kernels that a GPU uses against plain fp32 attention; exits 1 on a difference.

`PYTHONPATH=include:. python tests/gpu_attention_check.py` on a machine with a GPU; needs torch and numpy alone.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from flywheel.students.attention import answer_parts_of, attend, attend_parts, parts_of
from flywheel.students.kernels import PlainKernel, kernel_for
from flywheel.students.rows import Row, Sample, build_row

# What rounding to bf16 costs, as a share of the norm.
LIMIT = 1e-2


def make_row(prefix: int, samples: int) -> Row:
    rng = np.random.default_rng(prefix)
    head = rng.integers(0, 99, prefix)
    return build_row(
        head.astype(np.int32),
        [
            Sample(
                np.concatenate([head, rng.integers(0, 99, rng.integers(1, 60))]).astype(np.int32),
                rng.integers(0, 99, rng.integers(1, 9)).astype(np.int32),
            )
            for _ in range(samples)
        ],
    )


def check(name: str, ours: torch.Tensor, plain: torch.Tensor) -> bool:
    error = ((ours.float() - plain).norm() / plain.norm()).item()
    good = error <= LIMIT  # not true of NaN
    print(f"{'ok  ' if good else 'FAIL'} {name:50} {error:.1e}")
    return good


def main() -> int:
    torch.manual_seed(0)
    device = torch.device("cuda")
    good = True
    for prefix, heads, key_heads, width in (
        (0, 4, 4, 64),
        (150, 8, 2, 64),
        (1150, 32, 8, 64),
        (333, 8, 8, 128),
    ):
        row = make_row(prefix, 40)
        for name, parts, queries in (
            ("all places", parts_of(row), len(row.tokens)),
            ("answers' places", answer_parts_of(row), len(row.predicting)),
        ):
            shapes = ((queries, heads), (len(row.tokens), key_heads), (len(row.tokens), key_heads))
            ours = [torch.randn(*shape, width, device=device, dtype=torch.bfloat16) for shape in shapes]
            plain = [tensor.float() for tensor in ours]
            for tensor in (*ours, *plain):
                tensor.requires_grad_()
            assert type(kernel_for(ours[0])).__name__ == "CudaKernel"
            out, expected = (attend(*group, parts, width**-0.5) for group in (ours, plain))
            d_out = torch.randn_like(expected)
            out.backward(d_out.bfloat16())
            expected.backward(d_out)
            label = f"P={prefix} H={heads}/{key_heads} D={width}, {name}"
            good &= check(f"{label}: out", out, expected)
            lse = attend_parts(*(t.detach() for t in ours), parts, width**-0.5, kernel_for(ours[0]))[1]
            plain_lse = attend_parts(*(t.detach() for t in plain), parts, width**-0.5, PlainKernel())[1]
            good &= check(f"{label}: lse", lse, plain_lse)
            for letter, a, b in zip("qkv", ours, plain, strict=True):
                assert a.grad is not None and b.grad is not None
                good &= check(f"{label}: d_{letter}", a.grad, b.grad)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
