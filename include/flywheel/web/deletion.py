"""Remove a run and what it alone has made: what another run or any champion uses stays.

Artifacts have the name of what they were made from, so two runs of the same data share them. Whether another
run uses one is asked of that run's own files, in which the key then stands. A run that has not been scored
may be about to use what is there for its dataset; so as long as there is one, nothing of that dataset goes.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, FlywheelError, StudentError
from flywheel.jobs.spec import CustomizeSpec
from flywheel.report.files import LATEST
from flywheel.runs.plan import Plan
from flywheel.runs.run import CANCELLED_FILE, Run
from flywheel.web import airflow_actions, run_files, summaries
from flywheel.web.airflow_runs import AirflowRun

log = logging.getLogger(__name__)

KEY = re.compile(r"[0-9a-f]{20}")  # as flywheel.artifacts.root.key_of makes them

# One at a time: two runs that share an artifact must not each leave it to the other.
_one_at_a_time = threading.Lock()


def delete(user: Any, found: AirflowRun) -> None:
    """Remove a run that has ended: its artifacts, its files, its place in MLflow, its row in Airflow."""
    with _one_at_a_time:
        try:
            run = run_files.run_of(found)
            plan = run_files.read_plan(run)
            if plan is not None and plan.run_id != found.run_id:
                log.warning("%s belongs to run %s: left as it is", run.path, plan.run_id)
            else:
                remove_files(run, plan)
            airflow_actions.remove_run(user, found.run_id)
            summaries.forget(found.run_id)
        except Exception:
            log.exception("run %s could not be removed; DELETE may be asked for again", found.run_id)


def remove_files(run: Run, plan: Plan | None) -> list[tuple[str, str]]:
    """Remove the files of a run, and the artifacts that it alone has made; return these by kind and key."""
    root = run.root
    owned = _made_by(run) - _used_by_others(run, _made_by(run))
    for kind, key in sorted(owned):
        if kind == "scratch":
            root.discard_scratch("adapters", key)
        else:
            root.remove(kind, key)
    if plan is not None and not _is_champions(root, plan.run_id):
        _untrack(plan)
    _move_latest(run)
    root.remove_tree(run.path)
    return sorted(owned)


def _made_by(run: Run) -> set[tuple[str, str]]:
    """Return the artifacts that a run has made or found, by kind and key."""
    made = set()
    curated = run_files.read_json(run, "stages/curate.json")
    if curated:
        made.add(("datasets", curated["result"]["dataset"]))
    for folder in run.root.list(f"{run.path}/jobs"):
        for name in run.root.list(f"{run.path}/jobs/{folder}"):
            path = f"jobs/{folder}/{name}"
            if name == "customize.json":
                made.add(("adapters", run_files.read_json(run, path)["result"]["adapter"]))
            elif name in ("evaluate.json", "base_eval.json", "icl_eval.json", "champion_eval.json"):
                made.add(("evaluations", run_files.read_json(run, path)["result"]["key"]))
            elif name == "customize.spec.json":
                made |= _checkpoints(run, path)
    # What is no key is the name of something else: nothing that a file says is removed on its word alone.
    return {(kind, key) for kind, key in made if KEY.fullmatch(str(key))}


def _checkpoints(run: Run, path: str) -> set[tuple[str, str]]:
    """Return the checkpoints of a customization that was stopped."""
    kept = set(run.root.list("scratch/adapters"))
    if not kept:
        return set()
    try:
        spec = CustomizeSpec.model_validate(run_files.read_json(run, path))
        keys = {training.key for training in spec.trainings}
    except (StudentError, ValueError):
        return set()
    return {("scratch", key) for key in keys & kept}


def _used_by_others(run: Run, made: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return those artifacts that other runs or champions use."""
    used: set[tuple[str, str]] = set()
    datasets = {key for kind, key in made if kind == "datasets"}
    for other, texts in _texts_of_others(run):
        left = made - used
        if not left:
            break
        joined = b"\n".join(texts)
        used |= {(kind, key) for kind, key in left if key.encode() in joined}
        if other and not _is_scored(run.root, other) and any(key.encode() in joined for key in datasets):
            return set(made)
    return used


def _texts_of_others(run: Run) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the files that may name an artifact: of all champions (""), then of each other run, by path."""
    root = run.root
    yield "", _read_all(root, _champion_files(root))
    for name in root.list("runs"):
        path = f"runs/{name}"
        if path != run.path:
            files = [file for file in root.files_below(path) if _may_name(file)]
            yield path, _read_all(root, files)


def _may_name(file: str) -> bool:
    return file.endswith(".json") and (
        "/jobs/" in file or "/stages/" in file or file.endswith("/report.json")
    )


def _read_all(root: ArtifactRoot, files: list[str]) -> list[bytes]:
    def read(file: str) -> bytes:
        try:
            return root.read_bytes(file)
        except FileNotFoundError:
            return b""

    return run_files.side_by_side(read, files)


def _is_scored(root: ArtifactRoot, path: str) -> bool:
    return root.exists(f"{path}/stages/score.json") or root.exists(f"{path}/{CANCELLED_FILE}")


def _is_champions(root: ArtifactRoot, run_id: str) -> bool:
    """Return whether a champion, of now or of then, came from a run: its version in MLflow names that run."""
    for file in _champion_files(root):
        if file.rsplit("/", 2)[1] == "timeline":  # it names runs that put nothing into production, too
            continue
        try:
            content = root.read_json(file)
            if run_id in (content.get("run_id"), (content.get("champion") or {}).get("run_id")):
                return True
        except (ArtifactError, AttributeError):
            return True
    return False


def _champion_files(root: ArtifactRoot) -> list[str]:
    """Return the files of all champions that name runs and artifacts."""
    files = root.files_below("champions")
    return [file for file in files if file.endswith(".json") and "/whole/" not in file]


def _untrack(plan: Plan) -> None:
    from flywheel.promotion.mlflow_runs import forget_run

    try:
        forget_run(plan)
    except FlywheelError as error:
        log.warning("run %s stays in MLflow: %s", plan.run_id, error)


def _move_latest(run: Run) -> None:
    """Have `latest` point at the run that was scored last of those that stay."""
    from flywheel.report.files import latest_path, mark_latest

    root = run.root
    try:
        if latest_path(root) != run.path:
            return
    except ArtifactError:
        return
    scored = []
    for name in root.list("runs"):
        other = Run.in_folder(root, name)
        score = run_files.read_json(other, "stages/score.json") if other.path != run.path else None
        if score:
            scored.append((score["ended_at"], name, other))
    if scored:
        mark_latest(max(scored, key=lambda one: one[:2])[2])
    else:
        root.discard(LATEST if root.is_folder else f"{LATEST}.json")
