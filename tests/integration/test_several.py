"""Three experiments at once on one machine, and one that is broken beside them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import expect

from examples.sentiment import teacher, write_headlines
from flywheel.artifacts.root import ArtifactRoot
from flywheel.runs.run import Run
from flywheel.stages.label import LabelResult
from tests.integration.airflow_stack import PROJECT, Stack, make_home, wait_for
from tests.integration.browser import Watched, axe_faults, log_in, open_browser

pytestmark = pytest.mark.slow

LINEAR = {"model_name": "tfidf", "name": "linear", "family": "linear", "gpus": 0}
NIGHT = "night"
# By experiment: the workload and client that its champion is of. Two are of one workload and its headlines.
WHOSE = {
    "": ("news_classifier", "test"),
    "sentiment": ("sentiment", "desk"),
    "twin": ("news_classifier", "twin"),
}


@pytest.fixture(scope="module")
def sentiment_teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Give the address of a teacher of the second workload, and its headlines."""
    file = tmp_path_factory.mktemp("sentiment") / "news.csv"
    write_headlines(file, 400)
    with teacher(file) as address:
        yield address, file


@pytest.fixture(scope="module")
def several(sentiment_teacher: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    address, file = sentiment_teacher
    home = make_home(tmp_path_factory.mktemp("several") / "home", nims=[LINEAR], sizes=[40, 120])
    shutil.copyfile(PROJECT / "examples/sentiment.yaml", home / "sentiment.yaml")
    write(home, "twin", extends="../config.yaml", sizes=[40], dag={"owner": "research", "tags": ["twin"]})
    write(
        home,
        "sentiment",
        extends="../config.yaml",
        client_id="desk",
        workload="sentiment.yaml",
        source={"path": str(file), "columns": {"text": "headline", "timestamp": "date"}},
        teacher={"base_url": address},
    )
    (home / "experiments/broken.yaml").write_text("extends: ../config.yaml\ntraining_config:\n  epoch: 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_HOME", str(home))
        patch.setenv("FLYWHEEL_CONFIG", str(home / "config.yaml"))
        stack = Stack(home)
        stack.launcher.start("dag-processor")
        try:
            yield stack
        finally:
            stack.stop()


def write(home: Path, name: str, **sections: Any) -> None:
    (home / "experiments").mkdir(exist_ok=True)
    (home / f"experiments/{name}.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))


def dag_of(name: str) -> str:
    return f"flywheel_{name}" if name else "flywheel"


def run_of(name: str) -> str:
    return f"{name}@{NIGHT}" if name else NIGHT


def ask(stack: Stack, method: str, path: str, **given: Any) -> Any:
    answer = stack.http.request(method, f"/flywheel/api{path}", **given)
    assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
    return answer.json()


def test_experiments_run_at_once_each_to_its_champion_and_a_broken_one_is_told(
    several: Stack, sentiment_teacher: tuple[str, Path]
) -> None:
    active = {dag["dag_id"]: dag for dag in several.rest("GET", "/dags?exclude_stale=true")["dags"]}
    assert set(active) >= {dag_of(name) for name in WHOSE} and "flywheel_broken" not in active
    assert {tag["name"] for tag in active["flywheel_twin"]["tags"]} == {"distillation", "flywheel", "twin"}
    assert "research" in active["flywheel_twin"]["owners"]
    (error,) = wait_for(lambda: several.rest("GET", "/importErrors")["import_errors"])
    assert error["filename"].endswith("experiment_broken.py")
    assert (
        f"{several.folder}/experiments/broken.yaml, line 3: training_config.epoch: no such key; "
        "the nearest valid key is 'epochs'" in error["stack_trace"]
    )

    for name in WHOSE:  # all have one id, as nights of one schedule have
        body = {"dag_run_id": NIGHT, "logical_date": None, "conf": {}}
        several.rest("POST", f"/dags/{dag_of(name)}/dagRuns", body)
    for name in WHOSE:
        assert several.wait(run_of(name), 300) == "success", several.explain(run_of(name))

    # Each has its champion, and no other's.
    for name, (workload, client) in WHOSE.items():
        champion = ask(several, "GET", f"/champion?workload_id={workload}&client_id={client}")
        assert (champion["run_id"], champion["client_id"]) == (run_of(name), client)
        run = ask(several, "GET", f"/runs/{run_of(name)}")
        assert (run["experiment"], run["workload_id"], run["client_id"]) == (name, workload, client)
        assert run["links"]["airflow"] == f"/dags/{dag_of(name)}/runs/{NIGHT}"
        assert run["report"]["tracking"]["experiment"] == f"flywheel-{workload}{f'-{name}' if name else ''}"
        (line,) = ask(several, "GET", f"/runs?experiment={name}")["runs"]
        assert line["run_id"] == run_of(name)
    assert len(ask(several, "GET", "/runs")["runs"]) == len(WHOSE)

    # Two have the same headlines of one workload: each was asked for once over both.
    root = ArtifactRoot(str(several.folder / "artifacts"))
    labelled = {name: Run(root, run_of(name)).load("stages/label", LabelResult) for name in WHOSE}
    first, twin = labelled[""], labelled["twin"]
    assert first.asked + twin.asked == several.teacher_calls() == first.headlines == twin.headlines
    there = httpx.get(f"{sentiment_teacher[0].removesuffix('/v1')}/stats", trust_env=False).json()["calls"]
    assert there == labelled["sentiment"].asked == labelled["sentiment"].headlines


def test_a_job_starts_the_experiment_of_its_workload_and_client_else_config_yamls(several: Stack) -> None:
    whose = {"sentiment@api__": ("sentiment", "desk"), "api__": ("sentiment", "somebody")}
    for begins, (workload, client) in whose.items():
        job = ask(several, "POST", "/jobs", json={"workload_id": workload, "client_id": client})
        assert job["id"].startswith(begins)
        assert [one["id"] for one in ask(several, "GET", "/jobs")["jobs"] if one["id"] == job["id"]]
        assert ask(several, "POST", f"/jobs/{job['id']}/cancel")["id"] == job["id"]
        wait_for(lambda job=job: several.api.run_state(job["id"]) == "failed")
        run = ask(several, "GET", f"/runs/{job['id']}")
        assert (run["state"], run["workload_id"], run["client_id"]) == ("cancelled", workload, client)


def test_commands_take_an_experiment(several: Stack) -> None:
    shown = several.flywheel("champion", "show", "--experiment", "sentiment")
    assert f"of run {run_of('sentiment')}" in shown.stdout, shown.stderr
    told = several.flywheel("report", run_of("twin"))
    assert "linear" in told.stdout, told.stderr
    doctor = several.flywheel("doctor")
    assert "broken.yaml, line 3: training_config.epoch" in doctor.stdout


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 1440), ("light", 390)])
def test_one_screen_shows_all_experiments(several: Stack, tmp_path: Path, theme: str, width: int) -> None:
    expect.set_options(timeout=30_000)
    with open_browser() as browser:
        token = str(several.http.headers["Authorization"]).removeprefix("Bearer ")
        watched = Watched(log_in(browser, several.api.url, token, theme=theme, width=width).new_page())
        page = watched.page
        page.goto(f"{several.api.url}/plugin/flywheel?view=runs")
        table = page.get_by_role("region", name="Experiments")
        names = table.get_by_role("rowheader")
        expect(names).to_have_count(4)
        expect(names.nth(0)).to_contain_text("config.yaml")
        expect(names.nth(2)).to_contain_text("sentiment · desk")
        broken = table.get_by_role("row").filter(has_text="wrong file")
        expect(broken).to_contain_text("broken.yaml, line 3: training_config.epoch")
        expect(table.get_by_role("link", name=re.compile(r"linear @ \d+"))).to_have_count(3)
        overflow = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow <= 0
        shown = table.bounding_box()
        assert shown is not None and shown["x"] >= 0 and shown["x"] + shown["width"] <= width
        assert table.evaluate("one => one.scrollWidth - one.clientWidth") <= 0  # nothing is off the screen
        assert axe_faults(page, ".flywheel") == []
        page.screenshot(path=tmp_path / f"experiments-{theme}-{width}.png", full_page=True)

        page.get_by_label("Experiment", exact=True).select_option("sentiment")
        rows = page.get_by_role("region", name="Runs").get_by_role("rowheader")
        expect(rows.first).to_contain_text("sentiment@")
        expect(page.get_by_role("region", name="Runs")).not_to_contain_text("twin@")
        rows.get_by_role("link", name=run_of("sentiment")).focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(run_of("sentiment"))
        expect(page.get_by_role("link", name=re.compile("linear @ 120: F1"))).to_be_in_viewport(ratio=1)
        page.screenshot(path=tmp_path / f"run-{theme}-{width}.png", full_page=True)
        assert not watched.complaints


def test_a_dags_own_page_shows_its_experiment_alone(several: Stack) -> None:
    expect.set_options(timeout=30_000)
    with open_browser() as browser:
        token = str(several.http.headers["Authorization"]).removeprefix("Bearer ")
        watched = Watched(log_in(browser, several.api.url, token).new_page())
        page = watched.page
        page.goto(f"{several.api.url}/dags/flywheel_twin/plugin/flywheel-results")
        expect(page.locator(".card.champion")).to_contain_text("In production for news_classifier · twin")
        rows = page.get_by_role("region", name="Runs").get_by_role("rowheader")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text(run_of("twin"))
        page.goto(f"{several.api.url}/dags/flywheel_twin/runs/{NIGHT}/plugin/flywheel-run")
        expect(page.get_by_role("heading", level=1)).to_have_text(run_of("twin"))
        assert not watched.complaints
