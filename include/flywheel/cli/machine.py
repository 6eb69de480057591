"""What `flywheel doctor` looks at on this machine beside the config: ports, locale and clock."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flywheel.config import Config
from flywheel.laptop.home import UI_PORT
from flywheel.laptop.processes import free_port
from flywheel.laptop.up import is_up
from flywheel.runtimes.checks import Finding

# More than this, and tokens between Airflow's parts, signed requests to S3 and "known at" go wrong.
MOST_SECONDS_OFF = 30.0


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
