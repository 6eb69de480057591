"""A real vLLM on the CPU for tests and benchmarks, in an environment of its own (`make install-vllm`)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

# Another environment that has it, for those who keep one.
PLACE_VARIABLE = "FLYWHEEL_VLLM"
_PROJECT = Path(__file__).resolve().parents[1]
# With two cores to itself it is up in one to two minutes.
_SECONDS = 600


def executable() -> Path | None:
    """Return the command `vllm`; None where it is not installed."""
    place = Path(os.environ.get(PLACE_VARIABLE) or _PROJECT / ".tools" / "vllm")
    command = place / "bin" / "vllm"
    return command if command.exists() else None


@contextmanager
def vllm(weights: str | Path, log: Path, *, threads: int = 2, options: tuple[str, ...] = ()) -> Iterator[str]:
    """Serve base weights, with adapters to be loaded; gives the address.

    Raises:
        RuntimeError: it is not installed, or does not come up; with the end of its log.
    """
    command = executable()
    if command is None:
        raise RuntimeError("vLLM is not installed: make install-vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(threads),
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                command, "serve", str(Path(weights).resolve()), "--served-model-name", "base",
                "--host", "127.0.0.1", "--port", str(port), "--enable-lora", "--max-loras", "4",
                "--max-lora-rank", "64", "--max-model-len", "2048", "--enforce-eager",
                "--logprobs-mode", "processed_logprobs", "--disable-uvicorn-access-log", *options,
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own},
            start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _SECONDS
        while not _is_up(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"vLLM does not come up: {log.read_text('utf-8', 'replace')[-3000:]}")
            time.sleep(0.5)
        yield url
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, how)
                process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
