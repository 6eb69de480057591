"""Champions, runs and artifacts: what the artifact root holds of a client, by its runs and its champions."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import orjson
from pydantic import ValidationError

from flywheel.common.errors import ArtifactError, FlywheelError, StoreError
from flywheel.forgetting.base import Place, Removable, Whose, place
from flywheel.forgetting.house import KEY, File, House, RunFolder
from flywheel.jobs.spec import CustomizeSpec
from flywheel.promotion.champion import VIEW
from flywheel.report.files import LATEST, latest_path, mark_latest
from flywheel.runs.run import Run

log = logging.getLogger(__name__)

DAY = 86_400.0
# Of an artifact, files that say what it was made from.
_SAYING = (".json", ".md")
_SAYING_BYTES = 1 << 20
# What a stage writes aside: `.label.quarantine.jsonl.1234`, `.labelled.jsonl.gz.aside`
_ASIDE = re.compile(r"\.[^/]+\.([0-9]+|aside|[0-9a-f]{8})")
# What is written once more for each night, with texts: the copy of the labelled records, and findings.
_COPIES = re.compile(
    r"(labelled\.jsonl\.gz|.+\.quarantine\.jsonl|label\.disagreements\.csv|label\.human\.jsonl)"
)


@place(10)
class Champions(Place):
    """The folders of champions."""

    name = "champions"
    keeps = "the champion in force, its history, its timeline, persons' holds, with names of runs and persons"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the folders of a client's champions, each named by what is in production."""
        items = []
        for folder in self.house.champions_of(whose.client_id, whose.workload_id):
            files = self.house.files(folder)
            items.append(
                Removable(
                    self.name, folder, len(files), sum(file.bytes for file in files), self._said(folder)
                )
            )
        return items

    def _said(self, folder: str) -> str:
        try:
            data = self.house.root.read_json(f"{folder}/{VIEW}")
            return f"{data['student']} @ {data['size']}, in production since {data['promoted_at'][:10]}"
        except (ArtifactError, KeyError, TypeError):
            return "nothing in production"

    def remove(self, ids: Iterable[str]) -> None:
        """Remove folders."""
        for folder in ids:
            self.house.root.remove_tree(folder)


@place(90)
class Runs(Place):
    """The folders of runs."""

    name = "runs"
    keeps = (
        "plans, results, reports, records as the teacher labelled them, quarantines, disagreements, "
        "persons' labels, files written aside by killed stages"
    )

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the folders of a client's runs."""
        mine = [run for run in self.house.runs if whose.has(run.workload_id, run.client_id)]
        return [Removable(self.name, run.path, len(run.files), run.bytes, run.run_id) for run in mine]

    def unneeded(self, going: Sequence[RunFolder]) -> list[Removable]:
        """Return the runs that go, and what is old in those that stay."""
        keep, now = self.house.config.retention, time.time()
        names = {run.name for run in going}
        items = [Removable(self.name, run.path, len(run.files), run.bytes, run.run_id) for run in going]
        for run in self.house.runs:
            if run.name in names or not run.is_silent(now):
                continue
            for file in run.files:
                name, age = file.path.rsplit("/", 1)[1], (now - file.changed) / DAY
                if _ASIDE.fullmatch(name) and age > keep.scratch_days:
                    items.append(Removable(self.name, file.path, 1, file.bytes, "left by a killed stage"))
                elif keep.copies_days is not None and _COPIES.fullmatch(name) and age > keep.copies_days:
                    items.append(Removable(self.name, file.path, 1, file.bytes, "a copy of texts"))
        return items

    def remarks(self, whose: Whose) -> list[str]:
        """Say how many runs nobody can tell the client of."""
        lost = [run.name for run in self.house.runs if not run.plan]
        if not lost:
            return []
        return [
            f"{len(lost)} folders in runs/ have no plan that says whose they are, and stay: "
            f"{', '.join(lost[:5])}{' …' if len(lost) > 5 else ''}"
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove folders of runs and files in them; `latest` points at one that stays."""
        for path in ids:
            self.house.root.remove_tree(path)
        point_latest(self.house)


@place(40)
class ArtifactPlace(Place):
    """Data sets, adapters and evaluations: each in a folder named by a key, shared by all that made it."""

    name = "artifacts"
    keeps = "data sets (whole records), adapters trained on them, evaluations (texts and answers)"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return what the client's runs and champions use and no other's; and what is made from that."""
        folders = self.house.champions_of(whose.client_id, whose.workload_id)
        own, others = set[str](), set[str]()
        for run in self.house.runs:
            (own if whose.has(run.workload_id, run.client_id) else others).update(run.keys)
        for folder, keys in self.house.champions.items():
            (own if folder in folders else others).update(keys)
        there = artifacts(self.house)
        mine = {path for path, key in there.items() if key in own - others}
        left = {path for path, key in there.items() if key not in own | others}
        mine |= {path for path in left if whose.has(*self._owner_of(path))}
        while made := {path for path in left - mine if self._mentions(path) & {there[one] for one in mine}}:
            mine |= made
        return [self._item(path) for path in sorted(mine)]

    def unneeded(self, going: Sequence[RunFolder]) -> list[Removable]:
        """Return what no run that stays, no champion and no hold names, nor what is made from it."""
        names, now = {run.name for run in going}, time.time()
        needed = set[str]().union(*self.house.champions.values())
        for run in self.house.runs:
            if run.name not in names:
                needed |= run.keys
        there = artifacts(self.house)
        keep = self.house.config.retention
        old = {
            path
            for path, key in there.items()
            if (key not in needed or "/." in path)
            and now - max((file.changed for file in self.house.files(path)), default=0.0)
            > DAY * (keep.scratch_days if "/." in path else keep.unreferenced_days)
        }
        under_way = [run for run in self.house.runs if not run.is_silent(now)]
        is_early = any(f"{run.path}/stages/curate.json" not in run.names for run in under_way)

        def stays(path: str) -> bool:
            """A run under way may find what nothing names, before it has written down that it did.

            One that has no data set yet may find any; one that has its own finds what is made of that, or
            what does not say what it is made of. A baseline is named by its data set alone.
            """
            made_of = self._mentions(path)
            return bool(made_of & needed) or is_early or bool(under_way and not made_of)

        old = {path for path in old if "/." in path or not stays(path)}
        return [self._item(path) for path in sorted(old)]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove artifacts, and their copies on this machine."""
        for path in ids:
            kind, name = path.split("/")
            if name.startswith("."):
                self.house.root.remove_tree(path)
            else:
                self.house.root.remove(kind, name)
                if not self.house.root.is_folder:
                    shutil.rmtree(self.house.root.local_folder(path), ignore_errors=True)
                    self.house.root.local_folder(f"{path}.lock").unlink(missing_ok=True)

    def _item(self, path: str) -> Removable:
        files = self.house.files(path)
        return Removable(self.name, path, len(files), sum(file.bytes for file in files))

    def _owner_of(self, path: str) -> tuple[str, str]:
        """Return whose records an artifact holds, by its first record and the store; "" where unknown."""
        for file in self.house.files(path):
            if not file.path.endswith(".jsonl"):
                continue
            with suppress(OSError, orjson.JSONDecodeError, KeyError, TypeError, StoreError):
                with self.house.root.open(file.path) as opened:
                    found = orjson.loads(opened.readline(_SAYING_BYTES))["id"]
                if record := self.house.record(str(found)):
                    return record.workload_id, record.client_id
        return "", ""

    def _mentions(self, path: str) -> set[str]:
        """Return the keys of what an artifact was made from, as its small files say."""
        files = [
            file
            for file in self.house.files(path)
            if file.path.endswith(_SAYING) and file.bytes <= _SAYING_BYTES
        ]
        return set(self.house.keys_in(files)) - {artifact_key(path)}


@place(30)
class Scratch(Place):
    """Checkpoints of trainings that were stopped."""

    name = "checkpoints"
    keeps = "states of trainings on the client's records that have not ended"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the checkpoints of the customizations that the client's runs asked for."""
        there = self._there()
        keys = {
            key
            for run in self.house.runs
            if there and whose.has(run.workload_id, run.client_id)
            for file in run.files
            if file.path.endswith("/customize.spec.json")
            for key in self._keys(file)
        }
        return [self._item(path) for path in there if artifact_key(path) in keys]

    def unneeded(self, going: Sequence[RunFolder]) -> list[Removable]:
        """Return those in which nothing has changed for long."""
        days, now = self.house.config.retention.scratch_days, time.time()
        return [
            self._item(path)
            for path in self._there()
            if now - max((file.changed for file in self._files(path)), default=0.0) > days * DAY
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove checkpoints, and the files by which they were locked."""
        for path in ids:
            self.house.root.discard_scratch("adapters", artifact_key(path))
            self.house.root.discard(f"{path}.lock")

    def _there(self) -> list[str]:
        names = self.house.root.list("scratch/adapters")
        return [f"scratch/adapters/{name}" for name in names if KEY.fullmatch(name.encode())]

    def _files(self, path: str) -> list[File]:
        return self.house.files(path)

    def _item(self, path: str) -> Removable:
        files = self._files(path)
        return Removable(self.name, path, len(files), sum(file.bytes for file in files))

    def _keys(self, file: File) -> list[str]:
        try:
            spec = CustomizeSpec.model_validate(orjson.loads(self.house.read(file.path)))
            return [training.key for training in spec.trainings]
        except (FlywheelError, ValidationError, ValueError) as error:
            log.info("%s: no specification whose checkpoints could be found: %s", file.path, error)
            return []


def artifacts(house: House) -> dict[str, str]:
    """Return the folders of artifacts, half-made ones too, with their keys."""
    found = {}
    for kind in house.root.list(""):
        if kind in ("runs", "champions", "scratch", LATEST):
            continue
        for name in house.root.list(kind):
            if KEY.fullmatch(artifact_key(name).encode()):
                found[f"{kind}/{name}"] = artifact_key(name)
    return found


def artifact_key(path: str) -> str:
    """Return the key in the path of an artifact, `datasets/KEY`, or a half-made one, `datasets/.KEY.ab12`."""
    return path.rsplit("/", 1)[-1].lstrip(".").split(".", 1)[0]


def point_latest(house: House) -> None:
    """Have `latest` point at the run that was scored last of those that are there."""
    root = house.root
    try:
        if root.exists(f"{latest_path(root)}/plan.json"):
            return
    except ArtifactError:
        return
    scored: list[tuple[float, str]] = []
    for name in root.list("runs"):
        path = f"runs/{name}/stages/score.json"
        if root.exists(path):
            scored.append((float(root.read_json(path)["ended_at"]), name))
    if scored:
        mark_latest(Run.in_folder(root, max(scored)[1]))
    elif root.is_folder:
        with suppress(FileNotFoundError):
            os.unlink(Path(root.url) / LATEST)
    else:
        root.discard(f"{LATEST}.json")
