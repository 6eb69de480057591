"""The version of what is kept, and the steps that bring up what an older flywheel wrote.

    version.json in the artifact root      {"version": 3}; a root without it is of version 1

The record store has a version of its own, the schema's, and is brought up by opening it (flywheel.stores).
What else is in state/ is Airflow's, which has migrations of its own (`airflow db migrate`), or is made anew.

`flywheel upgrade` brings both up; `make run`, the start of Airflow's image and each run that is planned do
it too, as it takes milliseconds; once, for step 5, a second for each GB of artifacts. Steps are numbered by
the version they lead to. Each may be repeated: where an upgrade was killed, the next one goes on at the
step that was not finished. One process at a time does it, by a file lock; behind a URL, one on each
machine, so that a step also has to stand another one beside it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from flywheel.artifacts.manifests import MANIFEST, Manifest
from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.config import Config, resolve_path
from flywheel.promotion.champion import Champion, decision_name
from flywheel.promotion.older import number_decisions
from flywheel.promotion.timeline import Entry, Timeline

log = logging.getLogger(__name__)

VERSION_FILE = "version.json"


@dataclass(frozen=True)
class Step:
    """One step of an upgrade.

    Attributes:
        version: that a root has after it.
        what: it does, as a sentence with a place for the number of files.
        work: does it, however often it is called, and returns how many files it wrote.
    """

    version: int
    what: str
    work: Callable[[ArtifactRoot], int]


def upgrade(config: Config) -> list[str]:
    """Bring the artifact root and the record store of a config up; return what was done, in sentences.

    Raises:
        ArtifactError, StoreError: a newer flywheel has written them, or they are damaged.
    """
    done = bring_up(ArtifactRoot(config.artifacts.root))
    if config.store.type != "sqlite" or Path(resolve_path(config.store.path)).exists():
        from flywheel.stores import open_store

        open_store(config.store).close()
    return done


def bring_up(root: ArtifactRoot) -> list[str]:
    """Do the steps that an artifact root has not had; return what was done, in sentences.

    Raises:
        ArtifactError: a newer flywheel has written it, or its version file is damaged.
    """
    if refuse_newer(root) == VERSION:
        return []
    lock = root.local_folder(f"{VERSION_FILE}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    done = []
    with FileLock(lock):
        found = refuse_newer(root)  # another process may have been here meanwhile
        is_new = found == 1 and not root.list("runs") and not root.list("champions")
        for step in STEPS:
            if step.version > found:
                sentence = f"{root.url} is of version {step.version} now: {step.what.format(step.work(root))}"
                root.write_json(VERSION_FILE, {"version": step.version})
                if not is_new:
                    done.append(sentence)
                    log.info(sentence)
    return done


def refuse_newer(root: ArtifactRoot) -> int:
    """Return the version of an artifact root.

    Raises:
        ArtifactError: it is one that this flywheel does not know, or its version file is damaged.
    """
    if not root.exists(VERSION_FILE):
        return 1
    content = root.read_json(VERSION_FILE)
    found = content.get("version") if isinstance(content, dict) else None
    if not isinstance(found, int) or found < 1:
        raise ArtifactError(
            f'{root.url}/{VERSION_FILE}: expected {{"version": N}}; write the version that the root has, '
            "or remove the file, and all steps are done again, which changes nothing that is up to date"
        )
    if found > VERSION:
        raise ArtifactError(
            f"{root.url} is of version {found}, and this flywheel knows versions up to {VERSION}: "
            "install the flywheel that wrote it, or name another place in artifacts.root"
        )
    return found


def _complete_champions(root: ArtifactRoot) -> int:
    """Write champions as they are written today, and those in force into their history.

    A kill between the two writes left the history without the last.
    """
    written = 0
    for folder in _older_champions(root):
        known = [
            champion
            for name in root.list(f"{folder}/history")
            if name.endswith(".json") and (champion := _rewritten(root, f"{folder}/history/{name}"))
        ]
        in_force = _rewritten(root, f"{folder}/champion.json")
        written += sum(is_new for _, is_new in known)
        if in_force:
            written += in_force[1]
            if in_force[0] not in [champion for champion, _ in known]:
                when = re.sub(r"[^0-9T]", "", in_force[0].promoted_at[:19]) + "Z"
                root.write_json(
                    f"{folder}/history/{when}-{in_force[0].adapter}.json", in_force[0].model_dump(mode="json")
                )
                written += 1
    return written


def _older_champions(root: ArtifactRoot) -> list[str]:
    """Return the folders of champions whose decisions have no numbers yet."""
    return [
        folder
        for workload in root.list("champions")
        for client in root.list(f"champions/{workload}")
        if not root.exists(f"{(folder := f'champions/{workload}/{client}')}/{decision_name(1)}")
    ]


def _number_decisions(root: ArtifactRoot) -> int:
    """Write champions and holds as numbered decisions; a damaged one stays, and whoever reads it says so."""
    written = 0
    for workload in root.list("champions"):
        for client in root.list(f"champions/{workload}"):
            try:
                written += number_decisions(root, f"champions/{workload}/{client}")
            except ArtifactError as error:
                log.warning("champion of %s / %s: %s", workload, client, error)
    return written


def _rewritten(root: ArtifactRoot, path: str) -> tuple[Champion, bool] | None:
    """Return a champion, and whether its file had to be written anew; None where it is missing or damaged."""
    if not root.exists(path):
        return None
    try:
        content = root.read_json(path)
        champion = Champion.model_validate(content)
    except (ArtifactError, ValidationError) as error:  # whoever reads it says what to do
        log.warning("%s/%s stays as it is, damaged: %s", root.url, path, error)
        return None
    today = {**content, **champion.model_dump(mode="json")}
    if content != today:
        root.write_json(path, today)
    return champion, content != today


def _begin_timelines(root: ArtifactRoot) -> int:
    """Enter the champions there were: those of nights at their cutoff, a person's at the time of it."""
    written = 0
    for folder in _older_champions(root):
        before: Champion | None = None
        for name in root.list(f"{folder}/history"):
            found = _rewritten(root, f"{folder}/history/{name}") if name.endswith(".json") else None
            if found is not None:
                champion = found[0]
                entry = _entry_of(champion, before)
                line = Timeline(root, champion.workload_id, champion.client_id)
                written += line.write(entry) is entry
                before = champion
    return written


def _entry_of(champion: Champion, before: Champion | None) -> Entry:
    """Return a champion of the history as an entry of the timeline."""
    rolled_back = champion.reason.startswith("Rolled back by ")
    by_person = rolled_back or champion.reason.startswith("Promoted by ")
    made_at = int(datetime.fromisoformat(champion.promoted_at).timestamp())
    return Entry(
        at=made_at if by_person else champion.cutoff,
        kind="person" if by_person else "night",
        run_id=champion.run_id,
        decision="rolled back" if rolled_back else "promoted",
        reason=champion.reason,
        candidate=champion.name,
        champion=champion,
        before=before.adapter if before else None,
        written_at=champion.promoted_at,
    )


def _add_hashes(root: ArtifactRoot) -> int:
    """Write into manifests that have sizes alone the hashes that the files have now.

    Behind a URL that would copy all artifacts here: there such manifests stay, and are read as they are.
    """
    written = 0
    for kind in ("datasets", "adapters", "evaluations") if root.is_folder else ():
        for key in root.list(kind):
            path = f"{kind}/{key}/{MANIFEST}"
            if key.startswith(".") or not root.exists(f"{kind}/{key}/{MANIFEST}"):
                continue
            try:
                manifest = Manifest.parse(root.read_bytes(path), path)
                if not manifest.sha256:
                    root.write_bytes(path, manifest.hashed(root.fetch(kind, key)).json())
                    written += 1
            except ArtifactError as error:  # it counts as missing from now on
                log.warning("%s", error)
    return written


def _name_scores(root: ArtifactRoot) -> int:
    """Give each score of reports, and of the teacher against persons, the name of its metric.

    Before, weighted F1, macro F1 and accuracy were fields of their own.
    """
    written = 0
    for run in root.list("runs"):
        for name, change in (("report.json", _of_report), ("stages/label.json", _of_label)):
            path = f"runs/{run}/{name}"
            try:
                content = root.read_json(path) if root.exists(path) else None
                if isinstance(content, dict) and change(content):
                    root.write_json(path, content)
                    written += 1
            except ArtifactError as error:  # whoever reads it says what to do
                log.warning("%s", error)
    return written


def _of_report(report: dict[str, Any]) -> bool:
    """Bring up the scores of a report.json; return whether something was to be done."""
    teacher, other = report.get("teacher"), report.get("other_split")
    changed = isinstance(teacher, dict) and _named(teacher, "human_")
    for row in report.get("baseline") or ():
        if _named(row):
            row["score"] = row["scores"]["f1_weighted"]
            changed = True
    if isinstance(other, dict) and "metric" not in other:
        other["metric"] = "f1_weighted"
        for score in (other["here"], other["there"]):
            score["score"], score["score_ci95"] = score.pop("f1_weighted"), score.pop("f1_weighted_ci95")
        changed = True
    return changed


def _of_label(content: dict[str, Any]) -> bool:
    """Bring up what the label stage found of the teacher against persons."""
    human = (content.get("result") or {}).get("human")
    return isinstance(human, dict) and _named(human)


def _named(part: dict[str, Any], before: str = "") -> bool:
    """Put `f1_weighted`, `f1_weighted_ci95` and so on into `scores` and `intervals`; False: done before."""
    if f"{before}scores" in part:
        return False
    names = ("f1_weighted", "f1_macro", "accuracy")
    values = {name: part.pop(f"{before}{name}", None) for name in names}
    intervals = {name: part.pop(f"{before}{name}_ci95", None) for name in names}
    part[f"{before}scores"] = {name: value for name, value in values.items() if value is not None}
    part[f"{before}intervals"] = {name: value for name, value in intervals.items() if value is not None}
    return True


STEPS = (
    Step(2, "champions have whole histories ({} files written)", _complete_champions),
    Step(3, "the timelines begin with the champions there were ({} entries written)", _begin_timelines),
    Step(4, "decisions on champions have numbers ({} decisions written)", _number_decisions),
    Step(5, "artifacts are known by their SHA-256 ({} manifests written)", _add_hashes),
    Step(6, "scores stand under the names of their metrics ({} files written)", _name_scores),
)
VERSION = STEPS[-1].version
