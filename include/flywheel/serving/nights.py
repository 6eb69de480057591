"""What each night found out about production, as it is kept in the artifact root.

production/<workload>/<client>/nights/<moment>.json
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import champion_folder

_NAME = re.compile(r"\d{12}\.json")


class Watched(BaseModel):
    """A share of production, and what it must not fall below.

    Attributes:
        value, low, high, of: of this night; see `flywheel.serving.drift.Share`.
        level: that it is tested against; None: there is nothing to test.
        evidence: of the detector, see `flywheel.serving.drift.ALARM_AT`; `state`: for the next night.
        alarm: it fell below the level, more than by chance.
    """

    model_config = ConfigDict(extra="ignore")

    value: float | None = None
    low: float = 0.0
    high: float = 1.0
    of: int = 0
    level: float | None = None
    evidence: float = 0.0
    state: dict[str, Any] | None = None
    alarm: bool = False


class Night(BaseModel):
    """What production was asked in a night, and how it was answered.

    Attributes:
        since, at: unix seconds; requests from `since` on and before `at`.
        champion, adapter: in force at `at`; empty: the teacher alone.
        requests: all; `by_student`, `by_teacher` answered; `unsure`: of which a student was not sure.
        agreement: with the teacher, of the students' answers, by the audit. `agreement_since`: of all nights
            since the champion was promoted.
        answered: share of the champion's requests that it answered itself.
        confidence: mean of the students' answers; `confidence_eval` on the champion's own eval set.
        classes: shares of the answers; `classes_eval` of its answers on its eval set; `moved` their distance.
        asked: answers that the teacher gave this night; `left` without one, for the budget was spent.
        cost: of the teacher's answers in production and of the audit; `saved` by the students' answers, at
            the mean cost of a teacher's. In `currency`.
        p50, p95: milliseconds from request to answer.
        alarms: in sentences. `remarks`: what is below its level and may be so by chance.
    """

    model_config = ConfigDict(extra="ignore")

    workload_id: str
    client_id: str
    since: int
    at: int
    champion: str = ""
    adapter: str = ""
    requests: int = 0
    by_student: int = 0
    by_teacher: int = 0
    unsure: int = 0
    agreement: Watched = Field(default_factory=Watched)
    agreement_since: Watched = Field(default_factory=Watched)
    answered: Watched = Field(default_factory=Watched)
    confidence: float | None = None
    confidence_eval: float | None = None
    classes: dict[str, float] = Field(default_factory=dict)
    classes_eval: dict[str, float] = Field(default_factory=dict)
    moved: float | None = None
    asked: int = 0
    left: int = 0
    cost: float = 0.0
    saved: float | None = None
    currency: str = ""
    p50: float | None = None
    p95: float | None = None
    alarms: list[str] = Field(default_factory=list)
    remarks: list[str] = Field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        """Return the night in a line."""
        audit, value = self.agreement, self.agreement.value
        agrees = "none audited"
        if value is not None:
            agrees = (
                f"{value:.1%} ({audit.low:.1%} to {audit.high:.1%}) of {audit.of:,} agree with the teacher"
            )
        said = [
            f"{self.workload_id} ({self.client_id}): {self.requests:,} requests",
            f"{self.by_student:,} answered by students",
            agrees,
            f"{self.cost:,.2f} {self.currency}",
        ]
        return "; ".join([*said, *self.alarms, *self.remarks])


def nights_folder(workload_id: str, client_id: str) -> str:
    """Return where the nights of a workload and client are, relative to the artifact root."""
    return champion_folder(workload_id, client_id).replace("champions/", "production/", 1) + "/nights"


def night_names(root: ArtifactRoot, workload_id: str, client_id: str, before: int | None = None) -> list[str]:
    """Return the names of the nights' files, oldest first.

    Args:
        before: unix seconds; only those before it.
    """
    there = root.list(nights_folder(workload_id, client_id))
    names = sorted(name for name in there if _NAME.fullmatch(name))
    return names if before is None else [name for name in names if int(name[:12]) < before]


def night_at(root: ArtifactRoot, workload_id: str, client_id: str, name: str) -> Night:
    """Return a night by the name of its file."""
    return Night.model_validate(root.read_json(f"{nights_folder(workload_id, client_id)}/{name}"))


def nights(root: ArtifactRoot, workload_id: str, client_id: str, before: int | None = None) -> list[Night]:
    """Return the nights there were, oldest first.

    Args:
        before: unix seconds; only those before it.
    """
    names = night_names(root, workload_id, client_id, before)
    return [night_at(root, workload_id, client_id, name) for name in names]
