"""Writers and readers through trouble: a node that is killed, full disks, refused records, an upgrade."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Thread, Timer

import pytest

from flywheel.common.errors import StoreError
from flywheel.config.store import ElasticsearchConfig
from flywheel.stores import PaidAnswer, Rejected, WriteSummary
from flywheel.stores.elasticsearch import ElasticsearchStore
from flywheel.stores.elasticsearch.indexes import RECORDS, Indexes, Schema
from flywheel.workloads.records import Record
from tests.search.node import SearchNode
from tests.unit.news_records import news_record
from tests.unit.store_contract import ALWAYS, SCOPE, records


def test_a_node_killed_twice_while_records_are_written_loses_and_doubles_nothing(
    config: ElasticsearchConfig, node: SearchNode
) -> None:
    made = records(30_000)
    before = made[::100]

    def with_kills() -> Iterator[Record]:
        for number, record in enumerate(made):
            if number in (9_000, 20_000):
                node.kill()
                Thread(target=node.start).start()
            yield record

    with ElasticsearchStore(config.model_copy(update={"wait_seconds": 400.0})) as store:
        store.write(before)
        store.put_answers([("paid", PaidAnswer("for", "m", 1))])
        summary = store.write(with_kills())
        assert summary == WriteSummary(written=len(made) - len(before), already_there=len(before))
        assert store.count(*SCOPE, ALWAYS) == len(made)
        assert {record.id for record in store.read(*SCOPE, ALWAYS)} == {record.id for record in made}
        assert store.get_answers(["paid"]) == {"paid": PaidAnswer("for", "m", 1)}


@pytest.mark.parametrize("window", [10_000, 700])
def test_a_reader_goes_on_where_it_was_when_the_node_restarts(
    config: ElasticsearchConfig, node: SearchNode, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.stores.elasticsearch.windows.WINDOW", window)
    with ElasticsearchStore(config.model_copy(update={"wait_seconds": 400.0})) as store:
        store.write(records(5_000))
        reading = store.read(*SCOPE, ALWAYS)
        seen = [next(reading).id for _ in range(10)]
        # Documents get other places in their shard, as merges do it too: the last ones of the first pages.
        client, index = store._cluster.client, f"{config.index}-records"
        for number, id in enumerate([id for id, _ in store.read_known(*SCOPE, ALWAYS)], 1):
            if number % 200 == 0:
                client.index(index=index, id=id, document=client.get(index=index, id=id)["_source"])
        node.kill()
        node.start()
        seen += [record.id for record in reading]
        assert seen == [id for id, _ in store.read_known(*SCOPE, ALWAYS)]
        assert len(seen) == 5_000


@pytest.mark.parametrize("block", ["read_only_allow_delete", "write"])  # HTTP 429 and 403, for each document
def test_records_that_the_server_has_no_room_for_now_are_sent_again(
    store: ElasticsearchStore, block: str
) -> None:
    store.write(records(10))
    indices = store._cluster.client.indices
    alias = f"{store.config.index}-records"
    indices.put_settings(index=alias, settings={f"index.blocks.{block}": True})
    free = Timer(
        1.5, indices.put_settings, kwargs={"index": alias, "settings": {f"index.blocks.{block}": None}}
    )
    free.start()
    assert store.write(records(50)) == WriteSummary(written=40, already_there=10)
    free.join()


def test_a_server_that_stays_full_is_an_error_that_names_the_disks(store: ElasticsearchStore) -> None:
    with ElasticsearchStore(store.config.model_copy(update={"wait_seconds": 0.5})) as impatient:
        indices = impatient._cluster.client.indices
        alias = f"{store.config.index}-records"
        indices.put_settings(index=alias, settings={"index.blocks.read_only_allow_delete": True})
        with pytest.raises(StoreError, match=r"cannot write documents.*disk"):
            impatient.write(records(3))


def test_a_record_that_the_server_refuses_is_handed_back_with_its_reason(store: ElasticsearchStore) -> None:
    bad = replace(news_record("too long an id"), id="f" * 600, origin=("logs.jsonl", 7))
    rejected: list[Rejected] = []
    summary = store.write([*records(3), bad, news_record("after it")], rejected.append)
    assert summary == WriteSummary(written=4, already_there=0, rejected=1)
    (one,) = rejected
    assert one.origin == ("logs.jsonl", 7)
    assert "too long" in one.reason
    assert one.raw.startswith('{"id":"ffff')
    with pytest.raises(StoreError, match=r"refuses the record f+: .*too long"):
        store.write([bad])


NEW_IN_2 = ("known_at", "labelled_by")


def _with_source(document: dict[str, object]) -> dict[str, object]:
    return {**document, "source": "unknown"}


NEXT = Schema(
    RECORDS.name,
    RECORDS.time,
    RECORDS.key,
    RECORDS.version + 1,
    {**RECORDS.properties, "source": {"type": "keyword"}},
    {RECORDS.version: _with_source},
)


@pytest.mark.parametrize("window", [10_000, 50])
def test_a_newer_schema_brings_the_documents_along_and_an_older_flywheel_is_told(
    store: ElasticsearchStore, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.stores.elasticsearch.windows.WINDOW", window)
    store.write(records(700))
    ids = [id for id, _ in store.read_known(*SCOPE, ALWAYS)]
    reading = store.read(*SCOPE, ALWAYS)
    first = next(reading)
    indexes = Indexes(store._cluster, store.config.index, 1, 0)
    indexes.prepare(NEXT)
    indexes.prepare(NEXT)  # nothing is left to do
    client, alias = store._cluster.client, f"{store.config.index}-records"
    assert list(client.indices.get_alias(name=alias)) == [f"{alias}-v{NEXT.version}"]
    assert client.count(index=alias, query={"term": {"source": "unknown"}})["count"] == 700
    # One who was reading, and one who has the store open, go on.
    assert [first.id, *(record.id for record in reading)] == ids
    assert store.write(records(701)).already_there == 700
    with pytest.raises(StoreError, match=rf"newer flywheel made .*-records-v{NEXT.version}"):
        ElasticsearchStore(store.config)


def test_a_store_of_version_1_is_brought_up_when_it_is_opened(config: ElasticsearchConfig) -> None:
    old = [news_record(f"h {number}", timestamp=number) for number in (0, 10, 4_000_000_000)]
    with ElasticsearchStore(config) as store:
        store.write(old)
        client, alias = store._cluster.client, f"{config.index}-records"
        documents = [client.get(index=alias, id=record.id)["_source"] for record in old]
        client.indices.delete(index=f"{alias}-v{RECORDS.version}")
        first = {name: RECORDS.properties[name] for name in RECORDS.properties if name not in NEW_IN_2}
        client.indices.create(
            index=f"{alias}-v1",
            mappings={"dynamic": "strict", "_meta": {"flywheel_version": 1}, "properties": first},
            aliases={alias: {"is_write_index": True}},
        )
        for document in documents:
            content = {name: document[name] for name in document if name not in NEW_IN_2}
            client.index(index=f"{alias}-v1", id=document["id"], document=content)
    with ElasticsearchStore(config) as store:
        there = list(store.read(*SCOPE, 4_000_000_000))
        assert [(record.timestamp, record.labelled_by) for record in there] == [
            (10, "application"),
            (4_000_000_000, "application"),
        ]
        assert there[0].known_at == 10 and (there[1].known_at or 0) < 4_000_000_000
        assert store.counts_by_labeller(*SCOPE, ALWAYS) == {"unknown": 2}
        # The sources say when and by whom; one who posts it again does not.
        store.write([replace(old[1], known_at=5, labelled_by="posted")])
        assert list(store.get([old[1].id])) == [replace(old[1], labelled_by="application")]
        store.write([replace(old[1], known_at=86_399)])
        assert list(store.get([old[1].id])) == [replace(old[1], known_at=86_399)]


def test_a_migration_that_was_killed_is_finished_by_the_next(store: ElasticsearchStore) -> None:
    store.write(records(50))
    indexes = Indexes(store._cluster, store.config.index, 1, 0)
    indexes._put_template(NEXT)
    indexes._make(NEXT, with_alias=False)  # and then it was killed
    indexes.prepare(NEXT)
    assert store.count(*SCOPE, ALWAYS) == 50


def test_an_index_of_somebody_else_is_left_alone(
    config: ElasticsearchConfig, store: ElasticsearchStore
) -> None:
    other = config.model_copy(update={"index": f"{config.index}-other"})
    store._cluster.client.indices.create(index=f"{other.index}-records")
    with pytest.raises(StoreError, match="is not flywheel's; choose another"):
        ElasticsearchStore(other)


def test_a_field_that_the_mappings_do_not_have_is_refused(store: ElasticsearchStore) -> None:
    from elasticsearch import BadRequestError

    with pytest.raises(BadRequestError, match="strict"):
        store._cluster.client.index(index=f"{store.config.index}-records", id="x", document={"new": 1})
