"""Encoders small enough for tests: random weights, a tokenizer of whole words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_students import CLASSES, WORDS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

SPECIAL = ["<pad>", "<cls>", "<sep>", "<unk>", "<mask>"]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "initializer_range": 0.15,
}


def save_encoder(folder: Path, kind: str = "bert") -> Path:
    """Write an encoder's folder: weights as they come before any fine-tuning, and a tokenizer."""
    words = [*SPECIAL, *WORDS, *CLASSES, "weather", *"abcdefghij"]
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", special_tokens=[("<cls>", 1), ("<sep>", 2)]
    )
    names = {"pad": "<pad>", "cls": "<cls>", "sep": "<sep>", "unk": "<unk>", "mask": "<mask>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, **{f"{name}_token": token for name, token in names.items()}
    )
    torch.manual_seed(0)
    model(kind, len(words)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def model(kind: str, vocabulary: int) -> Any:
    settings = {**SMALL, "vocab_size": vocabulary}
    if kind == "bert":
        return BertModel(BertConfig(**settings))
    if kind == "classifier":  # fine-tuned for another task, with a head of its own
        return BertForSequenceClassification(BertConfig(**settings, num_labels=7))
    if kind == "roberta":
        return RobertaModel(RobertaConfig(**settings))
    if kind == "deberta":
        return DebertaV2Model(DebertaV2Config(**settings, relative_attention=True, pos_att_type=["p2c"]))
    return ModernBertForMaskedLM(
        ModernBertConfig(
            **settings,
            cls_token_id=1,
            sep_token_id=2,
            bos_token_id=1,
            eos_token_id=2,
            global_attn_every_n_layers=1,
        )
    )
