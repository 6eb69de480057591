"""Figures of how well classes are told apart, as they are kept. Cheap to import: the DAG uses it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassScore(_Model):
    """How well one class is told from the others."""

    precision: float
    recall: float
    f1: float
    support: int


class Confusion(_Model):
    """Counts by the teacher's label (row) and the student's (column).

    Attributes:
        labels: of the rows; the columns are these and, last, the answers that name no class ("").
    """

    labels: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
