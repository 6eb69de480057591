"""What the GPU benchmarks share: the job's shapes, samples of random tokens, peers' models, timing."""

from __future__ import annotations

import platform
import resource
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_shapes import SHAPES
from flywheel.students.gpu.layout import Architecture
from flywheel.students.rows import Sample, Tokens

# Tokens that a whole prompt shares with the others, and its own; a short one has the record's text alone.
PREFIX, OWN, SHORT = 1150, 70, 36
ANSWER, RANK = 6, 16
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_samples(
    count: int, vocabulary: int, seed: int = 0, short: bool = False
) -> tuple[Tokens, list[Sample]]:
    """Return (prefix, samples) of random tokens; short prompts have no prefix."""
    rng = np.random.default_rng(seed)
    own = SHORT if short else OWN
    prefix = rng.integers(10, vocabulary, 0 if short else PREFIX, dtype=np.int32)
    samples = [
        Sample(
            np.concatenate([prefix, rng.integers(10, vocabulary, own, dtype=np.int32)]),
            rng.integers(10, vocabulary, ANSWER, dtype=np.int32),
        )
        for _ in range(count)
    ]
    return prefix, samples


def peer_model(shape: str | Architecture, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """Return a transformers Llama of a shape with random weights, on the GPU where there is one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    arch = SHAPES[shape] if isinstance(shape, str) else shape
    config = LlamaConfig(
        vocab_size=arch.vocabulary,
        hidden_size=arch.hidden,
        intermediate_size=arch.intermediate,
        num_hidden_layers=arch.layers,
        num_attention_heads=arch.heads,
        num_key_value_heads=arch.kv_heads,
        head_dim=arch.head_dim,
        rms_norm_eps=arch.eps,
        max_position_embeddings=4096,
        tie_word_embeddings=arch.hidden < 4096,
        attn_implementation=attention,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device()):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def lora(model: Any, rank: int = RANK) -> Any:
    """Return the model with a LoRA adapter on all linear layers, B random so that A's gradients count."""
    from peft import LoraConfig, get_peft_model

    peft = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MODULES))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.01)
    return peft


def device() -> torch.device:
    """Return the GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_cuda_context() -> bool:
    """Whether this process uses the GPU already, so that none of its forks can."""
    return torch.cuda.is_initialized()


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_ms(step: Callable[[int], object], repeats: int, warmup: int = 3) -> float:
    """Return the median time of a step in milliseconds."""
    import time

    for index in range(warmup):
        step(index)
    times = []
    for index in range(repeats):
        synchronize()
        started = time.perf_counter()
        step(warmup + index)
        synchronize()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def matmul_ceiling() -> float:
    """Return the measured rate of a large bf16 matrix product on random data, in TFLOP/s."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / median_ms(lambda _: a @ b, 20) / 1e9


def machine() -> str:
    """Name what this runs on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.processor() or platform.machine()} CPU, torch {torch.__version__}"


def peak_rss_mb() -> float:
    """Return the process's largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
