"""Section `nims`, as in the blueprint's files: the students, and how NeMo's Customizer trains them."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from flywheel.config.section import BlueprintSection

FamilyName = Literal["causal_lm", "encoder", "linear"]
Precision = Literal["int8", "bf16", "fp16", "fp32", "fp8-mixed", "bf16-mixed"]


class CustomizerConfig(BlueprintSection):
    """How a student is customized in the blueprint's Customizer."""

    target: str | None = Field(
        None, description="On NeMo: the Customizer's target; null: one of this model_name."
    )
    gpus: int = Field(1, ge=0, description="On NeMo: GPUs of a customization job.")
    max_seq_length: int | None = Field(None, ge=1, description="Longest training example, in tokens.")
    # flywheel's own: wide students want a lower rate and fewer passes than narrow ones
    epochs: int | None = Field(
        None, ge=1, le=100, description="Of this student, whatever training_config.epochs says; null: that."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Of this student, whatever training_config.learning_rate says; null: that.",
    )
    micro_batch_size: int = Field(1, ge=1, description="On NeMo: examples at once on a GPU.")
    training_precision: Precision | None = Field(
        None, description="On NeMo: null: the Customizer's own. Elsewhere bf16 on a GPU, fp32 on a CPU."
    )
    num_nodes: int | None = Field(None, ge=1, description="On NeMo: null: the Customizer's own.")
    tensor_parallel_size: int | None = Field(None, ge=1, description="On NeMo: null: the Customizer's own.")
    data_parallel_size: int | None = Field(None, ge=1, description="On NeMo: null: the Customizer's own.")
    use_sequence_parallel: bool | None = Field(None, description="On NeMo: null: the Customizer's own.")


class Student(BlueprintSection):
    """One student: a Hugging Face causal LM that is fine-tuned with LoRA, or a model of another family."""

    model_name: str = Field(min_length=1, description="The name of the model, as a NIM calls it.")
    model_type: Literal["llm"] = "llm"
    context_length: int = Field(8192, ge=1, description="Longest prompt and answer together, in tokens.")
    gpus: int = Field(1, ge=0, description="GPUs of a job of this student; 0: it runs on the CPU.")
    pvc_size: str | None = Field(None, description="On NeMo: the volume of its NIM.")
    tag: str | None = Field(None, description="On NeMo: the tag of its NIM's image; null: latest.")
    registry_base: str | None = Field(
        None, description="On NeMo: where its NIM's image is, by model_name; null: nvcr.io/nim."
    )
    customization_enabled: bool = Field(True, description="False: it is only base-evaluated.")
    customizer_configs: CustomizerConfig = CustomizerConfig()
    # flywheel's own
    name: str = Field("", description="Short name in tables and map indexes; derived from model_name.")
    family: FamilyName = Field(
        "causal_lm",
        description="causal_lm: it writes its answer. encoder: a Hugging Face encoder such as BERT or MiniLM "
        "with a head over the classes. linear: TF-IDF and logistic regression, without weights or GPU. The "
        "last two classify only (docs/students.md).",
    )
    weights: str = Field(
        "",
        description="Folder or Hugging Face id of the weights; default: model_name. A run takes the commit "
        "that the Hub has when it is planned; `owner/model@COMMIT` (or a tag) names one.",
    )

    @model_validator(mode="before")
    @classmethod
    def _derive_names(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("model_name"), str):
            data = {**data}
            data["name"] = data.get("name") or short_name(data["model_name"])
            if data.get("family") == "linear":
                data["gpus"] = data.get("gpus") or 0
            else:
                data["weights"] = data.get("weights") or data["model_name"]
        return data

    @model_validator(mode="after")
    def _family_has_what_it_needs(self) -> Student:
        if self.family == "causal_lm":
            return self
        if not self.customization_enabled:
            raise ValueError(
                f"customization_enabled: true, as family is {self.family}: untrained it knows no class"
            )
        if self.family == "linear" and (self.weights or self.gpus):
            raise ValueError("no weights and no gpus, as family is linear")
        return self

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        # The name becomes part of map indexes, folders, pod labels and MLflow tags.
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,38}[A-Za-z0-9])?", name):
            raise ValueError("a name of 1 to 40 letters, digits, '.', '_' or '-', such as '1b'")
        return name


def short_name(model_name: str) -> str:
    """Return the short name of a model: its size where the name states one (`1b`), else its last part."""
    last = model_name.rsplit("/", 1)[-1].lower()
    size = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?[bm])(?![a-z0-9])", last)
    return size.group(1) if size else re.sub(r"[^a-z0-9._-]", "-", last)[:40]
