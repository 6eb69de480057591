"""Each Triton kernel against `reference`: in Triton's interpreter on a CPU, or on the GPU where there is one.

The interpreter has to be chosen before triton is imported, so these checks run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

PROJECT = Path(__file__).parents[2]
CHECK = PROJECT / "tests/gpu_kernel_check.py"


def test_kernels_compute_what_the_reference_computes():
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(PROJECT),
    }
    done = subprocess.run([sys.executable, str(CHECK)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
