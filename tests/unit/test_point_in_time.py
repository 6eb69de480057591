"""What a run works on was known before its cutoff; a client's posts are all there, whatever their times say."""

import gzip
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from flywheel.stages.curate import curate
from flywheel.stages.ingest import ingest
from flywheel.stages.label import label
from flywheel.stores.sqlite import SqliteStore
from tests.unit.news_records import WORKLOAD, news_record
from tests.unit.store_contract import ALWAYS, SCOPE
from tests.unit.teacher_servers import stand_in
from tests.unit.test_curate import headlines, run
from tests.unit.test_stages_label import make

PARTS = ("train", "val", "calibration", "eval")


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return [
        json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
    ]


def test_nothing_that_a_stage_works_on_was_known_at_or_after_the_cutoff(tmp_path: Path) -> None:
    texts = [WORKLOAD.text_of(record.messages) for record in headlines(150)]
    days = ["2024-02-29", "2024-03-01", "2024-03-01T01:00"] * 50
    rows = [f"{text},{day},\n" for text, day in zip(texts, days, strict=True)]
    (tmp_path / "headlines.csv").write_text("headline,date,human\n" + "".join(rows))
    (tmp_path / "undated.csv").write_text("headline,human\nAcme unheard of,Dividends\n")
    logs = [replace(r, timestamp=1709254800 + 60 * i) for i, r in enumerate(headlines(60, seed=3))]
    (tmp_path / "logs.jsonl").write_text("".join(json.dumps(r.to_json()) + "\n" for r in logs))
    sources = [
        {"path": str(tmp_path / "headlines.csv"), "columns": {"human_label": "human"}},
        {"path": str(tmp_path / "undated.csv"), "columns": {"human_label": "human", "timestamp": None}},
        {"path": str(tmp_path / "logs.jsonl"), "kind": "log_records", "known_after": 600},
    ]
    with stand_in(dict.fromkeys([*texts, "Acme unheard of"], "Dividends")) as (url, _):
        plan = make(tmp_path, url, cutoff="2024-03-01T02:00:00", source=sources)
        labelled = label(plan, tmp_path)
        ingest(plan, tmp_path, labelled)
        with SqliteStore(tmp_path / "records.sqlite") as store:
            store.write([news_record("posted since then", known_at=plan.cutoff, labelled_by="posted")])
            read = list(store.read(*SCOPE, plan.cutoff))
            assert store.count(*SCOPE, ALWAYS) == len(read) + 1
        split = {"eval_size": 20, "min_total_records": 1}
        config = plan.config.model_copy(
            update={"data_split_config": plan.config.data_split_config.model_copy(update=split)}
        )
        result = curate(plan.model_copy(update={"config": config}), tmp_path)
    assert (labelled.headlines, labelled.later, labelled.undated) == (101, 50, 1)
    dataset = tmp_path / "artifacts/datasets" / result.dataset
    inputs = lines(tmp_path / labelled.records_file)
    for part in PARTS:
        inputs += lines(dataset / f"{part}.jsonl")
    assert len(inputs) > 200 and len(read) == 150
    assert all(0 < row["known_at"] < plan.cutoff for row in inputs)
    assert all(0 < (record.known_at or 0) < plan.cutoff for record in read)


def test_posts_with_times_ahead_of_now_are_all_there_for_a_job_that_begins_now(tmp_path: Path) -> None:
    now = int(time.time())
    posts = [
        replace(r, timestamp=now + i, known_at=now, labelled_by="posted")
        for i, r in enumerate(headlines(300))
    ]
    result = run(tmp_path, posts, cutoff=now + 1)
    assert (result.total, result.used) == (300, 300)
