"""An encoder with its head: loaded, given an adapter, asked.

The head is a linear layer over the mean of the last hidden states. It begins as the logistic regression that
fits the features which the encoder gives as it is, and then learns together with the adapter: a random head
would spoil the features first (Kumar et al., Fine-Tuning can Distort Pretrained Features, ICLR 2022,
arXiv 2202.10054). The mean and not the first token's state, which few encoders have learned anything for.
"""

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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flywheel.common.errors import StudentError
from flywheel.config.student import Student
from flywheel.config.training import LoraConfig
from flywheel.jobs.weights import base_name, explain_missing, local_folder, weights_hash
from flywheel.students.loading import collect_garbage_from_now_on

# Tokens of a batch with its padding: bounds the memory.
MOST_TOKENS = {"cpu": 2048, "cuda": 131_072}
ABOUT, HEAD = "encoder.json", "head.safetensors"
Floats = NDArray[np.float64]


class Encoder:
    """A Hugging Face encoder with a head over the classes.

    Args:
        student: gives the weights and the longest text.
        classes: K.
        records: that it is trained on.

    Attributes:
        model: of transformers, or of peft around it; in fp32, frozen but for an adapter.
        head: gives the classes' scores from the mean of the hidden states.
        revision: the commit of weights of the Hub.

    Raises:
        StudentError: the weights are no encoder's, or cannot be read.
    """

    def __init__(self, student: Student, classes: Sequence[str], device: torch.device, records: int) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # it warns of the old head, which is not needed
        folder = local_folder(student.weights)
        self.base_name = base_name(student.weights)
        self.revision = weights_hash(student.weights).rpartition("@")[2] if folder is None else None
        options: dict[str, Any] = {"trust_remote_code": False}
        options |= {"local_files_only": True} if folder is not None else {"revision": self.revision}
        try:
            config = AutoConfig.from_pretrained(self.base_name, **options)
            _refuse_decoder(student, config)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.base_name, **options)
            self.model: Any = AutoModel.from_pretrained(self.base_name, dtype=torch.float32, **options)
        except StudentError:
            raise
        except Exception as error:  # the libraries raise many kinds
            raise StudentError(explain_missing(student.weights, error)) from error
        self.head = nn.Linear(int(config.hidden_size), len(classes)).to(device)
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
        return sum(parameter.numel() for part in (self.model, self.head) for parameter in part.parameters())

    def add_adapter(self, config: LoraConfig, seed: int) -> None:
        """Put a fresh LoRA adapter on all linear layers but a pooler, which has no part in the answer."""
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model

        torch.manual_seed(seed)
        linear = [
            name
            for name, part in self.model.named_modules()
            if isinstance(part, nn.Linear) and "pooler" not in name
        ]
        settings = PeftConfig(
            r=config.adapter_dim,
            lora_alpha=config.alpha if config.alpha is not None else 2 * config.adapter_dim,
            lora_dropout=config.adapter_dropout,
            target_modules=linear,
            task_type="FEATURE_EXTRACTION",
        )
        with warnings.catch_warnings():
            # peft asks for a property that transformers renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            self.model = get_peft_model(self.model, settings)
        self.model.peft_config["default"].base_model_name_or_path = self.base_name
        self.model.peft_config["default"].revision = self.revision

    def with_adapter(self, folder: Path) -> None:
        """Take the head of a folder, and its adapter, merged into the weights: it answers faster.

        Raises:
            StudentError: they do not fit this encoder, or are damaged.
        """
        from peft import PeftModel

        try:
            self.head.load_state_dict(load_file(folder / HEAD))
            if (folder / "adapter_config.json").exists():
                adapted: Any = PeftModel.from_pretrained(self.model, str(folder))
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

    def features(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean hidden states of texts as token ids: [n, d], padded to the longest of them."""
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])  # [n, longest]
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        ids, mask = ids.to(self.torch_device), mask.to(self.torch_device)
        with self.precision():
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weights = mask[..., None].float()
        means: Tensor = (states * weights).sum(1) / weights.sum(1)
        return means

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the scores of the classes for texts as token ids: [n, K]."""
        scores: Tensor = self.head(self.features(rows))
        return scores

    def start_head(self, rows: Sequence[Sequence[int]], labels: Sequence[int]) -> None:
        """Set the head to the logistic regression on the features that texts have now.

        Args:
            rows: token ids of the texts.
            labels: the number of the class of each, two classes at least.
        """
        from sklearn.linear_model import LogisticRegression

        features = np.empty((len(rows), self.head.in_features))
        with torch.inference_mode():
            for places in batches(rows, MOST_TOKENS[self.torch_device.type]):
                features[places] = self.features([rows[place] for place in places]).cpu().numpy()
        middle, spread = features.mean(0), float(features.std()) or 1.0
        model = LogisticRegression(C=1.0, max_iter=300).fit((features - middle) / spread, labels)
        weight, bias = model.coef_ / spread, model.intercept_
        if len(weight) == 1:  # of two classes: one row, for the second
            weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weight))
            self.head.bias.copy_(torch.from_numpy(bias - weight @ middle))

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
        """Write the adapter as peft does, where there is one, and the head and its classes beside it."""
        save_file({name: value.cpu() for name, value in self.head.state_dict().items()}, folder / HEAD)
        if hasattr(self.model, "peft_config"):
            self.model.save_pretrained(str(folder), save_embedding_layers=False)
            path = folder / "adapter_config.json"
            # peft keeps names as sets, whose order differs between processes.
            config = json.loads(path.read_text())
            config["target_modules"] = sorted(config["target_modules"])
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
