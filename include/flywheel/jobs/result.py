"""What a customization and an evaluation leave behind: result.json of an adapter and of an evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from flywheel.config.evaluation import WorkloadType
from flywheel.config.student import FamilyName
from flywheel.jobs.tuning import Tuning
from flywheel.workloads.scores import ClassScore, Confusion
from flywheel.workloads.short_prompts import ShortPrompt

Interval = tuple[float, float]
# Results of 0.2.0 and before, which are found and not made again, call it `parts`.
_TIMING = AliasChoices("timing", "parts")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LossPoint(_Model):
    """A point of the loss curve, in nats a token; `val_loss` where the step was followed by a validation."""

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
        timing: seconds of this call's parts: load, compile, train, save.
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
    timing: dict[str, float] = Field(default_factory=dict, validation_alias=_TIMING)


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
    """How a student's answers agree with the teacher's; what another version says beside it is read over.

    Attributes:
        workload_type: classification, tool_calling or generic.
        scores: by metric, all that the type has (see `flywheel.workloads.metrics`); `intervals` by metric,
            too: 95 % percentile bootstrap over the records, of those metrics that have one.
        per_class: of tool calls by function; empty of free texts, as is the confusion matrix.
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
        timing: seconds of this call's parts: load, answer, score.
    """

    model_config = ConfigDict(extra="ignore")

    key: str
    student: str
    size: int | None
    adapter: str | None
    records: int
    workload_type: WorkloadType = "classification"
    scores: dict[str, float]
    intervals: dict[str, Interval] = Field(default_factory=dict)
    per_class: dict[str, ClassScore]
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
    timing: dict[str, float] = Field(default_factory=dict, validation_alias=_TIMING)
