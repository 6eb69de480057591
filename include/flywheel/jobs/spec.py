"""What a customization or evaluation job is asked to do, and what it answers: JSON in the artifact root.

The same spec gives the same job in a local process and in a pod. This module is cheap to import: the DAG uses
it where no torch is installed.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flywheel.artifacts.root import key_of
from flywheel.config.evaluation import EvaluationConfig, WorkloadType
from flywheel.config.icl import IclConfig
from flywheel.config.logs import LogLevel
from flywheel.config.student import Student
from flywheel.config.training import LoraConfig, StudentPrompt, TrainingConfig, TuningConfig
from flywheel.jobs.families import FAMILIES
from flywheel.jobs.settings import SETTINGS_VERSION
from flywheel.jobs.tuning import TUNING_VERSION
from flywheel.jobs.weights import weights_hash

# Raised when the code changes what comes out of the same input: old artifacts are then made anew.
CUSTOMIZE_VERSION = 2
EVALUATE_VERSION = 7
SHORT_PROMPT_VERSION = "text 1"
ICL_VERSION = "own line 1"  # of how examples stand in prompts
PROMPT_CHOICE_VERSION = 2
# Records that a choice between the forms of a prompt is made with, at most: more of them cost, and what the
# whole prompt is worth falls with their number (docs/training.md).
MOST_CHOSEN_WITH = 1000
# What a customization gave, beside the adapter that it made.
RESULT = "result.json"

# Stands for a student in the folder of the champion's job; no student can have this name.
CHAMPION = "_champion"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CustomizeSpec(_Model):
    """A customization job: fine-tune a student on the first `size` training records of a dataset.

    Attributes:
        artifact_root: URL of the artifact root.
        dataset: key of the curated dataset.
        student_prompt: what the student sees of a record: its own text, the whole prompt, or (`auto`) what
            validation says.
        chosen_with: training records that `auto` is decided with, the same for all sizes of a student.
        answers: the classes' answers as the teacher writes them; None where there are no classes, and then
            `auto` is `full`.
        tuning: how training and lora are searched first, around what they say.
        seed: fixes the order of the records, the adapter's first weights and the dropout.
        log_level: how much the job logs.
    """

    artifact_root: str
    student: Student
    dataset: str
    size: int = Field(ge=1)
    student_prompt: StudentPrompt = "full"
    chosen_with: int = Field(MOST_CHOSEN_WITH, ge=1)
    answers: tuple[str, ...] | None = None
    training: TrainingConfig = TrainingConfig()
    lora: LoraConfig = LoraConfig()
    tuning: TuningConfig = TuningConfig()
    seed: int = Field(42, ge=0)
    log_level: LogLevel = "INFO"

    @property
    def key(self) -> str:
        """The key of the adapter: made from all that the adapter depends on.

        Raises:
            StudentError: the base weights cannot be found.
            ValueError: which form of prompt it takes is not decided.
        """
        if self.is_open:
            raise ValueError("student_prompt: auto has no adapter of its own, see `trainings`")
        family = FAMILIES[self.student.family]
        if family.name == "linear":  # it has no settings
            return key_of("adapter", family.version, self.dataset, self.size)
        # How often a job saves its state has no part in the adapter.
        training = self.training.model_dump(mode="json", exclude={"checkpoint_seconds"})
        limits = [self.student.context_length, self.student.customizer_configs.max_seq_length]
        lora = self.lora.model_dump(mode="json")
        base = weights_hash(self.student.weights)
        # Adapters of whole prompts are found by the key that they had before there were others.
        prompt = [SHORT_PROMPT_VERSION] if self.student_prompt == "text" else []
        found = None in (self.training.epochs, self.training.learning_rate)
        settings: list[Any] = [SETTINGS_VERSION] if found else []
        if self.is_tuned:
            settings.append([TUNING_VERSION, self.tuning.trials, bool(self.answers)])
        if family.room:  # it is asked the text alone, always
            prompt, settings = [], [*settings, family.version]
        made_from = [base, limits, self.dataset, self.size, training, lora, self.seed, *prompt, *settings]
        return key_of("adapter", CUSTOMIZE_VERSION, *made_from)

    @property
    def is_tuned(self) -> bool:
        """Whether settings are searched first; families that have none of their own are not tuned."""
        return self.tuning.trials > 1 and self.student.family == "causal_lm"

    @property
    def is_open(self) -> bool:
        """Whether the form of the prompt is still to be decided."""
        is_causal = self.student.family == "causal_lm"  # the others are asked the text alone, always
        return self.student_prompt == "auto" and self.answers is not None and is_causal

    def with_prompt(self, form: StudentPrompt, size: int | None = None) -> CustomizeSpec:
        """Return the same job with a form of prompt.

        Args:
            size: records of the training that forms are compared by, which nothing is searched for; None: of
                the job itself.
        """
        compared = {} if size is None else {"size": size, "tuning": TuningConfig()}
        return self.model_copy(update={"student_prompt": form, **compared})

    @property
    def trainings(self) -> tuple[CustomizeSpec, ...]:
        """The trainings that the job may consist of: itself, or those of which `auto` takes one."""
        if not self.is_open:
            return (self,)
        sizes = (None, self.chosen_with)
        return tuple(self.with_prompt(form, size) for size in sizes for form in ("text", "full"))


class EvaluateSpec(_Model):
    """An evaluation job: answer the held-out prompts, with an adapter or, without one, as the student is.

    Attributes:
        adapter: key of the adapter; None evaluates the student itself.
        size: of the candidate; None where there is no adapter.
        classes: the workload's classes, which answers of a classification are parsed into.
        aliases: other spellings of classes.
        answers: the classes' answers as the teacher writes them; the student chooses among them. None: it
            answers freely.
        icl: how examples are put into the prompts (icl-eval); None for none.
        evaluation: with the workload's type, told from its records where the config leaves that open.
        log_level: how much the job logs.
    """

    artifact_root: str
    student: Student
    dataset: str
    adapter: str | None = None
    size: int | None = None
    classes: tuple[str, ...] = ()
    aliases: dict[str, str] = Field(default_factory=dict)
    answers: tuple[str, ...] | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    icl: IclConfig | None = None
    log_level: LogLevel = "INFO"

    @model_validator(mode="after")
    def _types_have_what_they_need(self) -> EvaluateSpec:
        if self.evaluation.workload_type in ("auto", "classification") and not self.classes:
            raise ValueError("classes, as evaluation.workload_type is classification")
        return self

    @property
    def workload_type(self) -> WorkloadType:
        """The workload's type; without one it is a classification."""
        given = self.evaluation.workload_type
        return "classification" if given == "auto" else given

    @property
    def key(self) -> str:
        """The key of the evaluation: made from all that it depends on.

        Raises:
            StudentError: the base weights cannot be found.
        """
        # Whether answers are chosen or free is in `answers`.
        typed = self.evaluation.of_type(self.workload_type)
        evaluation = typed.model_dump(mode="json", exclude={"decoding"})
        base = [weights_hash(self.student.weights), self.student.context_length]
        labels: list[Any] = [list(self.classes), self.aliases]
        if FAMILIES[self.student.family].room:
            labels.append(FAMILIES[self.student.family].version)
        if self.answers is not None:
            labels.append(list(self.answers))
        icl = [ICL_VERSION, self.icl.model_dump(mode="json")] if self.icl else []
        parts = [base, self.dataset, self.adapter, labels, evaluation, *icl]
        return key_of("evaluation", EVALUATE_VERSION, *parts)
