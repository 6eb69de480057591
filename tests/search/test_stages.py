"""Stages on the Elasticsearch store: ingest and curate give what they give on SQLite; stores are copied."""

from __future__ import annotations

import gzip
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from flywheel.cli.main import app
from flywheel.config.store import ElasticsearchConfig, StoreConfig
from flywheel.stages.curate import curate
from flywheel.stages.ingest import QUARANTINE_FILE, ingest
from flywheel.stages.label import LabelResult
from flywheel.stores import PaidAnswer, open_store
from flywheel.stores.copying import copy_store
from flywheel.stores.elasticsearch import ElasticsearchStore
from flywheel.stores.elasticsearch.indexes import RECORDS
from tests.unit.news_records import news_plan, news_record
from tests.unit.store_contract import ALWAYS, SCOPE


def test_curate_makes_the_same_dataset_from_both_stores(tmp_path: Path, config: ElasticsearchConfig) -> None:
    made = [news_record(f"Company {i} opens {i % 7} plants", ("OTHER", "Earnings")[i % 3 == 0], 1000 + i)
            for i in range(400)]  # fmt: skip
    results, files = [], []
    for store in (
        StoreConfig(path=str(tmp_path / "records.sqlite")),
        StoreConfig(type="elasticsearch", elasticsearch=config),
    ):
        with open_store(store) as opened:
            opened.write(made)
        plan = news_plan(tmp_path / store.type, sizes=(50,))
        plan = plan.model_copy(update={"config": plan.config.model_copy(update={"store": store})})
        result = curate(plan, tmp_path)
        folder = tmp_path / store.type / "artifacts" / "datasets" / result.dataset
        results.append(result.model_dump(exclude={"seconds"}))
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert results[0] == results[1]
    assert files[0] == files[1]


def test_ingest_counts_each_record_and_sets_aside_what_the_server_refuses(
    tmp_path: Path, config: ElasticsearchConfig
) -> None:
    # An administrator has made the index, and takes no responses but plain ones.
    plain = {"dynamic": "strict", "properties": {"choices": {"type": "object", "enabled": False}}}
    with ElasticsearchStore(config) as store:
        client, alias = store._cluster.client, f"{config.index}-records"
        client.indices.delete(index=f"{alias}-v{RECORDS.version}")
        mappings = {
            "dynamic": "strict",
            "_meta": {"flywheel_version": RECORDS.version},
            "properties": {**RECORDS.properties, "response": plain},
        }
        client.indices.create(
            index=f"{alias}-v{RECORDS.version}x", mappings=mappings, aliases={alias: {"is_write_index": True}}
        )
    data = news_record("with more in its response").to_json()
    data["response"]["finish"] = "stop"
    lines = [orjson.dumps(news_record(f"h {i}").to_json()) for i in range(20)]
    lines.insert(5, orjson.dumps(data))
    lines.insert(9, b"{")
    lines.append(lines[0])
    with gzip.open(tmp_path / "labelled.jsonl.gz", "wb") as file:
        file.write(b"\n".join(lines))
    plan = news_plan(tmp_path)
    store = StoreConfig(type="elasticsearch", elasticsearch=config)
    plan = plan.model_copy(update={"config": plan.config.model_copy(update={"store": store})})
    labelled = LabelResult.model_construct(records_file="labelled.jsonl.gz")
    result = ingest(plan, tmp_path, labelled)
    assert (result.read, result.written, result.already_there, result.quarantined) == (23, 20, 1, 2)
    rows = [orjson.loads(line) for line in (tmp_path / QUARANTINE_FILE).read_bytes().splitlines()]
    refused = next(row for row in rows if "refused by the store" in row["reason"])
    assert refused["line"] == 6
    assert refused["file"].endswith("labelled.jsonl.gz")
    assert "strict" in refused["reason"]


def test_a_copy_there_and_back_is_the_same_store(tmp_path: Path, config: ElasticsearchConfig) -> None:
    made = [news_record(f"h {i}", timestamp=1 + i) for i in range(1200)]
    made += [news_record(f"h {i}", client_id="other") for i in range(5)]
    answers = [(f"{i:05d}", PaidAnswer(str(i), "m", i)) for i in range(30)]
    first, back = (StoreConfig(path=str(tmp_path / f"{name}.sqlite")) for name in ("first", "back"))
    search = StoreConfig(type="elasticsearch", elasticsearch=config)
    with open_store(first) as store:
        store.write(made)
        store.put_answers(answers)
    for source, target in ((first, search), (search, back)):
        with open_store(source) as read, open_store(target) as written:
            assert copy_store(read, written).written == 1205
            assert copy_store(read, written).already_there == 1205
    with open_store(first) as one, open_store(back) as other:
        for scope in (SCOPE, ("news_classifier", "other")):
            assert list(one.read(*scope, ALWAYS)) == list(other.read(*scope, ALWAYS))
        assert list(other.read_answers()) == answers


def test_the_command_copies_between_named_stores(
    tmp_path: Path, config: ElasticsearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(StoreConfig(path=str(tmp_path / "a.sqlite"))) as store:
        store.write([news_record("one")])
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(Path("include/config.yaml").resolve()))
    command = ["store", "copy", f"sqlite:{tmp_path / 'a.sqlite'}", f"elasticsearch:{config.index}"]
    result = CliRunner().invoke(app, command)
    assert result.output.splitlines()[-1] == "written 1, already_there 0, answers 0"
    with open_store(StoreConfig(type="elasticsearch", elasticsearch=config)) as store:
        assert store.count(*SCOPE, ALWAYS) == 1
