"""`flywheel doctor`: what a run needs, whether it is there, and how to mend it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flywheel.artifacts.root import ArtifactRoot
from flywheel.cli import machine
from flywheel.common.errors import FlywheelError, SourceError
from flywheel.common.redaction import clean
from flywheel.config import Config, load_config, resolve_path
from flywheel.laptop import stand_in
from flywheel.laptop.home import airflow_home
from flywheel.runtimes import open_runtime
from flywheel.runtimes.checks import Finding, version
from flywheel.sources import look_at
from flywheel.workloads.experiments import experiments, file_of
from flywheel.workloads.workload import Workload

_PROCESS_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"


def examine(experiment: str = "") -> int:
    """Print what was found, one line each with its advice; return 1 where something will fail, else 0."""
    from rich.console import Console
    from rich.markup import escape

    _use_the_laptops_airflow()
    console = Console(soft_wrap=True, highlight=False)
    signs = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "error": "[red]error  [/]"}
    worst = 0
    for finding in findings(experiment):
        console.print(f"{signs[finding.state]} {escape(finding.what)}: {escape(clean(finding.detail))}")
        if finding.advice:
            console.print(f"        -> {escape(finding.advice)}")
        worst |= finding.state == "error"
    return worst


def findings(experiment: str = "") -> Iterator[Finding]:
    """Look at all that a run of an experiment needs, in the order in which it needs it."""
    path = file_of(experiment)
    try:
        config = load_config(experiment=experiment)
    except FlywheelError as error:
        yield Finding("config", "error", str(error), f"mend {path}")
        return
    yield Finding("config", "ok", str(path))
    yield from _experiments(experiment)
    checks: tuple[Callable[[Config], Iterator[Finding]], ...] = (
        _workload,
        _sources,
        _teacher,
        _store,
        _artifacts,
        _runtime,
        _airflow,
        machine.disks,
        machine.ports,
        machine.locale,
        machine.clock,
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
    """Look into the Airflow of `make run`, where no other is named or in use in ~/airflow."""
    home, other = airflow_home(), Path("~/airflow/airflow.cfg").expanduser()
    if "AIRFLOW_HOME" not in os.environ and ((home / "airflow.cfg").exists() or not other.exists()):
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


def _experiments(experiment: str) -> Iterator[Finding]:
    """Say which other experiments there are, and what is wrong with any."""
    there = experiments()
    for one in there:
        if one.error and one.name:
            advice = f"mend {one.file}; until then its DAG alone is an import error in Airflow"
            yield Finding("experiment", "error" if one.name == experiment else "warning", one.error, advice)
    right = [one.name for one in there if one.name and not one.error]
    if right:
        yield Finding("experiments", "ok", f"{', '.join(right)}; look at one by --experiment NAME")


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

    if stand_in.is_needed(config):
        url = stand_in.running()
        yield (
            Finding("teacher", "ok", f"the demo's stand-in at {url}, as `make run` started it")
            if url
            else Finding(
                "teacher",
                "warning",
                "the demo's stand-in does not run now",
                "`make run` and `./flywheel label` start it; for a teacher of your own see docs/teachers.md",
            )
        )
        return
    for endpoint in resolve_endpoints(config.teacher):
        url = endpoint.url.replace("/chat/completions", "/models")
        try:
            status = httpx.get(url, headers=endpoint.own_headers(), timeout=10).status_code
        except httpx.HTTPError as error:
            advice = "start it, or mend its address: teacher.base_url, the connection or the variable"
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


def _runtime(config: Config) -> Iterator[Finding]:
    yield from open_runtime(config).check()


def _airflow(config: Config) -> Iterator[Finding]:
    found = version("apache-airflow")
    if not found:
        yield Finding("Airflow", "error", "not installed", "make install")
        return
    yield Finding("Airflow", "ok", found)
