"""Forgetting and pruning know production's requests: in the store, on their way there, and in the nights."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

from flywheel.artifacts.root import ArtifactRoot
from flywheel.forgetting.base import Whose
from flywheel.forgetting.forget import find, forget
from flywheel.forgetting.prune import prune
from flywheel.serving.nights import nights
from flywheel.serving.traffic import Segments, traffic_scope
from flywheel.serving.traffic.shipping import traffic_folder
from flywheel.stages.watch import watch
from flywheel.stores import open_store
from tests.unit.test_traffic import FAR, WORKLOAD, config_of
from tests.unit.test_watch import NIGHT, asked, at, keep


def test_a_client_is_forgotten_in_the_store_on_the_way_there_and_in_the_nights(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    root = ArtifactRoot(config.artifacts.root)
    root.write_json("mark.json", {})
    keep(config, [asked(1, at(-1), "Acme raises its dividend", audit=False)])
    other = asked(2, at(-1), "Bolt cuts jobs", audit=False).model_copy(update={"client_id": "other"})
    keep(config, [other])
    watch(config, NIGHT)
    watch(config, NIGHT + timedelta(days=1), "other")

    async def write() -> None:
        segments = Segments(traffic_folder(config))
        await segments.append(asked(3, at(1), "Acme is bought").line())
        await segments.append(other.model_copy(update={"id": "chatcmpl-4"}).line())
        await segments.close()

    asyncio.run(write())
    (traffic_folder(config) / "refused.txt").write_bytes(b"too long\t" + asked(5, at(1), "Acme").line())
    findings = find(config, Whose("desk"))
    assert sum(item.count for item in findings.items["production"]) == 3
    forget(config, findings, by="a person")
    assert find(config, Whose("desk")).is_empty
    assert nights(root, WORKLOAD.id, "desk") == []
    assert len(nights(root, WORKLOAD.id, "other")) == 1
    with open_store(config.store) as store:
        assert store.count(*traffic_scope(WORKLOAD.id, "desk"), FAR) == 0
        assert store.count(*traffic_scope(WORKLOAD.id, "other"), FAR) == 1
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"Acme" not in left and b"chatcmpl-4" in left


def test_a_workloads_forgetting_takes_its_production_with_it(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    ArtifactRoot(config.artifacts.root).write_json("mark.json", {})
    keep(config, [asked(1, at(-1), "Acme raises its dividend")])
    assert find(config, Whose("desk", "another")).is_empty
    assert not find(config, Whose("desk", WORKLOAD.id)).is_empty


def test_requests_in_the_store_go_when_they_are_old_and_others_stay(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    ArtifactRoot(config.artifacts.root).write_json("mark.json", {})
    now = time.time()
    keep(
        config, [asked(1, now - 40 * 86_400, "Acme cuts jobs"), asked(2, now - 5 * 86_400, "Bolt cuts jobs")]
    )
    prune(config, remove=True)
    scope = traffic_scope(WORKLOAD.id, "desk")
    with open_store(config.store) as store:
        assert store.count(*scope, FAR) == 2
    aged = config.model_copy(
        update={"retention": config.retention.model_copy(update={"production_days": 30.0})}
    )
    assert [item.count for item in prune(aged, remove=True).items["store"]] == [1]
    with open_store(config.store) as store:
        assert [record.messages[-1]["content"] for record in store.read(*scope, FAR)] == ["Bolt cuts jobs"]


def test_what_no_store_took_and_what_was_half_made_goes_when_it_is_old(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    ArtifactRoot(config.artifacts.root).write_json("mark.json", {})
    folder = traffic_folder(config)
    folder.mkdir(parents=True)
    for name in ("refused.txt", ".1-a.aside", "2-b.jsonl"):
        (folder / name).write_text("x\n")
        os.utime(folder / name, (time.time() - 1e7,) * 2)
    prune(config, remove=True)
    assert [path.name for path in folder.iterdir()] == ["2-b.jsonl"]
