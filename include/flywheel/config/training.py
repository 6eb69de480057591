"""Sections `training_config` and `lora_config`, as in the blueprint's files: how a student is fine-tuned."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, model_validator

from flywheel.config.section import BlueprintSection

# What a fine-tuned student sees of a record; `auto`: its text alone, unless that costs accuracy.
StudentPrompt = Literal["auto", "full", "text"]


class TrainingConfig(BlueprintSection):
    """Supervised fine-tuning of a student."""

    training_type: Literal["sft"] = Field("sft", description="Supervised fine-tuning.")
    finetuning_type: Literal["lora"] = Field("lora", description="Low-rank adapters.")
    epochs: int | None = Field(
        None,
        ge=1,
        description="Passes over the training records; null: 3 to 10, enough for 160 steps (on NeMo 1).",
    )
    batch_size: int = Field(64, ge=1, description="Samples in an optimizer step.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="The highest rate of the schedule; null: by the width of the student (on NeMo 1e-4).",
    )
    # flywheel's own
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="Share of the steps with a rising rate.")
    weight_decay: float = Field(0.0, ge=0, description="Of AdamW, on the adapter.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    min_steps: int = Field(0, ge=0, description="Repeat the epochs until at least so many optimizer steps.")
    early_stop_patience: int = Field(0, ge=0, description="Validations without gain before a stop; 0: off.")
    validations: int = Field(4, ge=0, description="Validations in a job, evenly spaced; 0: none.")
    checkpoint_seconds: float = Field(30.0, gt=0, description="Seconds between checkpoints.")

    @model_validator(mode="before")
    @classmethod
    def _without_fp8(cls, data: Any) -> Any:
        """Read plans that were made when fp8 could be asked for and was not."""
        if isinstance(data, dict) and data.get("fp8_base") is False:
            return {name: value for name, value in data.items() if name != "fp8_base"}
        return data


class TuningConfig(BlueprintSection):
    """A search of the training's settings; see docs/training.md."""

    trials: int = Field(
        0,
        ge=0,
        description="Settings of rate, epochs, rank and batch that are tried, by successive halving on the "
        "validation slice; 0: none. Nine cost two trainings more.",
    )


class LoraConfig(BlueprintSection):
    """Low-rank adapters (Hu et al., 2021, arXiv 2106.09685) on all linear layers."""

    adapter_dim: int = Field(16, ge=1, description="The rank r.")
    adapter_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout on the adapters' input.")
    sequence_packing_enabled: bool = Field(
        True, description="On NeMo: told to the Customizer. The other runtimes always pack."
    )
    # flywheel's own
    alpha: float | None = Field(
        None,
        gt=0,
        validation_alias=AliasChoices("alpha", "adapter_alpha"),
        description="Scale is alpha / r; default 2 r. Also spelled adapter_alpha.",
    )
