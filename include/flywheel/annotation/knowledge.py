"""What a champion can know of: recomputed from the artifacts that it was made of, not read off a label.

A student knows the records that it was trained, validated, calibrated and examined on, with the labels that
they had; all of these are lines of its data set, each with the time from which text and label were known. Its
searched settings, the temperature of its probabilities and a cascade's threshold come from slices of the same
data set. Its prompt and the settings that a person wrote are of a person's day: those of a backfilled night
are of today, which is a limit that the data card names and the checker counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.jobs.spec import RESULT
from flywheel.promotion.champion import Champion
from flywheel.promotion.whole import bring_adapter_back
from flywheel.runs.run import Run
from flywheel.workloads.versions import versions_of

SLICES = ("train", "val", "calibration", "eval")
_PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class Knowledge:
    """What a champion knows of, and by when.

    Attributes:
        adapter: key of its artifact.
        records: lines of its data set, all slices.
        latest_record: unix seconds: the last time from which one of them was known.
        cutoff: the cutoff of its night: no record that was known then or later was read.
        undated: lines without a time: nobody can say that they are from before.
        foreign: predictions that it was examined and calibrated by on records of no slice of its data set.
        tuned: its settings were searched, on the validation slice of this data set.
        workload_version: of the prompt that its night was planned with.
        classes: of that prompt.
        prompt_since: unix seconds: the first plan with that prompt; None where nobody noted it.
        planned_at: unix seconds: when its night was planned, and its settings were as they were.
    """

    adapter: str
    records: int
    latest_record: int
    cutoff: int
    undated: int
    foreign: int
    tuned: bool
    workload_version: str
    classes: tuple[str, ...]
    prompt_since: int | None
    planned_at: int

    @property
    def until(self) -> int:
        """Unix seconds: it knows nothing of this time or later."""
        return max(self.cutoff, self.latest_record + 1)

    @property
    def written_until(self) -> int:
        """Unix seconds: what persons wrote for it, prompt and settings, was written by then."""
        return max(self.planned_at, self.prompt_since or 0)


def knowledge_of(root: ArtifactRoot, champion: Champion) -> Knowledge:
    """Return what a champion knows of.

    Raises:
        ArtifactError: its data set, adapter or plan is gone, damaged, or not the one that it names: what it
            knows of cannot be shown.
    """
    if champion.dataset is None:
        raise ArtifactError(f"{champion.name} of run {champion.run_id}: it names no data set")
    if not bring_adapter_back(root, champion):
        raise ArtifactError(f"{champion.name} of run {champion.run_id}: adapters/{champion.adapter} is gone")
    folder = root.fetch("datasets", champion.dataset)
    times = [line.get("known_at") for _, line in _lines(folder)]
    if not times:
        raise ArtifactError(f"{root.url}/datasets/{champion.dataset}: has no records")
    plan = Run(root, champion.run_id).plan
    made = _made(root, champion)
    first_used = {
        version.workload.sha256: _seconds(version.first_used)
        for version in versions_of(root, champion.workload_id)
    }
    return Knowledge(
        adapter=champion.adapter,
        records=len(times),
        latest_record=max((time for time in times if time is not None), default=0),
        cutoff=plan.cutoff,
        undated=sum(time is None for time in times),
        foreign=_foreign(root, champion, folder),
        tuned=made is not None and made.tuning is not None,
        workload_version=plan.workload.sha256,
        classes=plan.workload.classes,
        prompt_since=first_used.get(plan.workload.sha256),
        planned_at=_seconds(plan.created_at),
    )


def _made(root: ArtifactRoot, champion: Champion) -> CustomizeResult | None:
    path = root.fetch("adapters", champion.adapter) / RESULT
    if not path.exists():  # trained elsewhere, as on NeMo
        return None
    made = CustomizeResult.model_validate_json(path.read_bytes())
    if made.prompt_choice is not None and made.prompt_choice.dataset != champion.dataset:
        raise ArtifactError(
            f"{root.url}/adapters/{champion.adapter}: its prompt was chosen on data set "
            f"{made.prompt_choice.dataset}, not on {champion.dataset}"
        )
    return made


def _foreign(root: ArtifactRoot, champion: Champion, dataset: Path) -> int:
    """Count predictions of a champion's evaluation that are of no record of its data set."""
    if champion.evaluation is None:
        return 0
    folder = root.fetch("evaluations", champion.evaluation)
    result = EvaluateResult.model_validate_json((folder / RESULT).read_bytes())
    if result.adapter not in (None, champion.adapter):
        raise ArtifactError(
            f"{root.url}/evaluations/{champion.evaluation}: is of adapter {result.adapter}, not of "
            f"{champion.adapter}"
        )
    known = {line["id"] for _, line in _lines(dataset)}
    with (folder / _PREDICTIONS).open("rb") as file:
        return sum(orjson.loads(line)["id"] not in known for line in file)


def _lines(folder: Path) -> Any:
    for name in SLICES:
        path = folder / f"{name}.jsonl"
        if path.exists():  # data sets of before had no calibration
            with path.open("rb") as file:
                for line in file:
                    yield name, orjson.loads(line)


def _seconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp())
