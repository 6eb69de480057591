"""A backfill names its nights and their cost, and gives each night what its own run would have given."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from playwright.sync_api import expect

from flywheel.artifacts.root import ArtifactRoot
from flywheel.curation.result import CurateResult
from flywheel.promotion.costs import costs_so_far
from flywheel.runs.run import Run
from flywheel.stages.label import LabelResult
from tests.integration.airflow_stack import Stack, apart, report_of, wait_for
from tests.integration.browser import Watched, axe_faults, log_in, open_browser

pytestmark = pytest.mark.slow

# New York puts its clocks forward on 9 March 2025.
DAYS = ("2025-03-07", "2025-03-11")
LINEAR = {"model_name": "tfidf", "name": "linear", "family": "linear", "gpus": 0}
NIGHTS = [f"2025-03-{day:02}" for day in range(7, 12)]


def test_five_nights_over_a_change_of_the_clock_are_as_they_were_named(stack: Stack, data: Path) -> None:
    prices = {"prompt": 2.0, "completion": 8.0, "currency": "USD"}
    with stack.configured(apart(data, nims=[LINEAR], sizes=[40], teacher={"prices": prices})):
        make_five_nights(stack, data)

    # The DAG is read anew, and no night of this year starts by itself.
    stack.airflow("dags", "reserialize")
    (dag,) = [one for one in stack.rest("GET", "/dags")["dags"] if one["dag_id"] == "flywheel"]
    assert datetime.fromisoformat(dag["next_dagrun_run_after"]) > datetime.now(UTC)
    assert stack.rest("GET", "/dags/flywheel/dagRuns?run_type=scheduled")["dag_runs"] == []


def make_five_nights(stack: Stack, data: Path) -> None:
    calls = stack.teacher_calls()
    command = ("backfill", *DAYS)

    named = stack.flywheel(*command, "--dry-run")
    assert named.returncode == 0, named.stderr
    assert re.findall(r"^(\S+) .* will be made$", named.stdout, re.MULTILINE) == NIGHTS
    told = re.search(
        r"([\d,]+) answers will be asked .* about ([\d,]+) tokens and ([\d.,]+) USD", named.stdout
    )
    assert told, named.stdout
    ask, tokens, cost = (float(part.replace(",", "")) for part in told.groups())

    refused = stack.flywheel(*command)
    assert refused.returncode == 1
    assert "run this again with --yes" in refused.stderr
    assert stack.teacher_calls() == calls

    # Who stops looking on does not stop it; the same command looks on again.
    with stack.flywheel_running(*command, "--yes") as started:
        wait_for(lambda: "has started" in started.stdout.readline())
        started.send_signal(signal.SIGINT)
        assert "goes on" in started.stdout.read()
    assert started.returncode == 130

    done = stack.flywheel(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\S+)  success", done.stdout, re.MULTILINE) == NIGHTS
    runs = stack.rest("GET", "/dags/flywheel/dagRuns?run_type=backfill&order_by=logical_date")["dag_runs"]
    runs = [run for run in runs if run["logical_date"] < "2025-04"]
    assert len(runs) == len(NIGHTS)

    root, labels, before = ArtifactRoot(str(data / "artifacts")), [], ""
    for run_id, began in ((run["dag_run_id"], run["start_date"]) for run in runs):
        assert began >= before  # one after another, in order of time
        before = began
        run = Run(root, run_id)
        night = datetime.fromtimestamp(run.plan.cutoff, UTC)
        assert night.strftime("%Y-%m-%dT%H") in run_id
        labels.append(run.load("stages/label", LabelResult))
        curated = run.load("stages/curate", CurateResult)
        for part in ("train", "val", "eval"):
            lines = (root.fetch("datasets", curated.dataset) / f"{part}.jsonl").read_bytes().splitlines()
            assert all(orjson.loads(line)["timestamp"] < run.plan.cutoff for line in lines)
        assert report_of(data, run_id)["candidates"][0]["state"] == "scored"
    assert [label.headlines for label in labels] == sorted(label.headlines for label in labels)

    # Each headline was labelled once: all of them are in the last night. And it cost what was said.
    asked = sum(label.asked for label in labels)
    assert asked == stack.teacher_calls() - calls == labels[-1].headlines == ask
    assert sum(label.prompt_tokens + label.completion_tokens for label in labels) == pytest.approx(
        tokens, rel=0.1
    )
    assert sum(label.cost for label in labels) == pytest.approx(cost, rel=0.1)

    # Machines are forecast by what these nights took.
    ahead = stack.flywheel("backfill", "2025-03-12", "2025-03-13", "--dry-run")
    (hours,) = re.findall(r"; machines: about (\S+) hours", " ".join(ahead.stdout.split()))
    known = costs_so_far(root, run.plan.workload_id, run.plan.client_id, "UTC")
    assert known is not None
    most = max(cost.cpu_hours for cost in known.runs.values())
    assert float(hours) == pytest.approx(2 * most, rel=0.01) and most > 0

    again = stack.flywheel(*command, "--yes")
    assert again.returncode == 0, again.stderr
    assert re.findall(r"^(\S+) .* is there$", again.stdout, re.MULTILINE) == NIGHTS
    assert stack.teacher_calls() - calls == asked


def test_the_page_names_the_nights_starts_them_and_cancels_what_has_not_begun(stack: Stack) -> None:
    expect.set_options(timeout=60_000)
    with open_browser() as browser:
        token = stack.http.headers["Authorization"].removeprefix("Bearer ")
        missing = ("status of 404",)  # there may be no champion yet
        watched = Watched(log_in(browser, stack.api.url, token).new_page(), missing)
        page = watched.page
        page.goto(f"{stack.api.url}/plugin/flywheel?view=runs")
        page.get_by_role("button", name="Backfill nights").click()
        dialog = page.get_by_role("dialog", name="Backfill nights")
        dialog.get_by_label("From").fill("2025-06-02")
        dialog.get_by_label("To, included").fill("2025-06-03")
        expect(dialog.get_by_text("2 nights to make")).to_be_visible()
        expect(dialog).to_contain_text("answers will be asked of the teacher")
        expect(dialog.get_by_role("rowheader")).to_have_text(["2025-06-02", "2025-06-03"])
        assert axe_faults(page, ".flywheel") == []

        dialog.get_by_role("button", name="Make 2 nights").click()
        expect(dialog.get_by_text("of 2 nights")).to_be_visible()
        dialog.get_by_role("button", name="Cancel what has not begun").click()
        expect(dialog.get_by_text("the rest was cancelled")).to_be_visible()
        dialog.get_by_role("button", name="Close").click()
        expect(page.get_by_role("button", name="Backfill nights")).to_be_focused()
        assert not watched.complaints
    for run in stack.rest("GET", "/dags/flywheel/dagRuns?run_type=backfill&limit=100")["dag_runs"]:
        if run["logical_date"] > "2025-06" and run["state"] == "running":
            stack.api.fail_run(run["dag_run_id"])
