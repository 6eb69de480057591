"""What `flywheel doctor` looks at on this machine beside the config: disks, ports, locale and clock."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config, resolve_path
from flywheel.jobs.weights import local_folder
from flywheel.laptop.home import UI_PORT
from flywheel.laptop.processes import free_port
from flywheel.laptop.up import is_up
from flywheel.runtimes.checks import Finding

# More than this, and tokens between Airflow's parts, signed requests to S3 and "known at" go wrong.
MOST_SECONDS_OFF = 30.0
# A run of three 8B students writes checkpoints, adapters and predictions of about this many bytes.
LOW_DISK_BYTES = 5_000_000_000


def ports(config: Config) -> Iterator[Finding]:
    """Look whether the UI and the champion's endpoint get the ports where they are looked for."""
    wanted = {UI_PORT: "Airflow's UI", config.serving.port: "the champion's endpoint"}
    taken = [port for port in wanted if free_port(port) != port]
    names = ", ".join(f"{port} ({what})" for port, what in wanted.items())
    if not taken:
        yield Finding("ports", "ok", f"{names} are free")
    elif is_up():
        yield Finding("ports", "ok", f"{names}: `make run` is up")
    else:
        shown = ", ".join(f"{port} ({wanted[port]})" for port in taken)
        advice = "`make run` takes the next free one and says which; `serving.port` sets the endpoint's"
        yield Finding("ports", "warning", f"{shown} taken by another program", advice)


def disks(config: Config) -> Iterator[Finding]:
    """Look whether there is room, once for each disk that is written to."""
    places = {"state": Path(resolve_path("state")), "temporary files (TMPDIR)": Path(tempfile.gettempdir())}
    if (root := ArtifactRoot(config.artifacts.root)).is_folder:
        places = {"artifacts.root": Path(root.url), **places}
    if any(local_folder(student.weights) is None for student in config.students):
        cache = os.environ.get("HF_HOME") or "~/.cache/huggingface"
        places["weights of the Hub (HF_HOME)"] = Path(cache).expanduser()
    by_disk: dict[int, list[str]] = {}
    for what, place in places.items():
        there = next(above for above in (place, *place.parents) if above.exists())
        by_disk.setdefault(there.stat().st_dev, []).append(what)
        places[what] = there
    for names in by_disk.values():
        free = shutil.disk_usage(places[names[0]]).free
        detail = f"{free / 1e9:.1f} GB free at {places[names[0]]}: {', '.join(names)}"
        if free > LOW_DISK_BYTES:
            yield Finding("disk", "ok", detail)
        else:
            advice = (
                "free some (`./flywheel prune`), or put it elsewhere: FLYWHEEL_HOME, artifacts.root, TMPDIR"
            )
            yield Finding("disk", "warning", detail, advice)


def locale(_: Config) -> Iterator[Finding]:
    """Look whether names of files and texts are UTF-8 in this process."""
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8" and sys.stdout.encoding is not None:
        yield Finding("locale", "ok", "texts and names of files are UTF-8")
        return
    yield Finding(
        "locale",
        "error",
        f"names of files are {sys.getfilesystemencoding()}",
        "start by ./flywheel and ./airflow, which see to it, or export PYTHONUTF8=1 LC_ALL=C.UTF-8",
    )


def clock(config: Config) -> Iterator[Finding]:
    """Look whether the schedule's zone is known, and the clock right as far as a teacher elsewhere says."""
    try:
        zone = ZoneInfo(config.schedule.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        advice = "install tzdata, or set schedule.time_zone"
        yield Finding("clock", "error", f"no time zone {config.schedule.time_zone!r} on this machine", advice)
        return
    now = datetime.now(UTC)
    shown = f"{now:%Y-%m-%d %H:%M} UTC, {now.astimezone(zone):%H:%M %Z} in {config.schedule.time_zone}"
    off = _seconds_off(config)
    if off is None:
        yield Finding("clock", "ok", f"{shown}; no other machine's to compare with")
    elif abs(off) > MOST_SECONDS_OFF:
        advice = "set it, such as by `timedatectl set-ntp true`"
        yield Finding("clock", "error", f"{shown}, {off:+.0f} s off the teacher's", advice)
    else:
        yield Finding("clock", "ok", shown)


def _seconds_off(config: Config) -> float | None:
    """Return by how much this clock goes before that of a teacher on another machine; None: none says."""
    import httpx

    from flywheel.common.errors import TeacherError
    from flywheel.teacher.endpoint import resolve_endpoint

    try:
        endpoint = resolve_endpoint(config.teacher)
        if endpoint.is_local:
            return None
        said = httpx.get(endpoint.url.replace("/chat/completions", "/models"), timeout=10).headers["date"]
        return time.time() - parsedate_to_datetime(said).timestamp()
    except (TeacherError, httpx.HTTPError, KeyError, ValueError):
        return None
