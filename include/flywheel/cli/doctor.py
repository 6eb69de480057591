"""`flywheel doctor`: what a run needs, whether it is there, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import FlywheelError, SourceError
from flywheel.common.redaction import clean
from flywheel.config import Config, Student, load_config, resolve_path
from flywheel.config.loading import default_config_path
from flywheel.jobs.weights import hub_name, local_folder
from flywheel.laptop.home import airflow_home
from flywheel.sources import look_at
from flywheel.students.whole import missing_in
from flywheel.workloads.workload import Workload

# A run of three 8B students writes checkpoints, adapters and predictions of about this many bytes.
LOW_DISK_BYTES = 5_000_000_000
_PROCESS_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        state: ok; warning: a run works, but look at it; error: a run will fail.
        advice: what to do; empty when ok.
    """

    what: str
    state: Literal["ok", "warning", "error"]
    detail: str
    advice: str = ""


def examine() -> int:
    """Print what was found, one line each with its advice; return 1 where something will fail, else 0."""
    from rich.console import Console
    from rich.markup import escape

    _use_the_laptops_airflow()
    console = Console(soft_wrap=True, highlight=False)
    signs = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "error": "[red]error  [/]"}
    worst = 0
    for finding in findings():
        console.print(f"{signs[finding.state]} {escape(finding.what)}: {escape(clean(finding.detail))}")
        if finding.advice:
            console.print(f"        -> {escape(finding.advice)}")
        worst |= finding.state == "error"
    return worst


def findings() -> Iterator[Finding]:
    """Look at all that a run needs, in the order in which it needs it."""
    path = default_config_path()
    try:
        config = load_config(path)
    except FlywheelError as error:
        yield Finding("config", "error", str(error), f"mend {path}")
        return
    yield Finding("config", "ok", str(path))
    checks: tuple[Callable[[Config], Iterator[Finding]], ...] = (
        _workload,
        _sources,
        _teacher,
        _store,
        _artifacts,
        _students,
        _gpu,
        _airflow,
    )
    for check in checks:
        try:
            with _connections_as_in_tasks():
                found = list(check(config))
        except FlywheelError as error:
            found = [
                Finding(check.__name__.strip("_"), "error", str(error), f"mend it, or its key in {path}")
            ]
        yield from found


def _use_the_laptops_airflow() -> None:
    """Look into the Airflow of `make run`, where none is named and that one was started once."""
    home = airflow_home()
    if "AIRFLOW_HOME" not in os.environ and (home / "airflow.cfg").exists():
        os.environ["AIRFLOW_HOME"] = str(home)


@contextmanager
def _connections_as_in_tasks() -> Iterator[None]:
    """Have Airflow look for connections in its database and secrets backends as well.

    A task asks for them over the API server, which looks there; any other process sees the environment alone,
    unless it says, as `airflow connections` does, that it is one of the servers.
    """
    before = os.environ.get(_PROCESS_CONTEXT)
    os.environ[_PROCESS_CONTEXT] = "server"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_PROCESS_CONTEXT, None)
        else:
            os.environ[_PROCESS_CONTEXT] = before


def _workload(config: Config) -> Iterator[Finding]:
    workload = Workload.load(config.workload)
    what = f"{len(workload.classes)} classes" if workload.classes else "records that applications log"
    yield Finding("workload", "ok", f"{workload.id}, {what} ({config.workload})")


def _sources(config: Config) -> Iterator[Finding]:
    if not config.source:
        yield Finding(
            "source", "warning", "no source in the config", "set `source`, or write records into the store"
        )
    for index, source in enumerate(config.source):
        root = ArtifactRoot(source.path.rsplit("/", 1)[0] if "/" in source.path else ".")
        if not root.fs.glob(root.fs._strip_protocol(resolve_path(source.path))):
            advice = "`make run` writes the demo headlines" if "demo" in source.path else "put a file there"
            yield Finding("source", "warning", f"{source.path}: no file matches", advice)
            continue
        try:
            look = look_at(source, f"source.{index}")
        except SourceError as error:
            yield Finding("source", "error", str(error), "mend the file, or the key")
            continue
        seen = f"{look.span.line()}; {look.files} file(s), their first {look.rows:,} rows read"
        if look.bad:
            bad = f"{seen}, {look.bad:,} of them cannot be used: {look.first_problem}"
            yield Finding("source", "warning", bad, "a run sets such rows aside and goes on with the others")
        else:
            yield Finding("source", "ok", seen)


def _teacher(config: Config) -> Iterator[Finding]:
    import httpx

    from flywheel.teacher.endpoint import resolve_endpoints

    for endpoint in resolve_endpoints(config.teacher):
        url = endpoint.url.replace("/chat/completions", "/models")
        try:
            status = httpx.get(url, headers=endpoint.own_headers(), timeout=10).status_code
        except httpx.HTTPError as error:
            advice = "start it; the stand-in runs only during `make run`"
            yield Finding("teacher", "warning", f"{url}: {type(error).__name__}", advice)
            continue
        if status in (401, 403):
            advice = f"set the key: connection {config.teacher.connection!r} or FLYWHEEL_TEACHER_API_KEY"
            yield Finding("teacher", "error", f"{url}: HTTP {status}", advice)
        elif status >= 400:
            advice = "is the base URL right (it ends in /v1)?"
            yield Finding("teacher", "warning", f"{url}: HTTP {status}", advice)
        else:
            yield Finding("teacher", "ok", f"{config.teacher.model} at {endpoint.url}")


def _store(config: Config) -> Iterator[Finding]:
    from flywheel.stores import open_store

    there = config.store.elasticsearch
    # A run waits for a cluster that restarts; a person at a terminal does not.
    impatient = there.model_copy(update={"wait_seconds": 5.0, "timeout_seconds": 10.0})
    with open_store(config.store.model_copy(update={"elasticsearch": impatient})) as store:
        scopes = store.scopes()
    where = (
        config.store.path
        if config.store.type == "sqlite"
        else f"connection {there.connection!r}, indexes {there.index}-*"
    )
    yield Finding("store", "ok", f"{config.store.type}, {where}; records of {len(scopes)} client(s)")


def _artifacts(config: Config) -> Iterator[Finding]:
    root = ArtifactRoot(config.artifacts.root)
    try:
        root.write_json("doctor.json", {})
        root.fs.rm(f"{root.fs._strip_protocol(root.url)}/doctor.json")
    except Exception as error:  # whatever the file system or object store raises
        yield Finding("artifacts", "error", f"{root.url}: {error}", "make it writable, or set artifacts.root")
        return
    yield Finding("artifacts", "ok", root.url)
    if root.is_folder:
        free = shutil.disk_usage(root.url).free
        state: Literal["ok", "warning"] = "ok" if free > LOW_DISK_BYTES else "warning"
        advice = "" if state == "ok" else "free some space, or put artifacts.root elsewhere"
        yield Finding("disk", state, f"{free / 1e9:.1f} GB free at {root.url}", advice)


def _students(config: Config) -> Iterator[Finding]:
    missing = [name for name in ("torch", "transformers", "peft") if not _version(name)]
    if missing and config.runtime.type == "local" and not config.runtime.python:
        yield Finding("students", "error", f"{', '.join(missing)} not installed", "make install")
    if config.runtime.type == "nemo":  # there they are names of the catalogue
        return
    for student in filter(lambda one: one.weights, config.students):
        yield _weights(student, is_here=config.runtime.type == "local")


def _weights(student: Student, *, is_here: bool) -> Finding:
    """Look for the files of a student's weights.

    Args:
        is_here: jobs run on this machine; else they may see other folders than this one.
    """
    what = f"student {student.name}"
    folder = local_folder(student.weights) or _in_cache(hub_name(student.weights))
    state: Literal["error", "warning"] = "error" if is_here else "warning"
    elsewhere = "" if is_here else ", if the pods do not see another folder there"
    if folder is not None:
        missing = missing_in(folder)
        if missing:
            return Finding(what, state, f"{folder}: {missing}", f"put the whole model there{elsewhere}")
        return Finding(what, "ok", str(folder))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w.-]+)?", student.weights) or student.weights.startswith("."):
        return Finding(what, state, f"{student.weights}: no such folder", f"put the model there{elsewhere}")
    if is_here and os.environ.get("HF_HUB_OFFLINE") == "1":
        return Finding(
            what,
            "error",
            f"{student.weights} is no folder and not in the cache, and HF_HUB_OFFLINE=1",
            "set `weights` to a local folder, or allow the Hugging Face Hub",
        )
    return Finding(what, "ok", f"{student.weights}, from the Hugging Face Hub when it is first used")


def _in_cache(name: str) -> Path | None:
    """Return the folder of a model of the Hugging Face Hub that is on this machine."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")
    except (ImportError, ValueError):  # not installed, or no name that the Hub could have
        return None
    return Path(found).parent if isinstance(found, str) else None


def _gpu(config: Config) -> Iterator[Finding]:
    if not _version("torch"):
        return
    import torch

    wanted = max(student.gpus for student in config.students)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there:
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(there))
        yield Finding("GPU", "ok", f"{there}: {names}")
    elif wanted and config.runtime.type == "local":
        yield Finding(
            "GPU",
            "warning",
            f"none here, and a student asks for {wanted}: it will train on the CPU, slowly",
            "use smaller students, or a machine with a GPU",
        )
    else:
        yield Finding("GPU", "ok", "none here, none asked for")


def _airflow(config: Config) -> Iterator[Finding]:
    version = _version("apache-airflow")
    if not version:
        yield Finding("Airflow", "error", "not installed", "make install")
        return
    yield Finding("Airflow", "ok", version)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
