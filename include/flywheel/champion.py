"""The champion of a workload and client: what is in production, in one file that is replaced whole.

    champions/<workload>/<client>/champion.json      the champion in force
    champions/<workload>/<client>/history/<when>-<adapter>.json     each champion there was, written once
    champions/<workload>/<client>/timeline/     who would be in production when: flywheel.promotion.timeline
    champions/<workload>/<client>/hold.json     a person's word that holds: flywheel.promotion.holds

Whoever serves reads `champion.json` from the artifact root and loads the adapter that it names; it always
names a whole one.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from flywheel.artifacts import ArtifactRoot
from flywheel.errors import ArtifactError


class RegistryEntry(BaseModel):
    """The version of the champion in the MLflow model registry."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    version: str


def with_score(data: Any) -> Any:
    """Return what was written when F1 was the one metric with that as its score; anything else as it is."""
    if isinstance(data, dict) and data.get("score") is None and data.get("f1_weighted") is not None:
        return {**data, "score": data["f1_weighted"], "score_ci95": data.get("f1_weighted_ci95")}
    return data


class Champion(BaseModel):
    """A candidate in production, with all that is needed to load it and to judge the next one against it.

    Attributes:
        model_name: the student's Hugging Face name; `weights` is where its weights are read from.
        adapter: key of the LoRA adapter; `adapter_path` is its path in the artifact root.
        metric: the name of the metric that it was chosen by; `score` against the teacher, on the eval set of
            `run_id`.
        f1_weighted: the same by class, or by function; None of free texts.
        cutoff: unix seconds; it was made from records before that.
        promoted_at: ISO 8601, UTC.
        gain: its score less that of the champion before it, on the same records; None where that was not
            measured.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    workload_id: str
    client_id: str
    student: str
    model_name: str
    weights: str
    size: int
    parameters: int | None
    adapter: str
    adapter_path: str
    dataset: str | None
    evaluation: str | None
    metric: str = "f1_weighted"
    score: float | None = None
    score_ci95: tuple[float, float] | None = None
    f1_weighted: float | None
    f1_weighted_ci95: tuple[float, float] | None
    run_id: str
    cutoff: int
    promoted_at: str
    reason: str
    comment: str = ""
    registry: RegistryEntry | None = None
    gain: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _score_of_older_files(cls, data: Any) -> Any:
        """Give a champion that was written when F1 was the one metric its score."""
        return with_score(data)

    @property
    def name(self) -> str:
        """The name in texts: `1b @ 5000`."""
        return f"{self.student} @ {self.size}"


def champion_folder(workload_id: str, client_id: str) -> str:
    """Return the folder of a workload's and client's champion, relative to the artifact root."""
    return f"champions/{_part(workload_id)}/{_part(client_id)}"


def read_champion(root: ArtifactRoot, workload_id: str, client_id: str) -> Champion | None:
    """Return the champion in force; None where there is none yet.

    Raises:
        ArtifactError: the champion file is damaged.
    """
    path = f"{champion_folder(workload_id, client_id)}/champion.json"
    if not root.exists(path):
        return None
    try:
        return Champion.model_validate(root.read_json(path))
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        raise ArtifactError(
            f"{root.url}/{path}: not a champion: {key}: {detail['msg']}; restore it from history/"
        ) from None


def replace_champion(root: ArtifactRoot, champion: Champion) -> None:
    """Put a champion in force, then into the history.

    Called again with the champion in force, it only completes what a kill between the two left out.
    """
    folder = champion_folder(champion.workload_id, champion.client_id)
    data = champion.model_dump(mode="json")
    if read_champion(root, champion.workload_id, champion.client_id) != champion:
        root.write_json(f"{folder}/champion.json", data)
    when = re.sub(r"[^0-9T]", "", champion.promoted_at[:19]) + "Z"
    root.write_json(f"{folder}/history/{when}-{champion.adapter}.json", data)


def champion_history(root: ArtifactRoot, workload_id: str, client_id: str) -> list[Champion]:
    """Return all champions there were, oldest first."""
    folder = f"{champion_folder(workload_id, client_id)}/history"
    names = [name for name in root.list(folder) if name.endswith(".json")]  # not what a killed write left
    return [Champion.model_validate(root.read_json(f"{folder}/{name}")) for name in names]


def champion_adapters(root: ArtifactRoot) -> set[str]:
    """Return the keys of all adapters that are or were the champion of any workload and client.

    Those that would have been, by the timeline, count too: nights in the past are compared with them.
    """
    found = set()
    for workload in root.list("champions"):
        for client in root.list(f"champions/{workload}"):
            folder = f"champions/{workload}/{client}"
            names = root.list(f"{folder}/history")
            found |= {name.removesuffix(".json").rpartition("-")[2] for name in names}
            if root.exists(f"{folder}/champion.json"):  # a kill may have kept it out of the history
                found.add(str(root.read_json(f"{folder}/champion.json").get("adapter")))
            for name in root.list(f"{folder}/timeline"):
                if name.endswith(".json"):
                    then = root.read_json(f"{folder}/timeline/{name}").get("champion")
                    found |= {str(then["adapter"])} if then else set()
    return found


def _part(name: str) -> str:
    """Return an id as one part of a path: different ids always give different parts, none is '..'."""
    part = quote(name, safe="")
    if not part.strip("."):
        part = part.replace(".", "%2E")
    if len(part) <= 120:
        return part
    return f"{part[:100]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
