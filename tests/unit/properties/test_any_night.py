"""Whatever the logs of a night hold, ingest and curate account for each line, and the dataset for each record."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import NotEnoughRecordsError
from flywheel.stages.curate import curate
from flywheel.stages.ingest import QUARANTINE_FILE, ingest
from flywheel.stages.label import LabelResult
from flywheel.stores import open_store
from flywheel.workloads.lines import read_lines
from flywheel.workloads.markers import without_tokens
from tests.unit.news_records import news_plan, news_record
from tests.unit.properties.conversations import CLASSIFIED, GOOD_RECORDS, RECORDS
from tests.unit.properties.inputs import JSON_TEXTS, bounded

LABELLED = LabelResult(
    headlines=0, labelled=0, asked=0, found=0, quarantined=0, later=0, records_file="labelled.jsonl",
    quarantine_file="label.quarantine.jsonl", prompt_tokens=0, completion_tokens=0, human=None, seconds=0,
)  # fmt: skip
PARTS = ("train", "val", "calibration", "eval")


@given(
    data=st.lists(st.one_of(CLASSIFIED, CLASSIFIED, GOOD_RECORDS, RECORDS), max_size=14),
    noise=st.lists(JSON_TEXTS, max_size=3),
    split=st.sampled_from(["random", "temporal"]),
    parse=st.booleans(),
)
@bounded(25)
def test_each_line_of_a_night_is_in_the_dataset_or_counted(
    data: list[dict[str, Any]], noise: list[str], split: str, parse: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [json.dumps(record).encode() for record in data]
        lines += [text.encode("utf-8", "surrogatepass").replace(b"\n", b" ") for text in noise]
        (folder / "app.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        ours = [
            news_record(f"Acme {n} raises its outlook", label, 10**9 + n)
            for n, label in enumerate(["OTHER", "Earnings"] * 4)
        ]
        said = b"".join(
            json.dumps(record.to_json() | {"known_at": record.known_at}).encode() + b"\n" for record in ours
        )
        (folder / "labelled.jsonl").write_bytes(said)
        source = [{"path": str(folder / "app.jsonl"), "kind": "log_records"}]
        plan = news_plan(
            folder,
            source=source,
            cutoff=1_900_000_000,
            eval_size=3,
            split=split,
            parse_function_arguments=parse,
        )
        taken = ingest(plan, folder, LABELLED)
        aside = (folder / QUARANTINE_FILE).read_bytes().splitlines()
        assert taken.read + taken.later + taken.other_workload == len(lines) + len(ours)
        assert taken.read == taken.written + taken.already_there + taken.quarantined
        assert taken.quarantined == len(aside) == sum(taken.reasons.values())
        with open_store(plan.config.store) as store:
            stored = sum(store.count(*scope, 1 << 40) for scope in store.scopes())
            own = {r.id: r for r in store.read(plan.workload_id, plan.client_id, plan.cutoff)}
        assert stored == taken.written
        try:
            made = curate(plan, folder)
        except NotEnoughRecordsError as error:
            event(f"too few: {str(error)[:60]}")
            return
        event("a dataset")
        assert made.total == len(own)
        assert made.total == made.prompts.left_out + made.duplicates + made.near_duplicates + made.used
        assert made.used == sum(getattr(made, part) for part in PARTS) + made.left_out
        dataset = ArtifactRoot(plan.config.artifacts.root).fetch("datasets", made.dataset)
        parts = {part: list(read_lines(dataset / f"{part}.jsonl")) for part in PARTS}
    assert {part: len(found) for part, found in parts.items()} == {
        part: getattr(made, part) for part in PARTS
    }
    ids = [line["id"] for found in parts.values() for line in found]
    assert len(ids) == len(set(ids)) and set(ids) <= set(own)
    for found in parts.values():
        for line in found:
            record = own[line["id"]]
            assert [m["content"] for m in line["messages"][:-1]] == [
                without_tokens(m["content"] or "") for m in record.messages
            ]
            assert line["label"] == record.label and line["known_at"] == record.known_at
