"""LoRA adapters as `peft` keeps them: made, written with a model card, and loaded again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flywheel.common.errors import StudentError
from flywheel.config.training import LoraConfig


def add_adapter(
    model: Any, config: LoraConfig, base_name: str, seed: int, revision: str | None = None
) -> Any:
    """Return the model with a fresh adapter on all linear layers but the output layer.

    Args:
        base_name: what the adapter names as its base model.
        revision: of that model on the Hub.
        seed: fixes the first weights; the adapter's output is zero at first, whatever they are.
    """
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    torch.manual_seed(seed)
    settings = PeftConfig(
        r=config.adapter_dim,
        lora_alpha=config.alpha if config.alpha is not None else 2 * config.adapter_dim,
        lora_dropout=config.adapter_dropout,
        target_modules=linear_names(model),
        task_type="CAUSAL_LM",
    )
    with _unwarned():
        adapted: Any = get_peft_model(model, settings)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.peft_config["default"].revision = revision
    return adapted


def linear_names(model: Any) -> list[str]:
    """Return the names of the linear layers inside the decoder, such as `q_proj`, sorted."""
    return sorted(
        {name.rsplit(".", 1)[-1] for name, part in model.model.named_modules() if isinstance(part, nn.Linear)}
    )


def trainable(model: Any) -> dict[str, Tensor]:
    """Return the adapter's parameters by name, in a fixed order."""
    return {
        name: parameter for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad
    }


def save_adapter(model: Any, folder: Path, card: str) -> None:
    """Write the adapter: adapter_config.json, adapter_model.safetensors, and README.md with the card."""
    # "auto" would look the base model up on the Hub.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    # peft keeps the names as a set, whose order differs between processes.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").write_text(card, encoding="utf-8")


def load_adapter(model: Any, folder: Path) -> Any:
    """Return the model with the adapter of a folder, frozen.

    Raises:
        StudentError: the adapter does not fit the model or is damaged.
    """
    from peft import PeftModel

    try:
        with _unwarned():
            adapted: Any = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # the libraries raise many kinds
        raise StudentError(f"{folder}: the adapter cannot be loaded onto this student: {error}") from error
    return adapted


@contextmanager
def _unwarned() -> Iterator[None]:
    """Hold back what transformers says of a name that it has changed, and that peft still asks for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield
