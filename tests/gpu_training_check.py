"""Checks the GPU path's training on the device there is: `python tests/gpu_training_check.py [gradient] [curves]`.

gradient: of each parameter in fp32, against the plain loop in float64, over ragged samples with and without a
common prefix; fails above 1e-5 and twice the plain fp32 loop's own error. curves: 200 bf16 steps
beside transformers and PEFT on the same batches.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from flywheel.students.gpu.engine import KernelEngine
from flywheel.students.gpu.layout import Adapter, Weights
from flywheel.students.gpu.plan import place_row
from flywheel.students.rows import Sample, build_row

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_peft(layers: int, hidden: int, spread: float, b: float) -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=max(1, hidden // 256), head_dim=64,
        max_position_embeddings=2048, initializer_range=spread, attn_implementation="sdpa",
    )  # fmt: skip
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=16, lora_alpha=32, target_modules=MODULES))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0.0, b)
    return model.to(DEVICE)


def make_engine(model: torch.nn.Module, dtype: torch.dtype) -> KernelEngine:
    weights = Weights.pack(model.get_base_model(), 16, 2048, dtype, DEVICE)
    adapter = Adapter.zeros(weights.arch, 16, 2.0, DEVICE)
    adapter.bind(model)
    adapter.pack_into(weights)
    return KernelEngine(weights, adapter)


def gradient(prefix: int, longest: int) -> bool:
    rng = np.random.default_rng(prefix)
    shared = rng.integers(0, 1000, prefix, dtype=np.int32)
    samples = [
        Sample(
            np.concatenate([shared, rng.integers(0, 1000, rng.integers(1, longest), dtype=np.int32)]),
            rng.integers(0, 1000, rng.integers(1, 9), dtype=np.int32),
        )
        for _ in range(12)
    ]
    answers = sum(len(sample.answer) for sample in samples)

    def plain_loop(dtype: torch.dtype) -> torch.nn.Module:
        model = make_peft(3, 512, 0.08, 0.05).to(dtype)
        model.get_base_model().set_attn_implementation("eager")  # sdpa has no float64 backward on CUDA
        for sample in samples:
            ids = torch.from_numpy(np.concatenate([sample.prompt, sample.answer]).astype(np.int64)).to(DEVICE)
            logits = model(ids[None]).logits[0, len(sample.prompt) - 1 : -1]
            targets = ids[len(sample.prompt) :]
            (torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / answers).backward()
        return model

    ours = make_peft(3, 512, 0.08, 0.05)
    make_engine(ours, torch.float32).step(place_row(build_row(shared, samples), DEVICE), 1 / answers)
    exact, plain = plain_loop(torch.float64), plain_loop(torch.float32)

    def worst(left: torch.nn.Module, right: torch.nn.Module) -> float:
        return max(
            float(torch.linalg.norm(p.grad - q.grad) / torch.linalg.norm(q.grad))
            for (name, p), (_, q) in zip(left.named_parameters(), right.named_parameters(), strict=True)
            if "lora_" in name
        )

    found = {
        "ours to exact": worst(ours, exact),
        "plain fp32 loop to exact": worst(plain, exact),
        "ours to plain fp32 loop": worst(ours, plain),
    }
    errors = ", ".join(f"{name} {error:.1e}" for name, error in found.items())
    print(f"gradient prefix={prefix} longest={longest}, worst parameter: {errors}", flush=True)
    return found["ours to exact"] <= max(1e-5, 2 * found["plain fp32 loop to exact"])


def batches(steps: int) -> list[tuple[np.ndarray, list[Sample]]]:
    """A task to learn: the answer is the class of a sum of own tokens."""
    rng = np.random.default_rng(7)
    shared = rng.integers(0, 1000, 200, dtype=np.int32)
    answers = rng.integers(0, 1000, (8, 4), dtype=np.int32)
    made = []
    for _ in range(steps):
        samples = []
        for _ in range(32):
            own = rng.integers(0, 1000, rng.integers(10, 30), dtype=np.int32)
            samples.append(Sample(np.concatenate([shared, own]), answers[own[-1] % 8]))
        made.append((shared, samples))
    return made


def our_curve(data: list[tuple[np.ndarray, list[Sample]]]) -> list[float]:
    model = make_peft(4, 512, 0.04, 0.0)
    engine = make_engine(model, torch.bfloat16)
    adapter, losses = engine.adapter, []
    optimizer = torch.optim.AdamW([adapter.values], lr=3e-3, weight_decay=0.0)
    for index, (shared, samples) in enumerate(data):
        row = place_row(build_row(shared, samples), DEVICE)
        adapter.gradients.zero_()
        losses.append(float(engine.step(row, 1 / row.answers, index)) / row.answers)
        torch.nn.utils.clip_grad_norm_([adapter.values], 1.0)
        optimizer.step()
        adapter.pack_into(engine.weights)
    return losses


def plain_curve(data: list[tuple[np.ndarray, list[Sample]]], attention: str) -> list[float]:
    model = make_peft(4, 512, 0.04, 0.0)
    model.get_base_model().set_attn_implementation(attention)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    adapter = [p for name, p in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(adapter, lr=3e-3, weight_decay=0.0)
    losses = []
    for _, samples in data:
        longest = max(len(sample) for sample in samples)
        ids = torch.zeros(len(samples), longest, dtype=torch.int64)
        labels = torch.full_like(ids, -100)
        for index, sample in enumerate(samples):
            tokens = torch.from_numpy(np.concatenate([sample.prompt, sample.answer]).astype(np.int64))
            ids[index, : len(tokens)] = tokens
            labels[index, len(sample.prompt) : len(tokens)] = tokens[len(sample.prompt) :]
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            mask = (torch.arange(longest)[None] < torch.tensor([len(s) for s in samples])[:, None]).to(DEVICE)
            logits = model(ids.to(DEVICE), attention_mask=mask.long()).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten().to(DEVICE))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def curves(steps: int = 200) -> dict[str, object]:
    data = batches(steps)
    runs = {"ours": our_curve(data), "sdpa": plain_curve(data, "sdpa"), "eager": plain_curve(data, "eager")}
    smooth = {name: np.convolve(losses, np.ones(20) / 20, "valid") for name, losses in runs.items()}
    report = {
        "first": {name: round(losses[0], 4) for name, losses in runs.items()},
        "last_20": {name: round(float(curve[-1]), 4) for name, curve in smooth.items()},
        "mean_distance_to_sdpa": {
            name: round(float(np.abs(smooth[name] - smooth["sdpa"]).mean()), 5) for name in ("ours", "eager")
        },
    }
    print("curves", json.dumps(report))
    return report


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["gradient", "curves"]
    failed = False
    if "gradient" in wanted:
        cases = [(0, 60), (0, 300), (150, 100), (150, 300)]
        good = [gradient(prefix, longest) for prefix, longest in cases]
        failed = not all(good)
    if "curves" in wanted:
        curves()
    sys.exit(failed)
