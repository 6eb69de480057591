"""The Elasticsearch store: the contract of all stores, on a real node."""

from collections.abc import Iterator
from typing import Any

import pytest

from flywheel.common.errors import StoreError
from flywheel.config.store import ElasticsearchConfig
from flywheel.stores import PaidAnswer, RecordStore
from flywheel.stores.elasticsearch import ElasticsearchStore
from tests.unit.news_records import news_record
from tests.unit.store_contract import ALWAYS, SCOPE, StoreContract, records


class TestElasticsearchStore(StoreContract):
    @pytest.fixture
    def store(self, config: ElasticsearchConfig) -> Iterator[RecordStore]:
        with ElasticsearchStore(config) as opened:
            yield opened

    @pytest.fixture(autouse=True)
    def no_wait_for_segments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leave the wait for the merge, half a minute each, to the test of forgetting."""
        monkeypatch.setattr("flywheel.stores.elasticsearch.forgetting.EXPUNGE_SECONDS", 0.0)

    def reopen(self, store: RecordStore) -> RecordStore:
        assert isinstance(store, ElasticsearchStore)
        return ElasticsearchStore(store.config)


class TestElasticsearchStoreInWindows(TestElasticsearchStore):
    """The same, each read cut into as many windows of time as there are seconds."""

    @pytest.fixture(autouse=True)
    def small_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flywheel.stores.elasticsearch.windows.WINDOW", 2)


def test_windows_of_time_lie_side_by_side_wherever_the_records_are(
    store: ElasticsearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Most in one second, some far away on both sides, one at the beginning of time.
    times = [1, *(1_700_000_000,) * 700, *range(1_700_000_001, 1_700_000_300), 4_000_000_000]
    made = [news_record(f"h {number}", timestamp=time) for number, time in enumerate(times)]
    store.write(made)
    ordered = [record.id for record in sorted(made, key=lambda record: (record.timestamp, record.id))]
    for window in (7, 50, 400, 10_000):
        monkeypatch.setattr("flywheel.stores.elasticsearch.windows.WINDOW", window)
        assert [id for id, _ in store.read_known(*SCOPE, ALWAYS)] == ordered
        assert [record.id for record in store.read(*SCOPE, ALWAYS)] == ordered
        assert [id for id, _ in store.read_known(*SCOPE, 1_700_000_000)] == ordered[:1]


def test_answers_are_read_in_windows_too(store: ElasticsearchStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.stores.elasticsearch.windows.WINDOW", 50)
    answers = [
        (f"{i * 7919 % 1000:04d}", PaidAnswer(str(i), "m", 1_700_000_000 + i // 3)) for i in range(1000)
    ]
    store.put_answers(answers)
    client = store._cluster.client
    search, found = client.search, []

    def counted(**named: Any) -> Any:
        if "pit" in named:
            index = f"{store.config.index}-answers"
            found.append(client.count(index=index, query=named["query"])["count"])
        return search(**named)

    monkeypatch.setattr(client, "search", counted)
    assert sorted(store.read_answers()) == sorted(answers)
    # For each page the server looks at all that its query finds.
    assert len(found) >= 15
    assert sum(found) < 3 * len(answers)


def test_records_that_were_read_are_not_asked_for_again(
    store: ElasticsearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(records(2500))
    with ElasticsearchStore(store.config, rereads=True) as reader:
        read = list(reader.read(*SCOPE, ALWAYS))
        store.write([news_record("written since")])
        (later,) = {id for id, _ in store.read_known(*SCOPE, ALWAYS)} - {record.id for record in read}
        by_id = {record.id: record for record in [*read, news_record("written since")]}
        wanted = [record.id for record in read[::-2]]
        wanted.insert(1200, later)
        asked: list[str] = []
        mget = reader._cluster.client.mget

        def counted(**named: Any) -> Any:
            asked.extend(named["ids"])
            return mget(**named)

        monkeypatch.setattr(reader._cluster.client, "mget", counted)
        assert list(reader.get(wanted)) == [by_id[id] for id in wanted]
        assert asked == [later]
        with pytest.raises(StoreError, match="no record 0f0f"):
            list(reader.get([wanted[0], "0f0f"]))
