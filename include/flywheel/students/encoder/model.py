"""An encoder with its head: loaded, given an adapter, asked."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flywheel.common.errors import StudentError
from flywheel.config.student import Student
from flywheel.config.training import LoraConfig
from flywheel.jobs.weights import base_name, explain_missing, local_folder, weights_hash
from flywheel.students.loading import collect_garbage_from_now_on

# Tokens of a batch with its padding: bounds the memory.
MOST_TOKENS = {"cpu": 2048, "cuda": 131_072}
ABOUT = "encoder.json"
Floats = NDArray[np.float64]


class Encoder:
    """A Hugging Face encoder with a head over the classes.

    Args:
        student: gives the weights and the longest text.
        classes: K.
        records: that it is trained on.
        seed: fixes the first weights of what the base has not: the head.

    Attributes:
        model: of transformers, for sequence classification, or of peft around it; in fp32.
        fresh: names of the modules that are not in the base weights.
        revision: the commit of weights of the Hub.

    Raises:
        StudentError: the weights are no encoder's, or cannot be read.
    """

    def __init__(
        self, student: Student, classes: Sequence[str], device: torch.device, records: int, seed: int = 0
    ) -> None:
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # it warns of the head, which is to be trained
        folder = local_folder(student.weights)
        self.base_name = base_name(student.weights)
        self.revision = weights_hash(student.weights).rpartition("@")[2] if folder is None else None
        options: dict[str, Any] = {"trust_remote_code": False}
        options |= {"local_files_only": True} if folder is not None else {"revision": self.revision}
        torch.manual_seed(seed)
        try:
            config = AutoConfig.from_pretrained(self.base_name, **options)
            _refuse_decoder(student, config)
            config.id2label = dict(enumerate(classes))
            config.label2id = {name: place for place, name in enumerate(classes)}
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.base_name, **options)
            self.model: Any
            self.model, found = AutoModelForSequenceClassification.from_pretrained(
                self.base_name,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # a head over other classes
                **options,
            )
        except StudentError:
            raise
        except Exception as error:  # the libraries raise many kinds
            raise StudentError(explain_missing(student.weights, error)) from error
        drawn = [*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])]
        inside = f"{self.model.base_model_prefix}."
        self.fresh = sorted(
            {name.rpartition(".")[0] if name.startswith(inside) else name.partition(".")[0] for name in drawn}
        )
        self.classes, self.records = tuple(classes), records
        self.torch_device = device
        self.device = "cpu" if device.type == "cpu" else str(torch.cuda.get_device_name())
        self.longest = min(student.context_length, _most_positions(config), self.tokenizer.model_max_length)
        self.model.requires_grad_(False)
        self.model.eval().to(device)
        collect_garbage_from_now_on()

    @property
    def width(self) -> int:
        """Length of the hidden states."""
        return int(self.model.config.hidden_size)

    @property
    def parameters(self) -> int:
        """The numbers that it computes with."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def add_adapter(self, config: LoraConfig, seed: int) -> None:
        """Put a fresh LoRA adapter on the encoder's linear layers; what the base has not is trained whole."""
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model

        torch.manual_seed(seed)
        inside = f"{self.model.base_model_prefix}."
        linear = [
            name
            for name, part in self.model.named_modules()
            if isinstance(part, nn.Linear) and name.startswith(inside) and name not in self.fresh
        ]
        settings = PeftConfig(
            r=config.adapter_dim,
            lora_alpha=config.alpha if config.alpha is not None else 2 * config.adapter_dim,
            lora_dropout=config.adapter_dropout,
            target_modules=linear,
            modules_to_save=self.fresh,
            task_type="SEQ_CLS",
        )
        with warnings.catch_warnings():
            # peft asks for a property that transformers renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            self.model = get_peft_model(self.model, settings)
        self.model.peft_config["default"].base_model_name_or_path = self.base_name
        self.model.peft_config["default"].revision = self.revision

    def with_adapter(self, folder: Path) -> None:
        """Take the adapter and the head of a folder, merged into the weights: it answers faster.

        Raises:
            StudentError: they do not fit this encoder, or are damaged.
        """
        from peft import PeftModel

        try:
            adapted = PeftModel.from_pretrained(self.model, str(folder))
            self.model = adapted.merge_and_unload().eval()
        except Exception as error:  # the libraries raise many kinds
            raise StudentError(f"{folder}: does not fit {self.base_name}: {error}") from error

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts' tokens with the tokenizer's own around them, cut at the longest text."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.longest)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the scores of the classes for texts as token ids: [n, K], padded to the longest of them."""
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])  # [n, longest]
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        with self.precision():
            found = self.model(input_ids=ids.to(self.torch_device), attention_mask=mask.to(self.torch_device))
        logits: Tensor = found.logits.float()
        return logits

    def precision(self) -> AbstractContextManager[Any]:
        """Return the precision of the arithmetic: bf16 on a GPU, fp32 on a CPU."""
        if self.torch_device.type == "cpu":
            return nullcontext()
        return torch.autocast(self.torch_device.type, torch.bfloat16)

    def log_probabilities(self, texts: Sequence[str]) -> Floats:
        """Return natural logarithms of the probabilities of each text's classes: [N, K]."""
        rows = self.encode(texts)
        values = np.empty((len(rows), len(self.classes)))
        with torch.inference_mode():
            for places in batches(rows, MOST_TOKENS[self.torch_device.type]):
                scores = self.logits([rows[place] for place in places])
                values[places] = scores.double().log_softmax(-1).cpu().numpy()
        return values

    def tokens(self, text: str) -> int:
        """Return how many tokens of a text it reads."""
        return len(self.encode([text])[0])

    def save(self, folder: Path) -> None:
        """Write adapter and head as peft does, and the classes beside them."""
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        path = folder / "adapter_config.json"
        # peft keeps names as sets, whose order differs between processes.
        config = json.loads(path.read_text())
        config["target_modules"] = sorted(config["target_modules"])
        config["modules_to_save"] = sorted(config["modules_to_save"])
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        about = {"classes": self.classes, "records": self.records}
        (folder / ABOUT).write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")


def batches(rows: Sequence[Sequence[int]], most_tokens: int) -> list[list[int]]:
    """Return the places of rows in batches of similar length, each of so many tokens with its padding.

    A row that is longer by itself is a batch of its own.
    """
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    found: list[list[int]] = []
    for place in order:
        if found and len(rows[found[-1][0]]) * (len(found[-1]) + 1) <= most_tokens:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def _refuse_decoder(student: Student, config: Any) -> None:
    names = config.architectures or ("it",)
    if config.is_encoder_decoder or any(name.endswith("ForCausalLM") for name in names):
        raise StudentError(
            f"{student.weights}: {names[0]} is no encoder; take `family: causal_lm` for a causal LM, or the "
            "weights of an encoder such as BERT or ModernBERT"
        )


def _most_positions(config: Any) -> int:
    """Return the longest text that an encoder has places for; RoBERTa's begin after the padding's."""
    most = int(getattr(config, "max_position_embeddings", 0) or 0)
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        most -= (config.pad_token_id or 0) + 1
    return most if most > 0 else 1 << 30
