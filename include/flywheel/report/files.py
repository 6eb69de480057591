"""The files of a report: report.json, report.html and learning_curve.png, and which run is the latest."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.durable import put_in_place
from flywheel.common.errors import ArtifactError
from flywheel.report.html import render_html
from flywheel.report.model import REPORT_FILE, Report
from flywheel.report.table import render_table
from flywheel.runs.failures import failures_of
from flywheel.runs.run import Run, find_run

log = logging.getLogger(__name__)

HTML_FILE = "report.html"
CURVE_FILE = "learning_curve.png"
LATEST = "latest"


def write_report(folder: Path, report: Report) -> list[Path]:
    """Write report.html and report.json into a run's folder, each whole or not at all, and return them.

    report.json comes last: where it is, the page beside it is of the same report.
    """
    pages = {HTML_FILE: render_html(report).encode(), REPORT_FILE: report.json_bytes()}
    for name, data in pages.items():
        aside = folder / f".{name}.{uuid.uuid4().hex[:8]}"
        aside.write_bytes(data)
        put_in_place(aside, folder / name)
    return [folder / name for name in pages]


def read_report(root: ArtifactRoot, run_id: str = LATEST) -> Report:
    """Return the report of a run, or of the run that was scored last.

    Raises:
        ArtifactError: there is no such run, or it was not scored yet.
    """
    path = f"{latest_path(root) if run_id == LATEST else find_run(root, run_id).path}/{REPORT_FILE}"
    if not root.exists(path):
        failed = [] if run_id == LATEST else failures_of(find_run(root, run_id))
        if failed:
            raise ArtifactError(f"{root.url}/{path}: no report: {failed[0].told}")
        there = ", ".join(root.list("runs")[-5:]) or "none"
        raise ArtifactError(f"{root.url}/{path}: no report; `flywheel score RUN` writes it; runs: {there}")
    return Report.model_validate(root.read_json(path))


def print_report(root_url: str, run_id: str = LATEST) -> None:
    """Print a run's table and verdict, and where its report lies.

    Raises:
        ArtifactError: there is no such run, or it was not scored yet.
    """
    from rich.console import Console

    root = ArtifactRoot(root_url)
    report = read_report(root, run_id)
    console = Console()
    console.print(render_table(report))
    page = f"{root.url}/{Run(root, report.run_id).path}/{HTML_FILE}"
    console.print(f"\n{page}", soft_wrap=True, highlight=False)


def latest_path(root: ArtifactRoot) -> str:
    """Return the path of the run that was scored last, relative to the root.

    Raises:
        ArtifactError: none was scored yet.
    """
    if root.is_folder:
        link = Path(root.url) / LATEST
        if link.is_symlink():
            return os.readlink(link)
    elif root.exists(f"{LATEST}.json"):
        return str(root.read_json(f"{LATEST}.json")["path"])
    raise ArtifactError(f"{root.url}: no run was scored yet; `make run` turns the wheel once")


def mark_latest(run: Run) -> None:
    """Make `latest` point at a run: a link where the root is a folder, else the file `latest.json`."""
    root, path = run.root, run.path
    if not root.is_folder:
        root.write_json(f"{LATEST}.json", {"run_id": run.run_id, "path": path})
        return
    link = Path(root.url) / LATEST
    aside = link.with_name(f".{LATEST}.{uuid.uuid4().hex[:8]}")
    aside.symlink_to(path)
    try:
        os.replace(aside, link)
    except OSError as error:  # a folder of that name, which somebody made, stays
        aside.unlink()
        log.warning("%s: cannot be made a link to %s: %s", link, path, error)
