"""What stage 3, curate, gives. Cheap to import: every job's task asks whether the records are enough."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from flywheel.config.evaluation import WorkloadType
from flywheel.runs.plan import Candidate
from flywheel.workloads.records import LabelledBy


class ClassCounts(BaseModel):
    """Records of a class, and where they went."""

    model_config = ConfigDict(frozen=True)

    total: int
    train: int
    val: int
    calibration: int = 0
    eval: int


class SizeResult(BaseModel):
    """What the training set of a size holds.

    Attributes:
        available, reason: of runs of before: whether there were so many training records, and why not.
        per_class: records of each class in the training set of this size.
    """

    model_config = ConfigDict(frozen=True)

    available: bool
    reason: str
    per_class: dict[str, int]


class PromptCounts(BaseModel):
    """Records that the workload's prompt concerns; the first three stay out. Versions by 12 hex digits.

    Attributes:
        other_version: by version of the workload's prompt under which they were labelled.
        unknown_version: the teacher's, of no known version.
        removed_class: by class that no longer exists.
        taken_over: by version; their labels hold by the workload file, their text is in today's prompt.
    """

    model_config = ConfigDict(frozen=True)

    other_version: dict[str, int] = {}
    unknown_version: int = 0
    removed_class: dict[str, int] = {}
    taken_over: dict[str, int] = {}

    @property
    def left_out(self) -> int:
        """Records that stay out."""
        return sum(self.other_version.values()) + self.unknown_version + sum(self.removed_class.values())


class Conflict(BaseModel):
    """Two records of one text with different labels: `kept` stays, `other` is left out (record ids)."""

    model_config = ConfigDict(frozen=True)

    kept: str
    kept_label: str
    kept_by: LabelledBy
    other: str
    other_label: str
    other_by: LabelledBy


class CurateResult(BaseModel):
    """What the stage gave.

    `total` = `prompts.left_out` + `duplicates` + `near_duplicates` + `used`, `used` = train + val +
    calibration + eval + left_out.

    Attributes:
        dataset: key of the dataset.
        found: it was there already.
        cutoff: unix seconds; records with known_at < cutoff were taken.
        total: records before the cutoff, or `limit` of them.
        duplicates: left out, with the same words as an earlier record.
        near_duplicates: left out, with nearly the same words as an earlier record.
        conflicts: of the duplicates, those with another label than the record that stays;
            `conflict_examples` are the first of them.
        labelled_by: of the records used, by who labelled them.
        prompts: records of other versions of the prompt and of removed classes.
        workload_type: classification, tool_calling (any answer calls a function) or generic.
        left_out: in the gap of a temporal split, or reports of an event that reaches into a later part.
        split: temporal or random; None of runs of before.
        events: events that the records used report, each counted once.
        known: by part, when its first and its last record were known, in unix seconds.
        stratified: classes have their shares in every part; of a temporal split in every training size.
        notes: what the user should know of the split, such as why it is random.
        per_class: by class, of the records used.
        sizes: by number of training records.
        candidates: those that the data allows; of runs of before none, the plan's then.
        seconds: wall-clock time of this call.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    found: bool
    cutoff: int
    total: int
    duplicates: int
    near_duplicates: int
    conflicts: int = 0
    conflict_examples: tuple[Conflict, ...] = ()
    labelled_by: dict[LabelledBy, int] = {}
    prompts: PromptCounts = PromptCounts()
    used: int
    train: int
    val: int
    calibration: int = 0
    eval: int
    left_out: int = 0
    split: Literal["temporal", "random"] | None = None
    events: int | None = None
    known: dict[str, tuple[int, int]] = {}
    workload_type: WorkloadType = "classification"
    stratified: bool
    notes: tuple[str, ...]
    per_class: dict[str, ClassCounts]
    sizes: dict[int, SizeResult]
    candidates: tuple[Candidate, ...] = ()
    seconds: float
