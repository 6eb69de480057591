"""A run's folder in the artifact root: its plan, what each stage gave, when and by what, and its report.

    runs/<run>/plan.json
    runs/<run>/stages/<stage>.json                       label, ingest, curate, score, promote
    runs/<run>/jobs/<student>/base_eval.{spec.json,json}
    runs/<run>/jobs/<student>@<size>/customize.{spec.json,json}, evaluate.{spec.json,json}, failure.json
    runs/<run>/jobs/…/*.progress.json                    how far a running job is
    runs/<run>/failures/<task>.<map index>.json         why a task failed (flywheel.runs.failures)
    runs/<run>/cancelled.json                            who stopped it, and when

A stage is a plain function that knows nothing of this; the DAG and the command line call it through
`perform`, which hands it its inputs from the folder and keeps its result and its time there.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, OtherPlanError
from flywheel.common.full_disk import told_when_full
from flywheel.common.inside import is_inside
from flywheel.config.private import private_file
from flywheel.jobs.used import Meter, Used
from flywheel.runs.names import folder_name, former_folder_name
from flywheel.runs.plan import PROJECT_VARIABLE, Candidate, Plan
from flywheel.runs.plan_changes import changes, said_cutoff
from flywheel.workloads.versions import remember_version

log = logging.getLogger(__name__)

# Who stopped the run, when, and how often it had been begun anew by then.
CANCELLED_FILE = "cancelled.json"

Result = TypeVar("Result", bound=BaseModel)


class Run:
    """One run of the flywheel, by its folder in the artifact root.

    Args:
        dag_id: the DAG that the run is one of; empty: `flywheel`, or none.
        plan_digest: SHA-256 of the plan.json that the run had when it began; empty: unknown. A plan that was
            changed since is then refused.
    """

    def __init__(self, root: ArtifactRoot, run_id: str, dag_id: str = "", plan_digest: str = "") -> None:
        self.root = root
        self.run_id = run_id
        self.dag_id = dag_id
        self.plan_digest = plan_digest

    @classmethod
    def create(cls, plan: Plan, *, is_first: bool = False) -> Run:
        """Freeze a plan into its run's folder; the run's own plan that is there already stays.

        Where the plan that is there differs, the log says how. Stages begin a run by
        `flywheel.stages.pipeline.begin`, which brings up what an older flywheel left.

        Args:
            is_first: nobody can have planned this run before. A plan that is there nevertheless is taken
                only if it is the same as this one.

        Raises:
            OtherPlanError: the plan that is there is that of another run, DAG or project, or was there
                before the run was.
            ArtifactError: a newer flywheel has written the artifact root.
        """
        run = cls(ArtifactRoot(plan.config.artifacts.root), plan.run_id, plan.dag_id)
        if not run.is_planned:
            remember_version(run.root, plan.workload)
            data = orjson.dumps(plan.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
            run.root.write_bytes(f"{run.path}/plan.json", data)
            if run.root.is_folder:
                private_file(run.root.local_folder(f"{run.path}/plan.json"))
            run.plan_digest = hashlib.sha256(data).hexdigest()
            return run
        run.plan_digest = hashlib.sha256(run.root.read_bytes(f"{run.path}/plan.json")).hexdigest()
        found = run.plan
        refuse_others(f"{run.root.url}/{run.path}", found, plan)
        differences = changes(found, plan)
        if is_first and (differences or found.cutoff != plan.cutoff):
            raise OtherPlanError(
                f"{run.root.url}/{run.path}: has a plan for {said_cutoff(found)} that was there before the "
                f"run {plan.run_id} began, and is not the plan of this run: "
                f"{'; '.join(differences) or 'the cutoff differs'}. Move the folder away if you know whose "
                "it is, and clear the task"
            )
        if differences:
            log.warning(
                "%s is planned already, for %s, and keeps that plan, though these differ by now: %s",
                plan.run_id,
                said_cutoff(found),
                "; ".join(differences),
            )
        return run

    @classmethod
    def in_folder(cls, root: ArtifactRoot, name: str) -> Run:
        """Return the run of a folder of `runs`, by the folder's name."""
        run = cls(root, name)
        run.path = f"runs/{name}"
        with suppress(ArtifactError, AttributeError):
            run.run_id = str(root.read_json(f"{run.path}/plan.json").get("run_id", name))
        return run

    @cached_property
    def path(self) -> str:
        """The run's folder, relative to the root; one that flywheel 0.1.0 made has the name of then."""
        path = f"runs/{folder_name(self.run_id, self.dag_id)}"
        former = f"runs/{former_folder_name(self.run_id)}"
        if path == former or self.root.exists(f"{path}/plan.json"):
            return path
        if self.root.exists(f"{former}/plan.json"):
            plan = self.root.read_json(f"{former}/plan.json")
            if isinstance(plan, dict) and plan.get("run_id") == self.run_id and not plan.get("project"):
                return former
        return path

    @property
    def is_planned(self) -> bool:
        """Whether the run has a plan."""
        return self.root.exists(f"{self.path}/plan.json")

    @property
    def plan(self) -> Plan:
        """The frozen plan.

        Raises:
            ArtifactError: the run has none, or it was changed since the run began.
        """
        path = f"{self.path}/plan.json"
        if not self.plan_digest:
            return Plan.model_validate(self.root.read_json(path))
        data = self.root.read_bytes(path) if self.is_planned else b""
        if hashlib.sha256(data).hexdigest() != self.plan_digest:
            raise OtherPlanError(
                f"{self.root.url}/{self.path}/plan.json: is not the plan that this run began with: somebody "
                "has changed it since. Find out who, put it back or remove it, and clear the task `plan` "
                "with all that comes after it"
            )
        return Plan.model_validate_json(data)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The candidates: those that the data allows, once curate has said it; the plan's until then.

        Raises:
            ArtifactError: the run has no plan.
        """
        path = f"{self.path}/stages/curate.json"
        curated = self.root.read_json(path)["result"] if self.root.exists(path) else {}
        return candidates_of(self.plan, curated)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a local folder with the run's files; behind a remote root, a copy that is put back."""
        if self.root.is_folder:
            with self.root.folder_of(self.path, without_links=True) as folder:
                yield folder
            return
        with tempfile.TemporaryDirectory(prefix="flywheel-run-") as name:
            local = Path(name)
            self.root.get_tree(self.path, local)
            before = {path: path.stat().st_mtime_ns for path in local.rglob("*") if path.is_file()}
            yield local
            for path in sorted(local.rglob("*")):
                if path.is_file() and before.get(path) != path.stat().st_mtime_ns:
                    self.root.put_file(path, f"{self.path}/{path.relative_to(local)}")

    def save(
        self, name: str, result: BaseModel, *, started_at: float, ended_at: float, used: Used | None = None
    ) -> None:
        """Keep what a stage or job gave, with its start and end in unix seconds, and what it used."""
        value = {"result": result.model_dump(mode="json"), "started_at": started_at, "ended_at": ended_at}
        if used is not None:
            value["used"] = used.model_dump(mode="json")
        self.root.write_json(f"{self.path}/{name}.json", value)

    def load(self, name: str, kind: type[Result]) -> Result:
        """Return what a stage or job gave.

        Raises:
            ArtifactError: it has not ended.
        """
        return kind.model_validate(self.root.read_json(f"{self.path}/{name}.json")["result"])

    def find(self, name: str, kind: type[Result]) -> Result | None:
        """Return what a stage or job gave; None where it has not ended."""
        return self.load(name, kind) if self.root.exists(f"{self.path}/{name}.json") else None

    def perform(self, name: str, kind: type[Result], work: Callable[[Path], Result]) -> Result:
        """Do a stage's work in the run's folder and keep its result.

        The work itself finds what an earlier try has done; so a stage that is run again is done again.

        Raises:
            DiskFullError: a disk that the stage writes to is full.
        """
        started_at, meter = time.time(), Meter()
        with self.folder() as folder, told_when_full(folder, name):
            result = work(folder)
        self.save(f"stages/{name}", result, started_at=started_at, ended_at=time.time(), used=meter.used())
        log.info("%s: %s", name, _summary(result))
        return result

    def used(self, name: str) -> Used | None:
        """Return what a stage or job used; None where it has not ended, or an older flywheel did it."""
        path = f"{self.path}/{name}.json"
        found = self.root.read_json(path).get("used") if self.root.exists(path) else None
        return Used.model_validate(found) if found else None

    def was_cancelled(self, clear_number: int) -> bool:
        """Return whether a person stopped the run after it was begun for the given time, from 0 on."""
        path = f"{self.path}/{CANCELLED_FILE}"
        return self.root.exists(path) and self.root.read_json(path).get("clear_number") == clear_number

    def intervals(self) -> dict[str, list[tuple[float, float]]]:
        """Return when work was done, by stage: (start, end) in unix seconds, one for each job.

        Keys are label, ingest, curate, base_eval, customize, evaluate, score and promote.
        """
        found: dict[str, list[tuple[float, float]]] = {}
        files = [("stages", name) for name in self.root.list(f"{self.path}/stages")]
        for job in self.root.list(f"{self.path}/jobs"):
            files += [(f"jobs/{job}", name) for name in self.root.list(f"{self.path}/jobs/{job}")]
        for folder, name in files:
            if (
                name.endswith(".json")
                and "." not in name.removesuffix(".json")
                and not name.endswith("failure.json")
            ):
                data: dict[str, Any] = self.root.read_json(f"{self.path}/{folder}/{name}")
                found.setdefault(name.removesuffix(".json"), []).append(
                    (data["started_at"], data["ended_at"])
                )
        return found


def candidates_of(plan: Plan, curated: dict[str, Any] | None) -> tuple[Candidate, ...]:
    """Return the candidates of a run from its plan and, where it has ended, the result of its curate."""
    found = (curated or {}).get("candidates")
    return tuple(map(Candidate.model_validate, found)) if found else plan.candidates


def open_run(root: str, run_id: str) -> Run:
    """Return a run that was planned.

    Raises:
        ArtifactError: there is none; the message names those that are there.
    """
    run = find_run(ArtifactRoot(root), run_id)
    if not run.root.exists(f"{run.path}/plan.json"):
        there = ", ".join(run.root.list("runs")[-5:]) or "none"
        raise ArtifactError(f"{run.root.url}/{run.path}: no such run; the latest are: {there}")
    return run


def find_run(root: ArtifactRoot, name: str) -> Run:
    """Return a run by its id or, as people copy it from a list, by the name of its folder."""
    run = Run(root, name)
    if run.is_planned and run.path != f"runs/{name}":
        return run
    is_folder = is_inside(name) and root.exists(f"runs/{name}/plan.json")
    return Run.in_folder(root, name) if is_folder else run


def refuse_others(folder: str, found: Plan, plan: Plan) -> None:
    """Refuse a plan that is there, where it is none of the run that is planned now.

    Raises:
        OtherPlanError: it is that of another run, DAG or project.
    """
    if found.run_id != plan.run_id:
        raise OtherPlanError(
            f"{folder}: is the folder of run {found.run_id!r}, not of {plan.run_id!r}: start this one under "
            "another id, or move the folder away"
        )
    if not found.project:  # flywheel 0.1.0 did not say
        return
    if found.dag_id != plan.dag_id:
        raise OtherPlanError(
            f"{folder}: run {plan.run_id!r} there is {_of_dag(found)}, not {_of_dag(plan)}: start this one "
            "under another id, or move the folder away"
        )
    if found.project != plan.project:
        raise OtherPlanError(
            f"{folder}: run {plan.run_id!r} there is one of project {found.project}, not of {plan.project}: "
            "give each project an artifacts.root of its own. If it is the same one, which has moved, set "
            f"{PROJECT_VARIABLE}={found.project}"
        )


def _of_dag(plan: Plan) -> str:
    return f"one of DAG {plan.dag_id!r}" if plan.dag_id else "one that was planned by hand"


def seconds_of(intervals: list[tuple[float, float]]) -> float:
    """Return the time that intervals cover together, in seconds; where they overlap it counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _summary(result: BaseModel) -> str:
    """Return the small fields of a result on one line."""
    fields = result.model_dump(mode="json")
    return ", ".join(
        f"{key} {value}" for key, value in fields.items() if isinstance(value, str | int | float)
    )
