"""Students small enough for tests: random weights, a tokenizer trained on the spot, a Llama-like chat template."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flywheel.students.rows import Sample

# More threads than free cores make the tiny matrices here a hundred times slower.
torch.set_num_threads(1)

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|head|>{{ message['role'] }}<|/head|>\n\n{{ message['content'] | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
CLASSES = ("earnings", "dividends", "guidance", "other")
WORDS = [
    "profit",
    "revenue",
    "quarter",
    "raises",
    "cuts",
    "payout",
    "shares",
    "outlook",
    "forecast",
    "sees",
    "beats",
    "misses",
    "company",
    "bank",
    "oil",
    "retail",
    "deal",
    "new",
    "strong",
    "weak",
    "results",
    "year",
    "bid",
    "third",
    "second",
    "first",
    "group",
    "chief",
    "plans",
    "says",
    "report",
]
INSTRUCTIONS = (
    "Read the headline and say which class it belongs to. The classes are earnings, dividends, guidance and "
    "other. Answer with the class in three pairs of square brackets and nothing else. Here are some examples "
    "of what belongs to which class, so that the answer is always the same for the same headline.\nHeadline: "
)


def headline(rng: random.Random) -> tuple[str, str]:
    """Return a headline and its class, which a word of it tells."""
    label = rng.choice(CLASSES)
    words = rng.choices(WORDS, k=rng.randint(2, 14))
    words.insert(rng.randrange(len(words)), {"other": "weather"}.get(label, label))
    return " ".join(words), label


def conversation(text: str, label: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "You are a news classifier."},
        {"role": "user", "content": f"{INSTRUCTIONS}{text}\nClass:"},
        {"role": "assistant", "content": f"[[[{label}]]]"},
    ]


def conversations(count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    rng = random.Random(seed)
    return [conversation(*headline(rng)) for _ in range(count)]


def make_tokenizer(vocabulary: int = 400) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|head|>", "<|/head|>", "<|eot|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = [message["content"] for chat in conversations(50, seed=1) for message in chat]
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|eot|>", pad_token="<|end|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def make_samples(prefix: int, count: int = 9, seed: int = 0, longest: int = 40) -> list[Sample]:
    """Return samples of random tokens after a common prefix, of ragged lengths."""
    rng = np.random.default_rng(seed)
    head = rng.integers(5, 400, prefix)
    return [
        Sample(
            np.concatenate([head, rng.integers(5, 400, rng.integers(1, longest))]).astype(np.int32),
            rng.integers(5, 400, rng.integers(1, 8)).astype(np.int32),
        )
        for _ in range(count)
    ]


def make_model(vocabulary: int = 400, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 4,
        "pad_token_id": 1,
        "initializer_range": 0.15,  # so that logits differ enough for exact comparisons
    }
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))
    model.requires_grad_(False)
    return model.eval()


def with_adapter(model: Any, rank: int = 4, seed: int = 0, zero: bool = False) -> Any:
    """Return the model with a LoRA adapter; its B is not zero, so that no gradient is, unless `zero`."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(seed)
    with warnings.catch_warnings(action="ignore"):
        adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name and not zero:
            torch.nn.init.normal_(parameter, std=0.05)
    return adapted


def save_student(folder: Path, **changes: Any) -> Path:
    """Write a student's folder: weights, tokenizer, template."""
    tokenizer = make_tokenizer()
    make_model(len(tokenizer), **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_dataset(
    root: Path, key: str, train: int, val: int = 16, held_out: int = 24, calibration: int = 0
) -> None:
    """Write a curated dataset into an artifact root."""
    folder = root / "datasets" / key
    folder.mkdir(parents=True)
    rng = random.Random(key)
    files = {}
    for name, count in (("train", train), ("val", val), ("eval", held_out), ("calibration", calibration)):
        lines = []
        for index in range(count):
            text, label = headline(rng)
            line = {
                "id": f"{name}{index}",
                "timestamp": 1,
                "label": label,
                "messages": conversation(text, label),
            }
            lines.append(json.dumps(line))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        files[f"{name}.jsonl"] = (folder / f"{name}.jsonl").stat().st_size
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
