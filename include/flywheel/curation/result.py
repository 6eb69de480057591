"""What stage 3, curate, gives. Cheap to import: every job's task asks whether the records are enough."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from flywheel.config.evaluation import WorkloadType


class ClassCounts(BaseModel):
    """Records of a class, and where they went."""

    model_config = ConfigDict(frozen=True)

    total: int
    train: int
    val: int
    eval: int


class SizeResult(BaseModel):
    """Whether there are training records for a size.

    Attributes:
        available: the training set has at least so many.
        reason: why it is not available; empty if it is.
        per_class: records of each class in the training set of this size; of all if there are fewer.
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


class CurateResult(BaseModel):
    """What the stage gave.

    `total` = `prompts.left_out` + `duplicates` + `near_duplicates` + `used`, `used` = train + val + eval.

    Attributes:
        dataset: key of the dataset.
        found: it was there already.
        cutoff: unix seconds; records with timestamp < cutoff were taken.
        total: records before the cutoff, or `limit` of them.
        duplicates: left out, with the same words as an earlier record.
        near_duplicates: left out, with nearly the same words as an earlier record.
        prompts: records of other versions of the prompt and of removed classes.
        workload_type: classification, tool_calling (any answer calls a function) or generic.
        stratified: classes have their shares in train, val and eval; else the split is random.
        notes: what the user should know of the split, such as why it is random.
        per_class: by class, of the records used.
        sizes: by requested number of training records.
        seconds: wall-clock time of this call.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    found: bool
    cutoff: int
    total: int
    duplicates: int
    near_duplicates: int
    prompts: PromptCounts = PromptCounts()
    used: int
    train: int
    val: int
    eval: int
    workload_type: WorkloadType = "classification"
    stratified: bool
    notes: tuple[str, ...]
    per_class: dict[str, ClassCounts]
    sizes: dict[int, SizeResult]
    seconds: float
