"""Pretrains the three demo students: `python -m flywheel.demo.pretrain --out DIR`.

Each student is a Llama of a few hundred thousand to a few million parameters, trained from scratch as a
language model on the chats of `flywheel.demo.lessons`, with more weight on the assistant's words. On one
H100 the three take about three minutes; `--device cpu --steps 2 --rows 128` shows on a laptop that it runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flywheel.demo.call_lessons import CallLessons
from flywheel.demo.headlines import generate
from flywheel.demo.lessons import Lessons
from flywheel.demo.tokenizer import ROLES, train_tokenizer, wrap

log = logging.getLogger(__name__)

SEED = 17
ROW = 1536  # tokens of a training row: the workload's prompt and a sample fit in it
ROWS = 64  # of an optimizer step
ANSWER_WEIGHT = 4.0  # of an assistant's token in the loss; other tokens count 1


@dataclass(frozen=True)
class Size:
    """A student's shape, and for how many optimizer steps it is pretrained at which peak learning rate."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    steps: int
    learning_rate: float


HEAD = 32
SIZES = {
    "small": Size(96, 2, 2, 1, 256, 1000, 6e-3),
    "medium": Size(192, 3, 3, 1, 512, 1500, 4e-3),
    "large": Size(256, 3, 4, 2, 768, 2000, 3e-3),
    # Goes on from the medium one, with `--go-on --calls`.
    "caller": Size(192, 3, 3, 1, 512, 4000, 2e-3),
}


def build(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a freshly initialised student."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=HEAD,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


def tokenizer_texts(prompts: list[str], seed: int = SEED) -> Iterator[str]:
    """Yield what the tokenizer is trained on: headlines, chats, and the words of the given prompts."""
    for headline in generate(60_000, seed=seed):
        yield headline.text
    chats = Lessons(seed).chats()
    for _ in range(2_000):
        for message in next(chats):
            yield message["content"]
    for prompt in prompts:
        yield from [prompt, prompt.lower()] * 100


def _encode(tokenizer: PreTrainedTokenizerFast, chat: list[dict[str, str]]) -> tuple[list[int], list[float]]:
    """Tokens of a chat and the weight of each in the loss."""
    tokens, weights = [tokenizer.bos_token_id], [0.0]
    texts = tokenizer([message["content"] for message in chat], add_special_tokens=False)["input_ids"]
    for message, text in zip(chat, texts, strict=True):
        role = tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>")
        weight = ANSWER_WEIGHT if message["role"] == ROLES[2] else 1.0
        tokens += [role, *text, tokenizer.eos_token_id]
        weights += [0.0, *([weight] * (len(text) + 1))]
    return tokens, weights


def _rows(job: tuple[str, int, int, float, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Pack chats of one seed into `count` rows: tokens [count, ROW + 1] and their weights."""
    folder, seed, count, listing, calls = job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core already
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    chats = (CallLessons if calls else Lessons)(seed, listing).chats()
    tokens: list[int] = []
    weights: list[float] = []
    while len(tokens) < count * (ROW + 1):
        more, their = _encode(tokenizer, next(chats))
        tokens += more
        weights += their
    shape = (count, ROW + 1)
    size = count * (ROW + 1)
    return (
        np.array(tokens[:size], dtype=np.uint16).reshape(shape),
        np.array(weights[:size], dtype=np.float16).reshape(shape),
    )


def make_rows(
    folder: Path, rows: int, seed: int, workers: int, listing: float, *, calls: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return training rows as tokens and weights, each [rows, ROW + 1], made by `workers` processes."""
    block = 128
    blocks = range(math.ceil(rows / block))
    jobs = [(str(folder), seed * 1_000_003 + number, block, listing, calls) for number in blocks]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        parts = pool.map(_rows, jobs, chunksize=1)
    tokens, weights = (np.concatenate([part[side] for part in parts])[:rows] for side in (0, 1))
    return tokens, weights


def pretrain(
    name: str,
    size: Size,
    model: LlamaForCausalLM,
    data: tuple[np.ndarray, np.ndarray],
    device: str,
    rows_a_step: int = ROWS,
) -> LlamaForCausalLM:
    """Train one student: AdamW, warm-up, then a cosine to zero; bf16 autocast on a GPU.

    Args:
        model: the student, fresh or from an earlier phase.
        data: tokens and loss weights, each [rows, ROW + 1]; used in order, and again when they run out.
    """
    model.to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info(
        "%s: %.2fM parameters, %d steps of %d tokens", name, parameters / 1e6, size.steps, rows_a_step * ROW
    )
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=size.learning_rate, betas=(0.9, 0.95), fused=device == "cuda")
    warm_up = min(100, size.steps // 10 + 1)

    def rate(step: int) -> float:
        rest = (step - warm_up) / max(1, size.steps - warm_up)
        return (step + 1) / warm_up if step < warm_up else 0.5 * (1 + math.cos(math.pi * rest))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    tokens = torch.from_numpy(data[0].astype(np.int32)).to(device)
    weights = torch.from_numpy(data[1]).to(device)
    started = time.perf_counter()
    for step in range(size.steps):
        rows = step * rows_a_step + torch.arange(rows_a_step, device=device)
        rows %= len(tokens)
        ids, weight = tokens[rows].long(), weights[rows, 1:].float()  # [rows, ROW + 1], [rows, ROW]
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits  # [rows, ROW, vocabulary]
        each = functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        loss = (each * weight.flatten()).sum() / weight.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == size.steps - 1:
            answers = (each.detach().view_as(weight)[weight > 1]).mean()
            seconds = time.perf_counter() - started
            log.info(
                "%s: step %4d loss %.3f answers %.3f %.0f s", name, step, loss.item(), answers.item(), seconds
            )
    return model


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights (bf16 safetensors), config, tokenizer and generation config to `folder`."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=16,
    )
    model.to(device="cpu", dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)


def main() -> None:
    """Train the tokenizer and the students named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "students")
    parser.add_argument("--students", nargs="+", default=["small", "medium", "large"], choices=list(SIZES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="optimizer steps of each student, instead of its own")
    parser.add_argument("--learning-rate", type=float, help="peak rate of each student, instead of its own")
    parser.add_argument("--go-on", action="store_true", help="another phase for the students in --out")
    parser.add_argument("--rows", type=int, help="rows of training data, instead of one for each row used")
    parser.add_argument("--rows-a-step", type=int, default=ROWS, help="rows of an optimizer step")
    parser.add_argument("--listing", type=float, default=0.25, help="share of chats about lists of classes")
    parser.add_argument("--calls", action="store_true", help="chats with function calls, too")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--prompt", type=Path, nargs="*", default=[], help="text files for the tokenizer")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.StreamHandler(),
        logging.FileHandler(options.out / "pretrain.log", "a" if options.go_on else "w"),
    ]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)
    torch.set_float32_matmul_precision("high")

    asked = {"steps": options.steps, "learning_rate": options.learning_rate}
    changes = {key: value for key, value in asked.items() if value}
    sizes = {name: replace(SIZES[name], **changes) for name in options.students}
    seed = SEED + 1 if options.go_on else SEED
    log.info(
        "seed %d, torch %s, %s", seed, torch.__version__, json.dumps({k: vars(v) for k, v in sizes.items()})
    )
    started = time.perf_counter()
    first = options.out / next(iter(sizes))
    if options.go_on:
        tokenizer = wrap(Tokenizer.from_file(str(first / "tokenizer.json")))
    else:
        prompts = [path.read_text(encoding="utf-8") for path in options.prompt]
        tokenizer = train_tokenizer(tokenizer_texts(prompts))
        tokenizer.save_pretrained(first, save_jinja_files=False)
    rows = options.rows or options.rows_a_step * max(size.steps for size in sizes.values())
    data = make_rows(first, rows, seed, options.workers, options.listing, calls=options.calls)
    log.info("%d rows of %d tokens, %.0f s", len(data[0]), ROW, time.perf_counter() - started)
    for name, size in sizes.items():
        folder = options.out / name
        model = LlamaForCausalLM.from_pretrained(folder) if options.go_on else build(size, tokenizer)
        pretrain(name, size, model.float(), data, options.device, options.rows_a_step)
        save(model, tokenizer, folder)
    log.info("all in %.0f s", time.perf_counter() - started)


if __name__ == "__main__":
    main()
