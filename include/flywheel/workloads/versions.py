"""The versions of a workload: each prompt that a run was ever planned with, kept in the artifact root.

    workloads/<workload_id>/<sha256>.json      {"first_used": ISO time, "workload": {...}}

A record carries no version: the version's prompt is recognised in its messages. So records are told apart
that were made before versions were kept; the versions of runs from before are taken from their plans.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from pydantic import TypeAdapter

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, WorkloadError
from flywheel.workloads.records import Message
from flywheel.workloads.workload import VERSION_DIGITS, Workload, place_of

log = logging.getLogger(__name__)

_WORKLOAD = TypeAdapter(Workload)


@dataclass(frozen=True)
class Version:
    """A version of a workload.

    Attributes:
        first_used: ISO time of the first plan with it.
    """

    first_used: str
    workload: Workload


def remember_version(root: ArtifactRoot, workload: Workload) -> None:
    """Keep a version of a workload; one that is there stays. Workloads without a prompt have none."""
    if not workload.has_prompt:
        return
    folder = _folder(workload.id)
    if not root.list(folder):
        for version in _planned(root, workload.id):
            _write(root, version)
    if not root.exists(f"{folder}/{workload.sha256}.json"):
        _write(root, Version(datetime.now(UTC).isoformat(timespec="seconds"), workload))


def versions_of(root: ArtifactRoot, workload_id: str) -> list[Version]:
    """Return the versions of a workload that were ever planned with, in order of their first use."""
    folder = _folder(workload_id)
    found = []
    for name in root.list(folder):
        if name.endswith(".json"):
            data = root.read_json(f"{folder}/{name}")
            found.append(Version(data["first_used"], _WORKLOAD.validate_python(data["workload"])))
    if not found:
        found = _planned(root, workload_id)
    return sorted(found, key=lambda version: (version.first_used, version.workload.sha256))


def resolve_held(root: ArtifactRoot, workload: Workload, path: str) -> Workload:
    """Return the workload with the whole hashes of the versions whose labels hold.

    Args:
        path: the workload's file, for messages.

    Raises:
        WorkloadError: a version is unknown, or several begin so; with file, line and key.
    """
    if not workload.labels_hold_from:
        return workload
    there = {version.workload.sha256: version for version in versions_of(root, workload.id)}
    whole = []
    for index, begin in enumerate(workload.labels_hold_from):
        fitting = [sha for sha in (*there, workload.sha256) if sha.startswith(begin)]
        if len(set(fitting)) != 1:
            named = ", ".join(f"{sha[:VERSION_DIGITS]} ({v.first_used[:10]})" for sha, v in there.items())
            raise WorkloadError(
                f"{place_of(path, 'labels_hold_from', index)}: {begin!r} begins "
                f"{'several versions' if fitting else 'no version'} of workload {workload.id!r}; there are: "
                f"{named or 'none yet'} (`flywheel workload` shows them)"
            )
        whole.append(fitting[0])
    return replace(workload, labels_hold_from=tuple(dict.fromkeys(whole)))


class Recognizer:
    """Tells which version of a workload's own prompt a record's messages are.

    Args:
        today: the version in force; of versions with the same prompt it is the one that is told.
        others: the other versions.
    """

    def __init__(self, today: Workload, others: Iterable[Workload]) -> None:
        prompts: dict[tuple[str, str, str], Workload] = {}
        held = set(today.labels_hold_from)
        # Of several versions with one prompt (aliases differ) today's counts, then one whose labels hold.
        for version in (today, *sorted(others, key=lambda version: version.sha256 not in held)):
            prompts.setdefault((version.system, version.before, version.after), version)
        # The longest first: a prompt that goes on where another one ends is not the other one.
        self._versions: Sequence[tuple[Workload, int]] = [
            (version, 2 if version.system else 1)
            for version in sorted(
                prompts.values(), key=lambda version: -len(version.before) - len(version.after)
            )
        ]

    def find(self, messages: list[Message]) -> tuple[Workload, str] | None:
        """Return the version and the text that its prompt was made for; None: it is none of them."""
        for version, expected in self._versions:
            if len(messages) == expected:
                text = version.text_of(messages)
                if text is not None:
                    return version, text
        return None


def _folder(workload_id: str) -> str:
    name = workload_id if workload_id.strip(".") else workload_id.replace(".", "-")
    return f"workloads/{name}"


def _write(root: ArtifactRoot, version: Version) -> None:
    workload = replace(version.workload, labels_hold_from=())  # a declaration is no part of a version
    root.write_json(
        f"{_folder(workload.id)}/{workload.sha256}.json",
        {"first_used": version.first_used, "workload": asdict(workload)},
    )


def _planned(root: ArtifactRoot, workload_id: str) -> list[Version]:
    """Return the versions in the plans of runs, each with its first one."""
    found: dict[str, Version] = {}
    for name in root.list("runs"):
        try:
            plan = root.read_json(f"runs/{name}/plan.json")
            workload = _WORKLOAD.validate_python(plan["workload"])
            version = Version(plan["created_at"], workload)
        except (ArtifactError, KeyError, TypeError, ValueError):
            log.debug("runs/%s: no plan that could be read", name)
            continue
        if workload.id == workload_id and workload.has_prompt:
            there = found.get(workload.sha256)
            if there is None or version.first_used < there.first_used:
                found[workload.sha256] = version
    return list(found.values())
