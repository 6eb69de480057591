"""The versions of a workload's prompt for people: `flywheel workload`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from flywheel.stores import open_store
from flywheel.workloads.versions import Recognizer, resolve_held, versions_of
from flywheel.workloads.workload import Workload


def lines(config: Config, client_id: str = "") -> Iterator[str]:
    """Yield a line for each version of the config's workload, and one for other prompts.

    Args:
        client_id: whose records are counted; empty: the config's.
    """
    root = ArtifactRoot(config.artifacts.root)
    today = resolve_held(root, Workload.load(config.workload), config.workload)
    if not today.has_prompt:
        yield f"{today.id}: applications log it, and it has no prompt of its own"
        return
    versions = versions_of(root, today.id)
    recognizer = Recognizer(today, [version.workload for version in versions])
    records: Counter[str] = Counter()
    with open_store(config.store) as store:
        for record in store.read(today.id, client_id or config.client_id, int(time.time()) + 1):
            found = recognizer.find(record.messages)
            records[found[0].sha256 if found else ""] += 1
    since = {version.workload.sha256: version.first_used[:10] for version in versions}
    yield f"{'version':12}  {'first used':10}  {'records':>9}"
    for sha in dict.fromkeys([*since, today.sha256]):
        mark = "  in force" if sha == today.sha256 else ""
        mark += "  labels hold" if sha in today.labels_hold_from else ""
        yield f"{sha[:12]:12}  {since.get(sha, 'not yet'):10}  {records[sha]:9,}{mark}"
    if records[""]:
        yield f"{'other prompts':24}  {records['']:9,}"
