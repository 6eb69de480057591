"""The DAG with runtime nemo under a scheduler: the stand-in as a server, kills, and the table of runtime local.

A drill of `make drills`: three students on three sizes, as in table 1. tests/integration/test_nemo_dag.py is the
short form, without a scheduler.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.integration.airflow_stack import Stack, apart, make_home, report_of, wait_for
from tests.integration.nemo_stack import NemoServer, blueprint, with_weights

pytestmark = pytest.mark.drill

STUDENTS, SIZES = 3, [40, 80, 120]
HANG = 90.0

# Each is a call in the middle of which everything is killed; the services have done it (after), or not.
SEAMS = [
    {"name": "upload", "service": "datastore", "method": "PUT", "after": True},
    {"name": "commit", "service": "datastore", "method": "POST", "path": "/commit/"},
    {"name": "registered", "service": "entities", "method": "POST", "path": "/datasets", "after": True},
    {"name": "job made", "service": "customizer", "method": "POST", "path": "/jobs", "after": True},
    {"name": "job running", "service": "customizer", "method": "GET", "path": "/status"},
    {"name": "NIM deployed", "service": "deployment", "method": "POST", "after": True},
    {"name": "waiting for the NIM", "service": "nim", "method": "GET"},
    {"name": "evaluating", "service": "nim", "method": "POST"},
    {"name": "scored", "service": "evaluator", "method": "POST", "path": "/jobs", "after": True},
    {"name": "undeploying", "service": "deployment", "method": "DELETE"},
    {"name": "undeployed", "service": "deployment", "method": "DELETE", "after": True},
    {"name": "promoting", "service": "entities", "method": "POST", "path": "/v1/models", "after": True},
]


@pytest.fixture(scope="module")
def nemo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NemoServer]:
    server = NemoServer(tmp_path_factory.mktemp("nemo"))
    try:
        yield server
    finally:
        server.kill(signal.SIGTERM)


@pytest.fixture(scope="module")
def blueprint_stack(nemo: NemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Give an Airflow whose config is a file of the blueprint."""
    home = make_home(tmp_path_factory.mktemp("project") / "home")
    (home / "config.yaml").write_text(blueprint(nemo.url, home, STUDENTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_HOME", str(home))
        patch.setenv("FLYWHEEL_CONFIG", str(home / "config.yaml"))
        stack = Stack(home, {"AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10"})
        stack.launcher.start("triggerer")
        try:
            yield stack
        finally:
            stack.stop()


def turn(stack: Stack, run_id: str, **sections: Any) -> None:
    """Start a run of the blueprint's experiment on our headlines."""
    overrides = {
        "source": [{"path": "headlines.csv", "columns": {"human_label": "human_label"}}],
        "teacher": {"model": "stand-in", "concurrency": 4},
        "promotion": {"within": 1.0, "min_eval": 1},
        **sections,
    }
    stack.trigger(run_id, overrides, students=[], sizes=SIZES)


def on(nemo: NemoServer, folder: Path) -> dict[str, Any]:
    """Return the sections that say to run on some services, with data in a folder of its own."""
    urls = {f"{name}_base_url": f"{nemo.url}/{name}" for name in ("nemo", "nim")}
    urls["datastore_base_url"] = f"{nemo.url}/datastore"
    return apart(
        folder,
        runtime={"type": "nemo", "nemo": {"poll_seconds": 0.5}},
        nmp_config={**urls, "nmp_namespace": "mdfd"},
    )


@contextmanager
def on_this_machine(stack: Stack) -> Iterator[None]:
    """Have the DAG of runtime local for a while: a run cannot choose it."""
    file = stack.folder / "config.yaml"
    text = file.read_text()
    local = yaml.safe_load(text)
    nims = with_weights(local["nims"])
    file.write_text(yaml.safe_dump({**local, "runtime": {"type": "local"}, "nims": nims}))
    stack.airflow("dags", "reserialize")
    try:
        yield
    finally:
        file.write_text(text)
        stack.airflow("dags", "reserialize")


def table(folder: Path, run_id: str) -> dict[str, Any]:
    """Return the scores of the table; fail where something has none."""
    report = report_of(folder, run_id)
    rows = report["candidates"]
    assert all(row["state"] == "scored" for row in rows), rows
    found = {f"{row['student']} @ {row['size']}": row["score"] for row in rows}
    found.update({row["student"]: row["score"] for row in report["base"]})
    choice = report["decision"]["choice"]
    return {**found, "choice": (choice["student"], choice["size"], report["decision"]["state"])}


@pytest.fixture(scope="module")
def undisturbed(blueprint_stack: Stack) -> dict[str, Any]:
    """Give the table of a run without faults, with all that the file says."""
    turn(blueprint_stack, "nemo")
    assert blueprint_stack.wait("nemo", 1200) == "success", blueprint_stack.explain("nemo")
    return table(blueprint_stack.folder, "nemo")


def test_the_table_is_that_of_runtime_local(
    blueprint_stack: Stack, nemo: NemoServer, undisturbed: dict[str, Any], data: Path
) -> None:
    stats = nemo.stats()
    assert stats["wrong"] == []
    assert len(stats["deployed"]) == 1 and nemo.ask_champion()
    assert stats["counts"]["customizations made"] == len(SIZES) * STUDENTS
    assert stats["counts"]["datasets made"] == len(SIZES) + 1  # and that of all evaluations
    with on_this_machine(blueprint_stack):
        turn(blueprint_stack, "here", **apart(data))
        assert blueprint_stack.wait("here", 1200) == "success", blueprint_stack.explain("here")
    assert table(data, "here") == undisturbed


def test_the_alias_follows_a_person_who_promotes_and_rolls_back(
    blueprint_stack: Stack, nemo: NemoServer, undisturbed: dict[str, Any]
) -> None:
    student, size, _ = undisturbed["choice"]
    rows = report_of(blueprint_stack.folder, "nemo")["candidates"]
    other = next(row for row in rows if (row["student"], row["size"]) != (student, size))
    before = nemo.champion()["model_id"]
    api = httpx.Client(
        base_url=f"{blueprint_stack.api.url}/flywheel/api",
        headers={"Authorization": blueprint_stack.http.headers["Authorization"]},
        timeout=60,
        trust_env=False,
    )
    asked = {"run_id": "nemo", "student": other["student"], "size": other["size"]}
    assert api.post("/champion", json=asked).is_success
    wait_for(lambda: nemo.champion()["model_id"] != before, 240)
    assert nemo.ask_champion()
    assert api.post("/champion/rollback", json={"comment": "not good"}).is_success
    wait_for(lambda: nemo.champion()["model_id"] == before, 240)
    wait_for(lambda: len(nemo.stats()["deployed"]) == 1, 240)
    assert nemo.ask_champion()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[NemoServer]:
    """Give services that have nothing yet."""
    server = NemoServer(tmp_path / "nemo")
    try:
        yield server
    finally:
        server.kill(signal.SIGTERM)


def kill_all(stack: Stack) -> None:
    """Kill scheduler, workers and triggerer; wait until there are others."""
    killed = {name: stack.pids[name] for name in ("scheduler", "triggerer")}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    for name, pid in killed.items():
        _await_another(stack, name, pid)


def _await_another(stack: Stack, name: str, pid: int) -> None:
    wait_for(lambda: name in stack.given_up or stack.pids[name] != pid)
    if name in stack.given_up:  # it was killed more often than it is started again by itself
        stack.given_up.discard(name)
        stack.launcher.start(name)
        wait_for(lambda: stack.pids[name] != pid)


def nothing_twice(nemo: NemoServer) -> None:
    """Fail where a job was started twice, a file uploaded twice, or more than the champion's NIM is left."""
    stats = nemo.stats()
    assert stats["wrong"] == []
    assert len(stats["deployed"]) == 1 and nemo.ask_champion()
    for name, count in stats["counts"].items():
        if name.startswith(("customizations of", "uploads of")):
            assert count == 1, name


def test_kills_at_every_step_change_nothing(
    blueprint_stack: Stack, fresh: NemoServer, undisturbed: dict[str, Any], data: Path
) -> None:
    fresh.behave(faults=[{**seam, "times": 1, "seconds": HANG, "status": 0} for seam in SEAMS])
    left = {f"fault {seam['name']}" for seam in SEAMS}
    turn(blueprint_stack, "killed", **on(fresh, data))

    def reached() -> set[str]:
        return left & set(fresh.stats()["counts"])

    def has_ended() -> bool:
        return blueprint_stack.api.run_state("killed") in ("success", "failed")

    while left and wait_for(lambda: reached() or has_ended(), 600):
        seen = reached()
        if not seen:
            break
        left -= seen
        kill_all(blueprint_stack)
    assert left == set(), blueprint_stack.explain("killed")
    assert blueprint_stack.wait("killed", 900) == "success", blueprint_stack.explain("killed")
    assert table(data, "killed") == undisturbed
    nothing_twice(fresh)
    assert fresh.stats()["counts"]["customizations made"] == len(SIZES) * STUDENTS


def test_services_that_go_down_in_the_middle_change_nothing(
    blueprint_stack: Stack, fresh: NemoServer, undisturbed: dict[str, Any], data: Path
) -> None:
    turn(blueprint_stack, "down", **on(fresh, data))
    wait_for(lambda: fresh.stats()["counts"].get("customizations made"), 600)
    fresh.kill()
    fresh.start()
    assert blueprint_stack.wait("down", 900) == "success", blueprint_stack.explain("down")
    assert table(data, "down") == undisturbed
    nothing_twice(fresh)


def test_a_run_that_is_stopped_by_a_person_leaves_nothing(
    blueprint_stack: Stack, fresh: NemoServer, data: Path
) -> None:
    long = {"epochs": 200, "batch_size": 16}
    turn(blueprint_stack, "stopped", training_config=long, **on(fresh, data))

    def running() -> Any:
        query = {"filter[status]": "running"}
        return fresh.get("/nemo/v1/customization/jobs", **query)["data"]

    wait_for(running, 600)
    blueprint_stack.rest("PATCH", "/dags/flywheel/dagRuns/stopped", {"state": "failed"})
    wait_for(lambda: not running(), 120)
    wait_for(lambda: fresh.stats()["deployed"] == [], 120)
