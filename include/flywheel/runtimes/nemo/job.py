"""A job on NeMo, and the names of things there: made from their content, so that all is found again."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from nemo_microservices.types import CustomizationTrainingOptionParam
from nemo_microservices.types.customization import HyperparametersParam
from pydantic import BaseModel, ConfigDict

from flywheel.artifacts.root import key_of
from flywheel.config import Config, Student
from flywheel.config.loading import resolve_path
from flywheel.config.nemo import NemoConfig, NmpConfig
from flywheel.config.student import CustomizerConfig
from flywheel.jobs.settings import settle
from flywheel.jobs.spec import (
    CUSTOMIZE_VERSION,
    EVALUATE_VERSION,
    SHORT_PROMPT_VERSION,
    CustomizeSpec,
    EvaluateSpec,
)

SPEC_SUFFIX = ".spec.json"

# The custom field that says which flywheel made something: the key of its artifact root.
OWNER = "flywheel"


@dataclass(frozen=True)
class Claim:
    """Who wants which NIM.

    Attributes:
        student: whose NIM.
        namespace: where it is deployed.
        artifact_root: of the flywheel.
        holder: who holds it, no other in this flywheel.
        run_id: for whom.
    """

    student: Student
    namespace: str
    artifact_root: str
    holder: str
    run_id: str = ""

    @property
    def owner(self) -> str:
        """Who we are among the flywheels that share the services: the key of the artifact root."""
        return key_of(self.artifact_root)

    @property
    def deployment(self) -> str:
        """The name of the NIM: one for all of a flywheel that want the same."""
        student = self.student
        kind = [
            student.model_name,
            student.tag,
            student.gpus,
            student.registry_base,
            student.context_length,
        ]
        return f"flywheel-{slug(student.model_name)[:30]}-{key_of(self.owner, kind)[:10]}"


class NemoJob(BaseModel):
    """One customization or evaluation on NeMo, with all that the triggerer needs for it.

    Attributes:
        spec_url: path or URL of the job's `.spec.json`.
        spec: what it says.
        run_id: of the run that asked for it; "" where nobody did.
        dataset: name of the uploaded training or eval set.
        timeout_hours: of the customization.
        started_at: unix seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    spec_url: str
    spec: CustomizeSpec | EvaluateSpec
    nmp: NmpConfig
    nemo: NemoConfig
    run_id: str = ""
    dataset: str = ""
    timeout_hours: float = 12.0
    started_at: float = 0.0

    @classmethod
    def of(
        cls, name: str, spec_url: str, spec: CustomizeSpec | EvaluateSpec, config: Config, run_id: str
    ) -> NemoJob:
        """Return the job that a spec describes."""
        if isinstance(spec, CustomizeSpec):
            # NeMo's students are asked by applications themselves, as these ask the teacher.
            spec = spec.model_copy(update={"answers": None})
        return cls(
            name=name,
            spec_url=spec_url,
            spec=spec,
            nmp=config.nmp_config,
            nemo=config.runtime.nemo,
            run_id=run_id,
            timeout_hours=config.runtime.job_timeout_hours,
            started_at=time.time(),
        )

    @property
    def student(self) -> Student:
        """The student."""
        return self.spec.student

    @property
    def namespace(self) -> str:
        """The namespace of all that is made."""
        return self.nmp.nmp_namespace

    @property
    def owner(self) -> str:
        """Who we are among the flywheels that share the services: the key of the artifact root."""
        return key_of(self.spec.artifact_root)

    @property
    def holder(self) -> str:
        """Who holds a NIM: this job."""
        return key_of(self.spec_url)

    @property
    def claim(self) -> Claim:
        """What an evaluation wants of the Deployment Manager."""
        return Claim(self.student, self.namespace, self.spec.artifact_root, self.holder, self.run_id)

    @property
    def key(self) -> str:
        """The key of what the job makes."""
        if isinstance(self.spec, CustomizeSpec):
            return adapter_key(self.spec)
        return evaluation_key(self.spec)

    @property
    def output_model(self) -> str:
        """The name of the adapter that a customization makes: NAMESPACE/STUDENT-KEY, no other flywheel's."""
        return f"{self.namespace}/{slug(self.student.name)}-{key_of(self.owner, self.key)}"

    @property
    def state_url(self) -> str:
        """Where the ids of jobs on NeMo are kept, beside the spec."""
        return self.spec_url.removesuffix(SPEC_SUFFIX) + ".nemo.json"


def adapter_key(spec: CustomizeSpec) -> str:
    """Return the key of an adapter that NeMo makes: of all that it depends on, without the base weights.

    Those are NeMo's own; the target's name and version stand for them.
    """
    base = [spec.student.model_name, spec.student.customizer_configs.target]
    limit = [spec.student.context_length, spec.student.customizer_configs.max_seq_length]
    precision = spec.student.customizer_configs.training_precision
    prompt = [SHORT_PROMPT_VERSION] if spec.student_prompt == "text" else []
    asked = [hyperparameters(spec), *([precision] if precision else []), *prompt]
    return key_of("nemo-adapter", CUSTOMIZE_VERSION, base, limit, spec.dataset, spec.size, *asked)


def evaluation_key(spec: EvaluateSpec) -> str:
    """Return the key of an evaluation that NeMo's NIMs answered."""
    base = [spec.student.model_name, spec.student.tag, spec.student.context_length]
    labels = [list(spec.classes), spec.aliases]
    typed = spec.evaluation.of_type(spec.workload_type)
    evaluation = typed.model_dump(mode="json", exclude={"batch_size", "decoding"})
    icl = [spec.icl.model_dump(mode="json")] if spec.icl else []
    parts = [base, spec.dataset, spec.adapter, labels, evaluation, *icl]
    return key_of("nemo-evaluation", EVALUATE_VERSION, *parts)


def steps_of(spec: CustomizeSpec) -> tuple[int, int]:
    """Return the optimizer steps of an epoch, and the epochs: enough for `training_config.min_steps`."""
    each = math.ceil(spec.size / spec.training.batch_size)
    return each, math.ceil(settle(spec.training, spec.size, None).steps / each)


def training_options(wanted: CustomizerConfig) -> tuple[CustomizationTrainingOptionParam, list[Any]]:
    """Return how a customization is laid out, and what the config of a student asks beyond the least.

    The second is part of the name of what we make, which is as before where nothing is asked.
    """
    options: CustomizationTrainingOptionParam = {
        "training_type": "sft",
        "finetuning_type": "lora",
        "num_gpus": max(1, wanted.gpus),
        "micro_batch_size": wanted.micro_batch_size,
    }
    if wanted.num_nodes is not None:
        options["num_nodes"] = wanted.num_nodes
    if wanted.tensor_parallel_size is not None:
        options["tensor_parallel_size"] = wanted.tensor_parallel_size
    if wanted.data_parallel_size is not None:
        options["data_parallel_size"] = wanted.data_parallel_size
    if wanted.use_sequence_parallel is not None:
        options["use_sequence_parallel"] = wanted.use_sequence_parallel
    is_least = len(options) == 4 and wanted.micro_batch_size == 1 and wanted.training_precision is None
    return options, [] if is_least else [dict(options), wanted.training_precision]


def hyperparameters(spec: CustomizeSpec) -> HyperparametersParam:
    """Return a training as the Customizer wants it described."""
    training, lora = spec.training, spec.lora
    _, epochs = steps_of(spec)
    settings = settle(training, spec.size, None)
    described: HyperparametersParam = {
        "training_type": training.training_type,
        "finetuning_type": training.finetuning_type,
        "epochs": epochs,
        "batch_size": training.batch_size,
        "learning_rate": settings.learning_rate,
        "warmup_steps": round(settings.steps * training.warmup_ratio),
        "weight_decay": training.weight_decay,
        "seed": spec.seed,
        "sequence_packing_enabled": lora.sequence_packing_enabled,
        "lora": {
            "adapter_dim": lora.adapter_dim,
            "adapter_dropout": lora.adapter_dropout,
            "alpha": round(lora.alpha) if lora.alpha is not None else 2 * lora.adapter_dim,
        },
    }
    if training.validations:
        described["val_check_interval"] = round(min(1.0, epochs / training.validations), 6)
    if training.min_steps == settings.steps:
        described["max_steps"] = training.min_steps
    return described


def slug(text: str) -> str:
    """Return a text as part of a name in NeMo: small letters, digits, '.' and '-'."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def adapter_lock(key: str) -> FileLock:
    """Return the lock under which an adapter is looked for, or removed, by all runs on this machine."""
    folder = Path(resolve_path("state/nemo"))
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"adapter-{key}.lock")
