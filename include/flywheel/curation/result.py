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


class CurateResult(BaseModel):
    """What the stage gave: `total` = `duplicates` + `near_duplicates` + `used`, `used` = train + val + eval.

    Attributes:
        dataset: key of the dataset.
        found: it was there already.
        cutoff: unix seconds; records with timestamp < cutoff were taken.
        total: records before the cutoff, or `limit` of them.
        duplicates: left out, with the same words as an earlier record.
        near_duplicates: left out, with nearly the same words as an earlier record.
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
