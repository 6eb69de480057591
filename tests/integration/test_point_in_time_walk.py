"""One night of the past, stage by stage: nothing that any of the seven reads was known after its cutoff.

Whatever was known later, or has no time, carries a mark in its text. A hook sees each file that the process
opens and each record that the store gives, by stage, and none of it may have a mark: the sources themselves
excepted, which `label` and `ingest` have to read to know what is later.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flywheel.config.loading import validate_config
from flywheel.demo.headlines import generate
from flywheel.jobs.spec import CHAMPION
from flywheel.promotion.champion import read_champion
from flywheel.promotion.timeline import Entry, Timeline, now
from flywheel.report.model import Report
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.runtimes.job_command import run_job
from flywheel.stages import pipeline as wheel
from flywheel.stores.sqlite import SqliteStore
from flywheel.workloads.records import Record, make_record
from flywheel.workloads.workload import Workload
from tests.unit.champions import place_hold, put_in_force
from tests.unit.kept_in import kept_in
from tests.unit.teacher_servers import stand_in

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
OWN = ("news_classifier", "desk")
# Marks of what was known at or after the cutoff, of what has no time, and of another version of the prompt.
LATER, UNDATED, EDITED = "zzlater", "zzundated", "zzedited"
START = datetime(2024, 3, 1, tzinfo=UTC)
FIRST, CUTOFF, LAST = (START + timedelta(days=days, hours=2) for days in (5, 8, 20))
STAGES = ("label", "ingest", "curate", "customize", "evaluate", "score", "promote")

_listeners: list[Callable[[str], None]] = []
sys.addaudithook(
    lambda event, given: [tell(str(given[0])) for tell in _listeners] and None if event == "open" else None
)


class Spy:
    """What the stages read: files, and records of the store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage = ""
        self.files: dict[str, set[Path]] = defaultdict(set)
        self.records: dict[str, list[tuple[int | None, str]]] = defaultdict(list)
        for name in ("read", "get"):
            self._watch(monkeypatch, name, lambda record: (record.known_at, json.dumps(record.to_json())))
        self._watch(monkeypatch, "read_known", lambda known: (known[1], known[0]))

    def _watch(
        self, monkeypatch: pytest.MonkeyPatch, name: str, told: Callable[[Any], tuple[int, str]]
    ) -> None:
        original = getattr(SqliteStore, name)

        def watched(store: SqliteStore, *given: Any) -> Iterator[Any]:
            for one in original(store, *given):
                if self.stage:
                    self.records[self.stage].append(told(one))
                yield one

        monkeypatch.setattr(SqliteStore, name, watched)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Watch a stage."""

        def hear(path: str) -> None:
            self.files[stage].add(Path(path))

        self.stage = stage
        _listeners.append(hear)
        try:
            yield
        finally:
            _listeners.remove(hear)
            self.stage = ""


def texts_with_times() -> list[tuple[str, str, str, str]]:
    """Return headlines with a date or a time, a person's label or none, and the teacher's label."""
    rows = []
    for number, item in enumerate(generate(520, seed=4)):
        # Two of three with a time of day; the third is known when its day has ended.
        when = START + timedelta(days=number % 10, hours=(number * 5) % 24, minutes=number % 60)
        date = f"{when:%Y-%m-%d}" if number % 3 == 0 else f"{when:%Y-%m-%dT%H:%M}"
        known = when.replace(hour=23, minute=59, second=59) if number % 3 == 0 else when
        text = f"{item.text} {LATER}" if known >= CUTOFF else item.text
        rows.append((text, date, item.human_label if number % 2 else "", item.teacher_label))
    return rows


def later_posts() -> list[Record]:
    """Return what lies in the store already: posts that came later, and a record of an edited prompt."""
    edited = WORKLOAD.messages(f"Acme pays {EDITED}")
    edited[0] = {**edited[0], "content": "Say another thing. " + str(edited[0]["content"])}
    late = [
        make_record(
            workload_id=OWN[0],
            client_id=OWN[1],
            timestamp=int(CUTOFF.timestamp()) - 3600,  # it says that it is older than it is
            model="m",
            messages=WORKLOAD.messages(f"Bolt {number} pays {LATER}"),
            answer=WORKLOAD.answer_for("Dividends"),
            label="Dividends",
            known_at=int(CUTOFF.timestamp()) + number,
            labelled_by="posted",
        )
        for number in range(40)
    ]
    known = int(FIRST.timestamp()) - 7200
    other = make_record(
        workload_id=OWN[0],
        client_id=OWN[1],
        timestamp=known,
        model="m",
        messages=edited,
        answer=WORKLOAD.answer_for("Dividends"),
        label="Dividends",
        known_at=known,
        labelled_by="teacher",
    )
    return [*late, other]


def config_of(folder: Path, url: str) -> dict[str, Any]:
    rows = texts_with_times()
    with (folder / "headlines.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["headline", "date", "human"])
        writer.writerows(row[:3] for row in rows)
    (folder / "undated.csv").write_text(f"headline,human\nCore pays {UNDATED},Dividends\n")
    return {
        "client_id": "desk",
        "workload": "include/workloads/news_classifier.yaml",
        "source": [
            {"path": str(folder / "headlines.csv"), "columns": {"human_label": "human"}},
            {"path": str(folder / "undated.csv"), "columns": {"human_label": "human", "timestamp": None}},
        ],
        "teacher": {"model": "stand-in", "base_url": url, "concurrency": 16},
        "nims": [
            {"model_name": "test/small", "name": "small", "weights": "include/flywheel/demo/students/small"}
        ],
        "sizes": [200],
        "data_split_config": {
            "split": "temporal",
            "gap_days": 0.1,
            "eval_size": 60,
            "val_ratio": 0.05,
            "min_total_records": 50,
        },
        "training_config": {"batch_size": 32, "epochs": 3, "learning_rate": 0.005, "validations": 0},
        "promotion": {"within": 0.95, "min_eval": 1},
        **kept_in(folder),
    }


def night(config: dict[str, Any], run_id: str, cutoff: datetime, spy: Spy, **more: Any) -> Run:
    """Do all seven stages of a night under the spy."""
    run = Run.create(make_plan(validate_config(config, "test"), run_id=run_id, cutoff=cutoff, **more))
    has_champion = bool(Timeline.of(run.root, run.plan).names())
    for stage in ("label", "ingest", "curate"):
        with spy.during(stage):
            getattr(wheel, stage)(run)
    with spy.during("customize"):
        run_job("customize", wheel.write_spec(run, "customize", "small", run.candidates[0].size))
    with spy.during("evaluate"):
        run_job("evaluate", wheel.write_spec(run, "base_eval", "small"))
        run_job("evaluate", wheel.write_spec(run, "evaluate", "small", run.candidates[0].size))
        if has_champion:
            run_job("evaluate", wheel.write_spec(run, "champion_eval", CHAMPION))
    for stage in ("score", "promote"):
        with spy.during(stage):
            getattr(wheel, stage)(run)
    return run


def report_of(run: Run) -> Report:
    return Report.model_validate(run.root.read_json(f"{run.path}/report.json"))


def content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


@pytest.mark.timeout(1200)
def test_nothing_that_any_of_the_seven_stages_reads_was_known_after_the_cutoff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {text: teacher for text, _, _, teacher in texts_with_times()}
    spy, none = Spy(monkeypatch), Spy(pytest.MonkeyPatch())
    with stand_in({**labels, f"Core pays {UNDATED}": "Dividends"}) as (url, _):
        config = config_of(tmp_path, url)
        first = night(config, "first", FIRST, none)
        before = read_champion(first.root, *OWN)
        assert before is not None, report_of(first).verdict
        # Since then a later night has promoted, and a person has rolled something back: both are unknown
        # to a night before them.
        later = before.model_copy(
            update={"adapter": "f" * 20, "run_id": "later", "cutoff": int(LAST.timestamp()), "size": 999}
        )
        later = put_in_force(first.root, later)
        entry = {
            "kind": "night",
            "run_id": "later",
            "decision": "promoted",
            "reason": "",
            "written_at": now(),
        }
        Timeline(first.root, *OWN).write(
            Entry(at=int(LAST.timestamp()), champion=later, before=before.adapter, **entry)
        )
        place_hold(
            first.root, *OWN, dataset=before.dataset, adapter=before.adapter, by="vera", why="rolled back"
        )
        with SqliteStore(tmp_path / "records.sqlite") as store:
            store.write(later_posts())
        run = night(config, "past", CUTOFF, spy, is_backfill=True)

    report = report_of(run)
    assert set(spy.files) == set(STAGES)
    for stage in STAGES:
        # The champion in force is asked one thing: whether it comes from a later night; decisions for their
        # time.
        own = [
            path
            for path in spy.files[stage]
            if path.is_file()
            and path.is_relative_to(tmp_path / "artifacts")
            and path.parent.name != "decisions"
        ]
        assert own or stage == "label", stage
        marks = (LATER, "f" * 20, *((UNDATED, EDITED) if stage != "label" else ()))
        for path in own:
            data = content(path)
            assert not [mark for mark in marks if mark.encode() in data], (stage, path)
        assert all(known is not None and known < CUTOFF.timestamp() for known, _ in spy.records[stage]), stage
        assert not any(LATER in text or UNDATED in text for _, text in spy.records[stage]), stage
    assert spy.records["curate"]
    assert {path.name for path in spy.files["score"]} >= {
        "predictions.jsonl",
        "label.human.jsonl",
        "eval.jsonl",
    }
    # What was known before the cutoff is all there.
    assert report.data.records == sum(LATER not in text for text in labels) + 1
    assert report.data.other_prompts == 1
    # It stands beside the champion of its time, and what was decided later holds nothing back.
    assert report.decision.comparison is not None
    assert report.decision.comparison.champion == before.adapter
    assert report.remeasured is not None
    assert report.remeasured.adapter == before.adapter
    assert report.decision.state in ("would be promoted", "none")
    assert report.decision.persons is not None
    assert report.decision.persons.records > 0
    assert read_champion(run.root, *OWN) == later
