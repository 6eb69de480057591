"""`flywheel doctor`: what a run needs, whether it is there, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flywheel.artifacts import ArtifactRoot
from flywheel.config import Config, load_config, resolve_path
from flywheel.config.loading import default_config_path
from flywheel.errors import FlywheelError
from flywheel.workload import Workload

# A run of three 8B students writes checkpoints, adapters and predictions of about this many bytes.
LOW_DISK_BYTES = 5_000_000_000


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

    console = Console(soft_wrap=True, highlight=False)
    signs = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "error": "[red]error  [/]"}
    worst = 0
    for finding in findings():
        console.print(f"{signs[finding.state]} {escape(finding.what)}: {escape(finding.detail)}")
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
            yield from check(config)
        except FlywheelError as error:
            yield Finding(check.__name__.strip("_"), "error", str(error), f"mend it, or its key in {path}")


def _workload(config: Config) -> Iterator[Finding]:
    workload = Workload.load(config.workload)
    what = f"{len(workload.classes)} classes" if workload.classes else "records that applications log"
    yield Finding("workload", "ok", f"{workload.id}, {what} ({config.workload})")


def _sources(config: Config) -> Iterator[Finding]:
    if not config.source:
        yield Finding(
            "source", "warning", "no source in the config", "set `source`, or write records into the store"
        )
    for source in config.source:
        root = ArtifactRoot(source.path.rsplit("/", 1)[0] if "/" in source.path else ".")
        found = root.fs.glob(root.fs._strip_protocol(resolve_path(source.path)))
        if found:
            yield Finding("source", "ok", f"{source.path}: {len(found)} file(s)")
        else:
            advice = "`make run` writes the demo headlines" if "demo" in source.path else "put a file there"
            yield Finding("source", "warning", f"{source.path}: no file matches", advice)


def _teacher(config: Config) -> Iterator[Finding]:
    import httpx

    from flywheel.teacher.endpoint import resolve_endpoint

    endpoint = resolve_endpoint(config.teacher)
    url = endpoint.url.replace("/chat/completions", "/models")
    try:
        status = httpx.get(url, headers=endpoint.own_headers(), timeout=10).status_code
    except httpx.HTTPError as error:
        yield Finding(
            "teacher",
            "warning",
            f"{url}: {type(error).__name__}",
            "start it; the stand-in runs only during `make run`",
        )
        return
    if status in (401, 403):
        yield Finding(
            "teacher",
            "error",
            f"{url}: HTTP {status}",
            f"set the key: connection {config.teacher.connection!r} or FLYWHEEL_TEACHER_API_KEY",
        )
    elif status >= 400:
        yield Finding(
            "teacher", "warning", f"{url}: HTTP {status}", "is the base URL right (it ends in /v1)?"
        )
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
    for student in config.students:
        folder = Path(resolve_path(student.weights))
        if folder.is_dir():
            yield Finding(f"student {student.name}", "ok", str(folder))
        elif os.environ.get("HF_HUB_OFFLINE") == "1":
            yield Finding(
                f"student {student.name}",
                "warning",
                f"{student.weights} is no folder, and HF_HUB_OFFLINE=1",
                "set `weights` to a local folder, or allow the Hugging Face Hub",
            )
        else:
            yield Finding(f"student {student.name}", "ok", f"{student.weights}, from the Hugging Face Hub")


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
