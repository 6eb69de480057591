"""Whatever a log holds, each line is in the store as it was, in the quarantine with its place, or in a count."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
from hypothesis import event, given
from hypothesis import strategies as st

from flywheel.config.schema import SourceConfig
from flywheel.sources import read_log_records
from flywheel.sources.quarantine import Quarantine
from flywheel.stores.sqlite import SqliteStore
from flywheel.workloads.records import Record
from flywheel.workloads.workload import Workload
from tests.unit.news_records import WORKLOAD
from tests.unit.properties.conversations import RECORDS, texts_of
from tests.unit.properties.inputs import JSON_TEXTS, bounded

LOGGED = Workload("news_classifier", (), {}, "", "", "", has_prompt=False)
NOW = 1_900_000_000
LINES = st.lists(
    st.one_of(
        RECORDS.map(orjson.dumps),
        RECORDS.map(lambda record: json.dumps(record).encode()),
        JSON_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.binary(max_size=20),
    ).map(lambda line: line.replace(b"\n", b" ").replace(b"\r", b" ")),
    max_size=8,
)


def read(
    folder: Path, data: bytes, workload: Workload
) -> tuple[list[Record], list[dict[str, Any]], Counter[str]]:
    """Return the records of a log, what was set aside, and the counts."""
    (folder / "app.jsonl").write_bytes(data)
    counts: Counter[str] = Counter()
    with Quarantine(folder / "q.jsonl") as quarantine:
        source = SourceConfig(path=str(folder / "app.jsonl"), kind="log_records")
        records = list(read_log_records(source, quarantine, workload, before=NOW, counts=counts))
    aside = [json.loads(line) for line in (folder / "q.jsonl").read_bytes().splitlines()]
    return records, aside, counts


@given(lines=LINES, ending=st.sampled_from([b"\n", b"\r\n"]), workload=st.sampled_from([WORKLOAD, LOGGED]))
@bounded(60)
def test_each_line_of_a_log_is_kept_as_it_was_or_set_aside_or_counted(
    lines: list[bytes], ending: bytes, workload: Workload
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, aside, counts = read(folder, b"".join(line + ending for line in lines), workload)
        with SqliteStore(folder / "records.sqlite") as store:
            summary = store.write(records)
            kept = {record.id: record for record in store.get([record.id for record in records])}
            listed = [r.id for scope in store.scopes() for r in store.read(*scope, NOW)]
    event(f"kept {len(records) > 0}, aside {len(aside) > 0}")
    assert counts.total() == len(lines)
    assert counts["used"] == len(records) and counts["quarantined"] == len(aside)
    places = [record.origin[1] for record in records if record.origin] + [entry["line"] for entry in aside]
    assert len(places) == len(set(places)) and set(places) <= set(range(1, len(lines) + 1))
    assert all(entry["reason"] and entry["file"].endswith("app.jsonl") for entry in aside)
    assert summary.written + summary.already_there == len(records)
    assert summary.written == len(kept) == len(listed) and set(listed) == set(kept)
    for record in records:
        assert record.origin is not None
        # Two lines of one id say the same in what a student learns; the store keeps the first.
        there, first = kept[record.id], next(r for r in records if r.id == record.id)
        assert there.to_json() == first.to_json() and there.label == first.label
        given_line = json.loads(lines[record.origin[1] - 1])
        for before, after in zip(given_line["request"]["messages"], record.messages, strict=True):
            assert all(text in str(after["content"]) for text in texts_of(before.get("content")))
