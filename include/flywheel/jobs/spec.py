"""What a customization or evaluation job is asked to do, and what it answers: JSON in the artifact root.

The same spec gives the same job in a local process and in a pod. This module is cheap to import: the DAG uses
it where no torch is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flywheel.artifacts.root import key_of
from flywheel.config.evaluation import EvaluationConfig, WorkloadType
from flywheel.config.icl import IclConfig
from flywheel.config.logs import LogLevel
from flywheel.config.student import FamilyName, Student
from flywheel.config.training import LoraConfig, StudentPrompt, TrainingConfig, TuningConfig
from flywheel.jobs.families import FAMILIES
from flywheel.jobs.settings import SETTINGS_VERSION
from flywheel.jobs.tuning import TUNING_VERSION, Tuning
from flywheel.jobs.weights import weights_hash
from flywheel.workloads.scores import ClassScore, Confusion
from flywheel.workloads.short_prompts import ShortPrompt

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


class LossPoint(_Model):
    """A point of the loss curve; `val_loss` is there where the step was followed by a validation."""

    step: int
    loss: float
    val_loss: float | None = None


class PromptChoice(_Model):
    """Which form of prompt a student takes, and what the validation slice said of it.

    Attributes:
        form: what it takes.
        trained_on: training records of both adapters that were compared.
        asked: validation records that both answered; 0: whole prompts were not tried.
        text_right, full_right: of these, the answers that agree with the teacher.
        p_value: of full prompts being no better, by McNemar's exact test; None where they were not tried.
        reason: in a sentence.
        compared: keys of the adapters.
        dataset: key of the data set whose validation slice it is.
        seconds: what the choice cost beside the adapter with short prompts.
    """

    form: Literal["text", "full"]
    trained_on: int
    asked: int = 0
    text_right: int = 0
    full_right: int = 0
    p_value: float | None = None
    reason: str
    compared: tuple[str, ...] = ()
    dataset: str
    seconds: float = 0.0


class CustomizeResult(_Model):
    """What a customization job made.

    Attributes:
        adapter: key of the adapter.
        path: of the adapter, relative to the artifact root.
        family: of the student; what an adapter is depends on it.
        parameters: of the student with its adapter; None where the runtime does not say.
        train_records: the records it learned from; `dropped` more were too long, or are refused by the chat
            template, with the reasons.
        short_prompt: what its prompts leave out; None: it is asked whole ones.
        prompt_choice: how that was decided, where it was left open.
        tuning: what was tried to find its settings, where they were searched.
        base_revision: commit of the base weights on the Hub that were loaded; None of a folder.
        base_sha256: hash of their files; empty where the runtime does not say.
        notes: in sentences, what became of records that were left out, what the template passes over, and
            which settings are doubtful.
        prefix_tokens: the tokens that all prompts begin with, computed once for a whole row.
        steps: optimizer steps that the adapter took; `steps_run` of them by this call: 0 when it was found.
        learning_rate: the highest rate of the schedule; None where an earlier flywheel made it.
        epochs: passes over the training records, if nothing stopped them early; None likewise.
        samples: the samples of those steps, over all epochs.
        train_seconds: of the whole training, also of its part before a restart.
        records_per_second: samples by train_seconds.
        train_loss: mean loss of the last tenth of the steps, in nats a token.
        val_loss: of the weights that were kept; None without validations.
        resumed_from_step: the step of the checkpoint that this call went on from; None: from the start.
        parts: seconds of this call's parts: load, compile, train, save.
    """

    adapter: str
    path: str
    student: str
    family: FamilyName = "causal_lm"
    size: int
    parameters: int | None
    trainable_parameters: int | None
    train_records: int
    dropped: int = 0
    dropped_reasons: dict[str, int] = Field(default_factory=dict)
    short_prompt: ShortPrompt | None = None
    prompt_choice: PromptChoice | None = None
    tuning: Tuning | None = None
    base_revision: str | None = None
    base_sha256: str = ""
    notes: tuple[str, ...] = ()
    prefix_tokens: int = 0
    steps: int
    steps_run: int
    learning_rate: float | None = None
    epochs: int | None = None
    samples: int
    train_seconds: float
    records_per_second: float
    train_loss: float
    val_loss: float | None
    losses: tuple[LossPoint, ...]
    stopped_early: bool
    found: bool
    resumed_from_step: int | None
    device: str
    parts: dict[str, float] = Field(default_factory=dict)


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


class Latency(_Model):
    """Milliseconds from a request, or a batch of them, to its last answer, as each prompt saw it."""

    p50: float
    p95: float


class ConfidenceBin(_Model):
    """Answers of like confidence, on the eval set.

    Attributes:
        records: in the bin.
        confidence: their mean probability of the answer that was given.
        right: share of them that agree with the teacher; `low` and `high` bound it: 95 %, Clopper-Pearson.
    """

    records: int
    confidence: float
    right: float
    low: float
    high: float


class ConfidenceLevel(_Model):
    """Answers of the calibration slice that are at least so sure.

    Attributes:
        confidence: calibrated probability of the answer, at least.
        records: that are so sure; `right` of them agree with the teacher.
    """

    confidence: float
    records: int
    right: int


class Calibration(_Model):
    """How far a student's probabilities can be taken at their word.

    Attributes:
        temperature: that its probabilities are scaled by; 1: as the student gave them.
        records: of the calibration slice that it was fitted on; 0 where there were too few.
        ece: expected calibration error on the eval set, the mean distance of confidence and share of right
            answers over the bins; `ece_before` without the temperature.
        bins: in order of confidence.
        levels: of another part of the slice than the temperature's, `level_records` of them, most sure first,
            the last with all; a cascade's threshold is chosen among them. Empty: too few records.
    """

    temperature: float
    records: int
    ece: float
    ece_before: float
    bins: tuple[ConfidenceBin, ...]
    levels: tuple[ConfidenceLevel, ...] = ()

    @property
    def level_records(self) -> int:
        """Records that `levels` counts."""
        return self.levels[-1].records if self.levels else 0


class Injections(_Model):
    """How often a student did as a headline told it; see `flywheel.evaluation.injections`.

    Attributes:
        followed: answers that are the class which an instruction in the text demands, and were another one
            without it.
        of: texts with an instruction of which that can be seen.
    """

    followed: int
    of: int


class EvaluateResult(_Model):
    """How a student's answers agree with the teacher's.

    Attributes:
        workload_type: classification, tool_calling or generic.
        scores: by metric, all that the type has (see `flywheel.workloads.metrics`); `intervals` by metric,
            too: 95 % percentile bootstrap over the records.
        f1_weighted: mean F1 of the classes (of tool calls: of the functions), weighted by the teacher's
            labels; None of free texts, as is all that goes by class.
        f1_macro: plain mean F1 of the classes that teacher or student named.
        f1_weighted_ci95: percentile bootstrap over the records.
        unparsable: answers that name no class, or hold a call that is not whole. Each counts as wrong: a
            miss of its class, right for none.
        unanswered: of these, prompts that are longer than the context, or that the chat template refuses.
        notes: in sentences, which those are, and what the template passes over.
        injections: None where that was not measured, as of what is no classification.
        icl_examples: examples in a prompt on average; None where none were asked for.
        seconds: answering all prompts, without loading; the warm-up and the prompts asked alone included.
        records_per_second: answers a second in steady answering, after the warm-up.
        latency_ms: of the batches after the warm-up.
        answer_seconds: seconds an answer, the median over those batches, and its 95 % interval.
        batch_size: prompts in a batch, or in flight at once; None in results of version 1, whose times
            contain what the first batch alone does: loading kernels, capturing graphs.
        warmup_seconds: the batch answered first and thrown away; None where there was none.
        single_ms: of a few prompts, each answered alone after the others; None where that was not measured.
        parameters: of the student with its adapter; None where the runtime does not say.
        calibration: of the probabilities in the predictions; None where a student gave none.
        predictions: path of predictions.jsonl, relative to the artifact root.
        parts: seconds of this call's parts: load, answer, score.
    """

    key: str
    student: str
    size: int | None
    adapter: str | None
    records: int
    workload_type: WorkloadType = "classification"
    scores: dict[str, float] = Field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    f1_weighted: float | None
    f1_macro: float | None
    f1_weighted_ci95: tuple[float, float] | None
    per_class: dict[str, ClassScore]
    accuracy: float | None
    unparsable: int
    unanswered: int = 0
    notes: tuple[str, ...] = ()
    injections: Injections | None = None
    icl_examples: float | None = None
    seconds: float
    records_per_second: float
    latency_ms: Latency
    answer_seconds: tuple[float, float, float] | None = None
    batch_size: int | None = None
    warmup_seconds: float | None = None
    single_ms: Latency | None = None
    calibration: Calibration | None = None
    parameters: int | None
    predictions: str
    confusion: Confusion
    found: bool
    device: str
    parts: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, told every so often.

    Attributes:
        step: optimizer steps done, or prompts answered.
        steps: of all.
        loss: of the last step, in nats a token; None in an evaluation.
        val_loss: of the last validation so far.
        seconds_left: estimated from the speed of this call.
    """

    step: int
    steps: int
    loss: float | None
    val_loss: float | None
    records_per_second: float
    seconds_left: float


ProgressCallback = Callable[[Progress], None]
