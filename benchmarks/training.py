"""A training step of 64 samples, beside TRL's SFTTrainer and prefix-grouper in the same run.

    python -m benchmarks.training [--shape 1b] [--short] [--peers trl,prefix-grouper] [--steps 5]

Random weights of a Llama's shape, bf16, LoRA r = 16 on all linear layers, dropout off; a prompt of 1,150
shared and 70 own tokens and an answer of 6, on which alone the loss is. With `--short` prompts are 36 own
tokens, and `by_whole` is records a second by those of the whole prompt, in the same run. `ratio` is the
fastest TRL's time by ours, both at steps of 64 samples. `share` is the arithmetic that is needed (see
`needed_flops`) over the bf16 matmul rate measured in the same run. `wide` is ours with 256 samples a step,
given for 64 of them: not the same step, but what a batch of 256 costs.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import gpu_common as common
from benchmarks.gpu_shapes import SHAPES, needed_flops, random_weights
from flywheel.students.gpu.engine import KernelEngine
from flywheel.students.gpu.graphs import GraphedEngine
from flywheel.students.gpu.layout import Adapter
from flywheel.students.gpu.plan import place_row
from flywheel.students.rows import build_row

log = logging.getLogger("benchmarks.training")
BATCH = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="1b")
    parser.add_argument("--short", action="store_true", help="prompts of the record's text alone")
    parser.add_argument("--peers", default="trl,prefix-grouper")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    peers = arguments.peers.split(",")
    print(json.dumps(measure(arguments.shape, arguments.short, peers, arguments.steps)))


def measure(shape: str, short: bool, peers: list[str], steps: int) -> dict[str, Any]:
    """Return the benchmark's result."""
    ceiling = common.matmul_ceiling()
    both = {}
    for name, samples, dropout in (
        ("ours", BATCH, 0.0),
        ("wide", 4 * BATCH, 0.0),
        ("with_dropout", BATCH, 0.1),
    ):
        both[name] = our_step(shape, samples, steps=steps, dropout=dropout, ceiling=ceiling, short=short)
        if short:
            whole = our_step(shape, samples, steps=steps, dropout=dropout, ceiling=ceiling)
            both[name]["whole"] = whole
            both[name]["by_whole"] = round(whole["ms_per_64"] / both[name]["ms_per_64"], 2)
    result: dict[str, Any] = {
        "name": f"training-{shape}{'-short' if short else ''}",
        "unit": f"ms per {BATCH} samples",
        "ours": both["ours"]["ms_per_64"],
        "ours_detail": both["ours"],
        "wide": both["wide"],
        "with_dropout": both["with_dropout"],
        "ceiling_tflops": round(ceiling, 1),
    }
    if "trl" in peers:
        result["trl"] = trl_steps(shape, steps, short=short)
        times = [run["ms_per_64"] for run in result["trl"] if run["ms_per_64"]]
        result["peer"] = min(times) if times else None
        result["ratio"] = round(result["peer"] / result["ours"], 2) if times else None
    if "prefix-grouper" in peers and not short:
        result["prefix_grouper"] = prefix_grouper_step(shape, steps)
    return result | {"machine": common.machine(), "peak_rss_mb": round(common.peak_rss_mb())}


def our_step(
    shape: str,
    samples: int,
    steps: int = 5,
    dropout: float = 0.0,
    ceiling: float | None = None,
    short: bool = False,
) -> dict[str, Any]:
    """Time our step and give its memory back."""
    try:
        return _our_step(shape, samples, steps, dropout, ceiling, short)
    finally:
        clear()


def _our_step(
    shape: str, samples: int, steps: int, dropout: float, ceiling: float | None, short: bool
) -> dict[str, Any]:
    """Time our step: gradients to zero, forward, backward, clipping, AdamW, packing the adapter."""
    arch, device = SHAPES[shape], torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    weights = random_weights(arch, common.RANK, device)
    adapter = Adapter.zeros(arch, common.RANK, 2.0, device)
    for matrices in adapter.a.values():
        matrices.normal_(0, 0.02)
    adapter.pack_into(weights)
    prefix, data = common.make_samples(samples, arch.vocabulary, short=short)
    row = place_row(build_row(prefix, data), device)
    engine = GraphedEngine(KernelEngine(weights, adapter, dropout))
    optimizer = torch.optim.AdamW([adapter.values], lr=1e-4, fused=True)

    def step(index: int) -> None:
        adapter.gradients.zero_()
        engine.step(row, 1 / row.answers, index)
        torch.nn.utils.clip_grad_norm_([adapter.values], 1.0)
        optimizer.step()
        adapter.pack_into(weights)

    started = time.perf_counter()
    step(0)
    torch.cuda.synchronize()
    first = time.perf_counter() - started
    ms = common.median_ms(step, steps)
    own = [len(data[0]) - len(prefix) - 1] * samples
    flops = needed_flops(arch, common.RANK, len(prefix), own, samples * common.ANSWER)
    rate = flops / ms / 1e9
    return {
        "samples": samples,
        "dropout": dropout,
        "ms": round(ms, 2),
        "ms_per_64": round(ms * BATCH / samples, 2),
        "records_per_second": round(samples / ms * 1e3),
        "tflops_needed": round(rate, 1),
        "share": round(rate / ceiling, 3) if ceiling else None,
        "first_step_s": round(first, 2),
        "peak_gpu_gb": round(torch.cuda.max_memory_allocated() / 2**30, 1),
    }


# What is tried for TRL: its defaults (gradient checkpointing), then without it and with Liger's kernels.
TRL_SETTINGS: list[dict[str, Any]] = [
    {"batch": 16},
    {"batch": 8, "gradient_checkpointing": False},
    {"batch": 8, "gradient_checkpointing": False, "use_liger_kernel": True},
    {"batch": 16, "gradient_checkpointing": False, "use_liger_kernel": True},
]
# With short prompts, 64 samples are one batch, or packed into rows of so many.
TRL_SHORT: list[dict[str, Any]] = [
    {"batch": batch, "packed": packed, "gradient_checkpointing": False, "use_liger_kernel": True}
    for batch, packed in ((64, 1), (1, 64), (4, 16))
]


def trl_steps(
    shape: str, steps: int, settings: list[dict[str, Any]] | None = None, short: bool = False
) -> list[dict[str, Any]]:
    """Time TRL's SFTTrainer at several settings; one that fails says why."""
    results = []
    for setting in settings or (TRL_SHORT if short else TRL_SETTINGS):
        try:
            ms = round(_trl(shape, steps, short, **setting), 1)
            results.append({**setting, "ms_per_64": ms})
        except Exception as error:  # any peer may fail: out of memory, a missing kernel
            log.exception("TRL %s", setting)
            results.append({**setting, "ms_per_64": None, "error": f"{type(error).__name__}: {error}"[:200]})
        clear()
    return results


def _trl(shape: str, steps: int, short: bool, batch: int, packed: int = 1, **options: Any) -> float:
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from peft import LoraConfig
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            common.synchronize()
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            common.synchronize()
            self.times.append((time.perf_counter() - self.started) * 1e3)

    _, samples = common.make_samples(BATCH * (steps + 1), SHAPES[shape].vocabulary, short=short)
    rows = [samples[start : start + packed] for start in range(0, len(samples), packed)]
    examples = {
        "input_ids": [[t for s in row for t in [*s.prompt.tolist(), *s.answer.tolist()]] for row in rows],
        "labels": [[t for s in row for t in [-100] * len(s.prompt) + s.answer.tolist()] for row in rows],
    }
    if packed > 1:  # as TRL packs: attention ends with a sample, by the positions
        examples["seq_lengths"] = [[len(s) for s in row] for row in rows]
    clock = Clock()
    trainer = SFTTrainer(
        model=common.peer_model(shape, torch.bfloat16),
        args=SFTConfig(
            output_dir="/tmp/trl",
            max_steps=steps + 1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=BATCH // (batch * packed),
            padding_free=packed > 1,
            bf16=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            disable_tqdm=True,
            optim="adamw_torch_fused",
            **options,
        ),
        train_dataset=Dataset(InMemoryTable.from_pydict(examples), fingerprint="samples"),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=_tokenizer(), pad_token="<pad>", eos_token="<eos>"
        ),
        peft_config=LoraConfig(r=common.RANK, lora_alpha=2 * common.RANK, target_modules=common.MODULES),
        callbacks=[clock],
    )
    trainer.train()
    return statistics.median(clock.times[1:])


def _tokenizer() -> Any:
    """Return a tokenizer that TRL can hold; no text is tokenized."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return Tokenizer(WordLevel({"<unk>": 0, "<eos>": 1, "<pad>": 2}, unk_token="<unk>"))


def prefix_grouper_step(shape: str, steps: int, samples: int = BATCH) -> dict[str, Any]:
    """Time a step of prefix-grouper (arXiv 2506.05433) with sdpa attention, logits at the answers alone."""
    try:
        return _prefix_grouper(shape, steps, samples)
    except Exception as error:
        log.exception("prefix-grouper")
        return {"ms_per_64": None, "error": f"{type(error).__name__}: {error}"[:200]}
    finally:
        clear()


def _prefix_grouper(shape: str, steps: int, samples: int) -> dict[str, Any]:
    from prefix_grouper import PrefixGrouper
    from prefix_grouper.forward import AttentionForward
    from torch.nn.attention.bias import causal_lower_right
    from transformers.modeling_utils import AttentionInterface

    def attend(q: Tensor, k: Tensor, v: Tensor, _: Tensor, repeat: int) -> Tensor:
        # Without padding the masks are plain causal ones, aligned at the end: flash attention takes them.
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        mask = causal_lower_right(q.shape[2], k.shape[2])
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    def attention(
        module: Any, q: Tensor, k: Tensor, v: Tensor, _: Any, **options: Any
    ) -> tuple[Tensor, None]:
        groups = module.num_key_value_groups
        return AttentionForward(attend)(options["prefix_grouper"], q, k, v, groups), None

    AttentionInterface.register("prefix_grouper_sdpa", attention)
    device = common.device()
    base = common.peer_model(shape, torch.bfloat16, "prefix_grouper_sdpa")
    model = common.lora(base)
    prefix, data = common.make_samples(samples, SHAPES[shape].vocabulary)
    own = np.stack([np.concatenate([s.prompt[len(prefix) :], s.answer[:-1]]) for s in data])
    length = own.shape[1]
    tokens = torch.from_numpy(np.concatenate([prefix, own.ravel()]).astype(np.int64)).to(device)[None]
    targets = torch.from_numpy(np.stack([s.answer for s in data]).astype(np.int64)).to(device)
    at = len(prefix) + torch.arange(samples, device=device)[:, None] * length
    at = at + torch.arange(length - common.ANSWER, length, device=device)[None]
    positions = torch.cat([torch.arange(len(prefix)), len(prefix) + torch.arange(length).repeat(samples)]).to(
        device
    )[None]
    grouper = PrefixGrouper([[len(prefix)] + [length] * samples], device=device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step(_: int) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            hidden = base.model(
                input_ids=tokens, position_ids=positions, prefix_grouper=grouper, use_cache=False
            ).last_hidden_state  # fmt: skip
            logits = base.lm_head(hidden[0, at.flatten()])
            loss = torch.nn.functional.cross_entropy(logits.float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    ms = common.median_ms(step, steps, warmup=2)
    return {"samples": samples, "ms_per_64": round(ms * BATCH / samples, 1)}


def clear() -> None:
    """Give freed memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
