"""The drill of ten nights: what a verdict rests on stays honest, whatever happens between the nights.

Ten nights of March 2019 over real headlines with dates alone and undated human labels. The prompt is edited after
the fourth, a class is added after the sixth (its version's labels are declared to hold), a person promotes and
rolls back after the eighth, and before the ninth somebody posts records that lie about their time and label. Each
night is looked at by means of its own: the file of headlines says what was known, and what the teacher said.

The stages run in this process, one after the other; the student is the smallest of the demo, after a few steps. The
data are not part of the project: FLYWHEEL_SHARED_DATA names their folder, default ../shared/data. `pytest -s` shows
a line for each night.
"""

from __future__ import annotations

import csv
import gzip
import os
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.curation.result import CurateResult
from flywheel.jobs.spec import CHAMPION
from flywheel.promotion.champion import read_champion
from flywheel.report import read_report
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.runtimes.job_command import run_job
from flywheel.sources import clean_text
from flywheel.stages import pipeline as wheel
from flywheel.stages.label import LabelResult
from flywheel.stores import open_store
from flywheel.web import promotion
from flywheel.workloads.lines import read_lines
from flywheel.workloads.records import Record, make_record
from flywheel.workloads.workload import Workload
from flywheel_stand_ins.teacher import StandIn
from tests.unit.teacher_servers import stand_in

PROJECT = Path(__file__).parents[2]
DATA = Path(os.environ.get("FLYWHEEL_SHARED_DATA") or PROJECT.parent / "shared" / "data")
HEADLINES = DATA / "headlines.csv.gz"
FROM, UNTIL = date(2019, 2, 4), date(2019, 3, 20)
FIRST_NIGHT = datetime(2019, 3, 6, 2, tzinfo=UTC)
NIGHTS = 10
UNDATED = 60
STUDENT, SIZE = "small", 300
CLIENT = "desk"
PARTS = ("train", "val", "calibration", "eval")

pytestmark = [
    pytest.mark.drill,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not HEADLINES.exists() and os.environ.get("CI") != "true",
        reason=f"{HEADLINES} is not there: set FLYWHEEL_SHARED_DATA",
    ),
]


class Oracle:
    """What the files say, read without the project's own code: first dates, the teacher's labels, undated texts."""

    def __init__(self, folder: Path) -> None:
        self.labels: dict[str, str] = {}
        self.dates: dict[str, str] = {}
        rows = []
        with gzip.open(HEADLINES, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if str(FROM) <= row["date"] <= str(UNTIL):
                    text = clean_text(row["headline"])
                    self.labels[text] = row["teacher_label"]
                    self.dates[text] = min(row["date"], self.dates.get(text, row["date"]))
                    rows.append([row["date"], row["headline"]])
        with (DATA / "human_labelled.csv").open(encoding="utf-8", newline="") as file:
            people = list(csv.DictReader(file))[:UNDATED]
        self.undated = {clean_text(row["headline"]) for row in people} - self.labels.keys()
        self.labels |= {clean_text(row["headline"]): row["teacher_label"] for row in people}
        _write(folder / "headlines.csv", ["date", "headline"], rows)
        _write(
            folder / "people.csv",
            ["headline", "human_label"],
            [[row["headline"], row["human_label"]] for row in people],
        )

    def known(self, cutoff: datetime) -> set[str]:
        """Return the dated texts that are known before a cutoff: those of the days that are over."""
        return {text for text, day in self.dates.items() if day < f"{cutoff:%Y-%m-%d}"}


def _write(path: Path, names: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


class Desk:
    """The flywheel of one desk: its files, and what a person does between the nights."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.workload_file = folder / "workload.yaml"
        self.workload_file.write_text((PROJECT / "include/workloads/news_classifier.yaml").read_text())
        self.root = ArtifactRoot(str(folder / "artifacts"))

    @property
    def config(self) -> Config:
        """The config as the file of now says."""
        folder = self.folder
        text = {"text": "headline"}
        data = {
            "client_id": CLIENT,
            "workload": str(self.workload_file),
            "nims": [
                {
                    "model_name": f"demo/{STUDENT}",
                    "name": STUDENT,
                    "weights": str(PROJECT / "include/flywheel/demo/students" / STUDENT),
                    "context_length": 2048,
                }
            ],
            "sizes": [SIZE],
            "source": [
                {"path": str(folder / "headlines.csv"), "columns": {**text, "timestamp": "date"}},
                {
                    "path": str(folder / "people.csv"),
                    "columns": {**text, "timestamp": None, "human_label": "human_label"},
                },
            ],
            "teacher": {"model": "stand-in", "base_url": self.url, "concurrency": 16},
            "store": {"path": str(folder / "records.sqlite")},
            "artifacts": {"root": self.root.url},
            "mlflow_config": {
                "tracking_uri": f"sqlite:///{folder}/mlflow.db",
                "artifact_location": str(folder / "mlruns"),
            },
            "data_split_config": {
                "split": "temporal",
                "eval_size": 400,
                "val_ratio": 0.05,
                "min_total_records": 500,
            },
            "lora_config": {"adapter_dropout": 0.0},
            "training_config": {"epochs": 1, "batch_size": 32, "learning_rate": 0.005, "validations": 0},
            "promotion": {"within": 1.0},
        }
        return validate_config(data, "drill")

    def edit(self, old: str, new: str) -> None:
        """Edit the workload file in one place."""
        text = self.workload_file.read_text()
        assert text.count(old) == 1
        self.workload_file.write_text(text.replace(old, new))

    def turn(self, number: int) -> Run:
        """Turn the wheel for a night, counted from one."""
        cutoff = FIRST_NIGHT + timedelta(days=number - 1)
        run = Run.create(make_plan(self.config, run_id=f"night-{number}", cutoff=cutoff))
        wheel.forecast(run)
        wheel.label(run)
        wheel.ingest(run)
        wheel.curate(run)
        if read_champion(self.root, run.plan.workload_id, CLIENT) is not None:
            run_job("evaluate", wheel.write_spec(run, "champion_eval", CHAMPION))
        run_job("customize", wheel.write_spec(run, "customize", STUDENT, SIZE))
        run_job("evaluate", wheel.write_spec(run, "evaluate", STUDENT, SIZE))
        wheel.score(run)
        wheel.promote(run)
        return run

    def promote_and_roll_back(self, run: Run) -> str:
        """Have a person promote a run's candidate and roll it back; return the adapter in force then."""
        user: Any = SimpleNamespace(get_name=lambda: "ada", get_id=lambda: "1")
        report = read_report(self.root, run.run_id)
        candidate = report.candidate(STUDENT, SIZE)
        assert candidate is not None
        promotion.promote(user, run.plan, report, STUDENT, SIZE, "looks better to me")
        champion, _ = promotion.roll_back(user, self.root, run.plan.workload_id, CLIENT, "it was not")
        assert champion.adapter != candidate.adapter
        return champion.adapter

    def post_lies(self, texts: list[str], seen_before: int) -> None:
        """Write what somebody posts: other labels for known texts, at time 0, in the future, and long ago."""
        workload = Workload.load(self.workload_file)
        now = int(time.time())
        lies = []
        for number, text in enumerate(texts):
            timestamp = (0, now + 10**8, seen_before)[number % 3]
            lies.append(
                make_record(
                    workload_id=workload.id,
                    client_id=CLIENT,
                    timestamp=timestamp,
                    model="stand-in",
                    messages=workload.messages(text),
                    answer=workload.answer_for("Dividends"),
                    label="Dividends",
                    # A third of them say that they arrived before the nights, at the worst.
                    known_at=seen_before if number % 3 == 2 else now,
                    labelled_by="posted",
                )
            )
        with open_store(self.config.store) as store:
            store.write(lies)


def lines_of(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines of a night's data set, each with its part."""
    folder = run.root.fetch("datasets", run.load("stages/curate", CurateResult).dataset)
    for part in PARTS:
        path = folder / f"{part}.jsonl"
        if path.exists():
            for line in read_lines(path):
                yield part, line


def look_at(run: Run, oracle: Oracle) -> dict[str, int]:
    """Check a night's data set; return the number of records of each part."""
    plan = run.plan
    known = oracle.known(datetime.fromtimestamp(plan.cutoff, UTC))
    sizes: dict[str, int] = {}
    texts: dict[str, str] = {}
    times: dict[str, list[int]] = {}
    for part, line in lines_of(run):
        sizes[part] = sizes.get(part, 0) + 1
        text = plan.workload.text_of(line["messages"][:-1])
        assert text is not None, f"{run.run_id}, {part}: a prompt that is not tonight's"
        assert text not in oracle.undated, f"{run.run_id}, {part}: an undated text: {text}"
        assert text in known, f"{run.run_id}, {part}: not known at the cutoff: {text}"
        assert line["known_at"] < plan.cutoff
        assert line["label"] == oracle.labels[text], f"{run.run_id}, {part}: not the teacher's label: {text}"
        times.setdefault(part, []).append(line["known_at"])
        assert texts.setdefault(text, part) == part, f"{run.run_id}: in {part} and {texts[text]}: {text}"
    assert max(times["train"]) <= min(times["eval"]), f"{run.run_id}: trained on what came after its eval set"
    return sizes


def test_ten_nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLYWHEEL_TEACHER_BASE_URL", "FLYWHEEL_TEACHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    oracle = Oracle(tmp_path)
    with stand_in(oracle.labels) as (url, teacher):
        desk = Desk(tmp_path, url)
        monkeypatch.setattr("flywheel.web.settings.config", lambda: desk.config)
        # Airflow, which is not here, would be told by an event.
        monkeypatch.setattr("flywheel.web.airflow_actions.tell_of_champion", lambda *_: None)
        live_through(desk, oracle, teacher)


def live_through(desk: Desk, oracle: Oracle, teacher: StandIn) -> None:
    """Turn ten nights, with what happens between them."""
    versions, calls, rolled_back_to = [], 0, ""
    for number in range(1, NIGHTS + 1):
        started = time.monotonic()
        run = desk.turn(number)
        labelled = run.load("stages/label", LabelResult)
        curated = run.load("stages/curate", CurateResult)
        forecast = run.root.read_json(f"{run.path}/forecast.json")
        sizes = look_at(run, oracle)
        standing = read_champion(desk.root, run.plan.workload_id, CLIENT)
        versions.append(run.plan.workload.sha256)
        known = oracle.known(FIRST_NIGHT + timedelta(days=number - 1))

        # What plan said was asked, and no more; the teacher was paid for each text once a version.
        assert forecast["ask"] == labelled.asked == teacher.calls["calls"] - calls
        calls = teacher.calls["calls"]
        assert sizes["eval"] == 400
        assert labelled.human is not None
        if number == 1:
            assert labelled.asked == len(known | oracle.undated)
        elif number == 5:  # the prompt was edited: everything anew, and nothing of before in the data set
            assert labelled.asked == len(known | oracle.undated)
            assert set(curated.prompts.other_version) == {versions[3][:12]}
            assert not curated.prompts.taken_over
        else:  # the day's own, also where a class was added and the labels of before hold
            assert labelled.asked < 150
        if number >= 7:
            assert curated.prompts.taken_over[versions[5][:12]] > 500
            assert curated.prompts.other_version.keys() == {versions[3][:12]}
        if rolled_back_to:
            assert standing is not None
            assert standing.adapter == rolled_back_to, f"{run.run_id} undid a person's roll-back"
        print(
            f"night {number}: {labelled.asked} asked, {labelled.found} found, {sizes}, "
            f"{curated.prompts.left_out} left out, {sum(curated.prompts.taken_over.values())} taken over, "
            f"champion {standing.adapter[:8] if standing else 'none'}, {time.monotonic() - started:.1f} s"
        )

        if number == 4:
            desk.edit("Sort a financial news headline", "Put a financial news headline")
        elif number == 6:
            desk.edit("\nclasses:\n", f'\nlabels_hold_from: ["{versions[5][:12]}"]\n\nclasses:\n')
            desk.edit(
                "\nclasses:\n",
                "\nclasses:\n  - name: Weather\n    when: storms, floods or droughts.\n",
            )
        elif number == 8:
            rolled_back_to = desk.promote_and_roll_back(run)
            desk.post_lies(sorted(known)[:300], int(FIRST_NIGHT.timestamp()) - 10 * 86400)
    assert len(set(versions)) == 3
    assert_posts_are_there(desk)


def assert_posts_are_there(desk: Desk) -> None:
    """The lies are in the store: that they did nothing is not for their being refused."""
    with open_store(desk.config.store) as store:
        there: list[Record] = [
            record
            for record in store.read("news_classifier", CLIENT, 1 << 34)
            if record.labelled_by == "posted"
        ]
    assert len(there) >= 200
