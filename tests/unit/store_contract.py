"""What every record store must do. A test class of a store inherits `StoreContract` and says how to open it."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from flywheel.common.errors import StoreError
from flywheel.stores import Holdings, PaidAnswer, RecordStore, WriteSummary
from flywheel.workloads.records import Record
from tests.unit.news_records import news_record

ALWAYS = 1 << 40
SCOPE = ("news_classifier", "desk")


def records(count: int, **named: Any) -> list[Record]:
    return [news_record(f"Headline number {i}", timestamp=1000 + i // 3, **named) for i in range(count)]


class StoreContract:
    """Inherit it and define the fixture `store`; `reopen` gives another connection to the same store."""

    @pytest.fixture
    def store(self) -> Iterator[RecordStore]:
        raise NotImplementedError

    def reopen(self, store: RecordStore) -> RecordStore:
        raise NotImplementedError

    def test_records_come_back_as_they_were_ordered_by_time_and_id(self, store: RecordStore) -> None:
        written = records(7)
        assert store.write(reversed(written)) == WriteSummary(written=7, already_there=0)
        assert list(store.read(*SCOPE, ALWAYS)) == sorted(written, key=lambda r: (r.timestamp, r.id))

    def test_records_of_any_shape_come_back_exactly(self, store: RecordStore) -> None:
        long = "Sort this. " * 600
        shapes: list[dict[str, Any]] = [
            {"messages": [{"role": "user", "content": ""}]},
            {"messages": [{"role": "user", "content": long + "Kurse fallen \u2013 \U0001f4c9 \x00 end"}]},
            {"messages": [{"role": "user", "content": long + "another"}], "temperature": 0.5, "stop": None},
            {"messages": [{"role": "user", "content": long + "another", "name": "x"}], "model": "m"},
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "tail" + long}]},
            {
                "messages": [
                    {"role": "user", "content": "a" * 300},
                    {"role": "assistant", "content": "a" * 299},
                ]
            },
            {
                "messages": [
                    {"role": "user", "content": "a" * 299},
                    {"role": "assistant", "content": "a" * 300},
                ]
            },
            {"tools": [{"x": [1, {"y": None}]}], "messages": [{"role": "tool", "content": "é" * 3000}]},
        ]
        responses: list[dict[str, Any]] = [
            {"choices": [{"message": {"role": "assistant", "content": "[[[other]]]"}}]},
            {"id": "chat-1", "choices": [{"message": {"content": "OTHER"}, "index": 0}], "usage": {"n": 3}},
        ]
        written = [
            Record(f"{i:032x}{j:02x}", *SCOPE, 5 * i, request, response, "OTHER", 100 + i, "posted")
            for i, request in enumerate(shapes)
            for j, response in enumerate(responses)
        ]
        for record in written:
            store.write([record])
        assert list(store.read(*SCOPE, ALWAYS)) == written
        assert list(self.reopen(store).read(*SCOPE, ALWAYS)) == written

    def test_writing_twice_is_writing_once(self, store: RecordStore) -> None:
        written = records(5)
        store.write(written[:3])
        assert store.write([*written, written[4]]) == WriteSummary(written=2, already_there=4)
        assert store.count(*SCOPE, ALWAYS) == 5

    def test_records_are_known_by_known_at_and_undated_ones_never(self, store: RecordStore) -> None:
        late, early = (
            news_record(text, timestamp=10, known_at=known) for text, known in [("l", 30), ("e", 20)]
        )
        undated = replace(news_record("undated", timestamp=0), known_at=None)
        store.write([late, undated, early])
        assert list(store.read(*SCOPE, ALWAYS)) == [early, late]
        assert list(store.read_known(*SCOPE, 30)) == [(early.id, 20)]
        assert store.count(*SCOPE, 30) == 1
        assert store.count(*SCOPE, 11) == 0
        assert list(store.get([undated.id])) == [undated]
        assert list(store.read_known(*SCOPE, ALWAYS)) == [(early.id, 20), (late.id, 30)]
        store.write([news_record("posted", timestamp=99, known_at=40, labelled_by="posted")])
        assert store.counts_by_labeller(*SCOPE, ALWAYS) == {"teacher": 2, "posted": 1}
        assert store.counts_by_labeller(*SCOPE, 40) == {"teacher": 2}

    @pytest.mark.parametrize("order", [1, -1])
    def test_of_a_record_written_again_the_first_time_and_the_strongest_word_stay(
        self, store: RecordStore, order: int
    ) -> None:
        record = news_record("again", timestamp=10)
        again = [
            replace(record, known_at=50, labelled_by="posted"),
            replace(record, known_at=60, labelled_by="application"),
            replace(record, known_at=70, labelled_by="posted"),
        ]
        others = records(30)
        summary = store.write([*others, *again[::order]])
        assert (summary.written, summary.already_there) == (31, 2)
        assert list(store.get([record.id])) == [replace(record, known_at=50, labelled_by="application")]
        assert store.write([*others, replace(record, known_at=55)]) == WriteSummary(0, 31)
        assert list(store.get([record.id])) == [replace(record, known_at=50, labelled_by="teacher")]
        assert list(store.get([others[0].id])) == [others[0]]

    def test_before_is_exclusive(self, store: RecordStore) -> None:
        store.write(records(9))  # three each at 1000, 1001 and 1002
        assert [r.timestamp for r in store.read(*SCOPE, 1002)] == [1000] * 3 + [1001] * 3
        assert len(list(store.read_known(*SCOPE, 1002))) == store.count(*SCOPE, 1002) == 6
        assert list(store.read(*SCOPE, 1000)) == []

    def test_workloads_and_clients_are_kept_apart(self, store: RecordStore) -> None:
        mine = records(4)
        store.write([*mine, *records(3, client_id="other"), *records(2, workload_id="other")])
        assert {r.id for r in store.read(*SCOPE, ALWAYS)} == {r.id for r in mine}
        assert store.count("news_classifier", "other", ALWAYS) == 3
        assert store.count("nobody", "desk", ALWAYS) == 0
        assert list(store.read("nobody", "desk", ALWAYS)) == []

    def test_ids_come_in_the_order_of_the_records(self, store: RecordStore) -> None:
        store.write(records(20))
        read = [record.id for record in store.read(*SCOPE, ALWAYS)]
        assert [id for id, _ in store.read_known(*SCOPE, ALWAYS)] == read

    def test_get_gives_records_in_the_order_of_their_ids(self, store: RecordStore) -> None:
        written = records(1201)
        store.write(written)
        wanted = [*written[::-2], written[0]]
        assert list(store.get(record.id for record in wanted)) == wanted

    def test_get_names_an_id_that_is_not_there(self, store: RecordStore) -> None:
        store.write(records(2))
        with pytest.raises(StoreError, match="no record 0123"):
            list(store.get(["0123" * 8]))

    def test_many_records_stream_in_pages(self, store: RecordStore) -> None:
        written = [news_record(f"Number {i}", timestamp=7) for i in range(2500)]  # one second, many pages
        store.write(written)
        assert [r.id for r in store.read(*SCOPE, ALWAYS)] == sorted(r.id for r in written)

    def test_records_may_be_written_while_others_are_read(self, store: RecordStore) -> None:
        store.write(records(1500))
        reading = store.read(*SCOPE, ALWAYS)
        first = next(reading)
        store.write([news_record("late", timestamp=5000)])
        seen = [first.id, *(record.id for record in reading)]
        assert len(seen) == len(set(seen)) >= 1500

    def test_an_error_among_the_records_keeps_those_before_in_whole_batches(self, store: RecordStore) -> None:
        def broken() -> Iterator[Record]:
            yield from records(3000)
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError, match="the source broke"):
            store.write(broken())
        there = store.count(*SCOPE, ALWAYS)
        assert store.write(records(3000)) == WriteSummary(written=3000 - there, already_there=there)

    def test_a_caller_who_changes_a_record_changes_no_other(self, store: RecordStore) -> None:
        store.write(records(2))
        first, second = store.read(*SCOPE, ALWAYS)
        before = second.request["messages"][0]["content"]
        first.request["messages"][0]["content"] = "changed"
        assert second.request["messages"][0]["content"] == before
        assert next(store.read(*SCOPE, ALWAYS)).request["messages"][0]["content"] == before

    def test_answers_are_kept_and_the_first_stays(self, store: RecordStore) -> None:
        answer = PaidAnswer("[[[other]]]", "teacher", 7, {"prompt_tokens": 3})
        store.put_answers([("k1", answer), ("k2", PaidAnswer("é", "m", 8))])
        store.put_answers([("k1", PaidAnswer("again", "m", 9))])
        assert self.reopen(store).get_answers(["k1", "k2", "k3"]) == {
            "k1": answer,
            "k2": PaidAnswer("é", "m", 8),
        }
        assert store.get_answers([]) == {}

    def test_many_answers_are_found_at_once(self, store: RecordStore) -> None:
        answers = {f"key {i}": PaidAnswer(str(i), "m", i) for i in range(2100)}
        store.put_answers(list(answers.items()))
        assert store.get_answers([*answers, "none"]) == answers

    def test_scopes_are_the_workloads_and_clients_with_records(self, store: RecordStore) -> None:
        assert store.scopes() == []
        store.write([*records(2), *records(1, client_id="other"), *records(1, workload_id="another")])
        assert store.scopes() == [("another", "desk"), SCOPE, ("news_classifier", "other")]

    def test_all_answers_stream_each_once(self, store: RecordStore) -> None:
        answers = [(f"{i * 7919 % 1100:04d}", PaidAnswer(str(i), "m", i // 3, {"n": i})) for i in range(1100)]
        store.put_answers(answers[::-1])
        read = list(store.read_answers())
        assert len(read) == len(answers)
        assert dict(read) == dict(answers)

    def test_threads_may_share_a_store(self, store: RecordStore) -> None:
        def write(part: int) -> None:
            store.write(records(60)[part * 10 : part * 10 + 20])
            store.put_answers([(f"t{part}", PaidAnswer("a", "m", part))])

        threads = [threading.Thread(target=write, args=(part,)) for part in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.count(*SCOPE, ALWAYS) == 60
        assert len(store.get_answers([f"t{part}" for part in range(5)])) == 5

    def test_closing_twice_is_no_error_and_using_it_then_is_a_clear_one(self, store: RecordStore) -> None:
        store.close()
        store.close()
        with pytest.raises(StoreError):
            store.count(*SCOPE, ALWAYS)

    def test_what_is_older_goes_and_what_is_younger_is_read_as_before(self, store: RecordStore) -> None:
        # The later records refer to the first one's text, which goes.
        prompt = "Sort this headline into one of these classes. " * 20
        records = [news_record(f"{prompt}headline {i}", timestamp=1000 + i) for i in range(60)]
        store.write(records)
        store.put_answers([("a", PaidAnswer("paid for", "m", 1))], SCOPE)
        before = list(store.read(*SCOPE, ALWAYS))
        limit = before[40].known_at
        assert limit is not None
        for _ in range(2):
            store.forget([SCOPE], before=limit)
            assert list(store.read(*SCOPE, ALWAYS)) == before[40:]
        assert list(self.reopen(store).read(*SCOPE, ALWAYS)) == before[40:]
        assert store.scopes() == [SCOPE] and list(store.get_answers(["a"])) == ["a"]
        store.write(records[:1])
        assert store.count(*SCOPE, ALWAYS) == 21

    def test_a_client_is_forgotten_and_another_reads_what_it_read_before(self, store: RecordStore) -> None:
        gone, stays = ("news_classifier", "gone"), ("news_classifier", "stays")
        # Both share a prompt, and the one who goes wrote it first: the other's records refer to that text.
        prompt = "Sort this headline into one of these classes. " * 20
        for client, count in (("gone", 40), ("stays", 30)):
            texts = [f"{prompt}{client} says {i}" for i in range(count)]
            store.write(
                news_record(text, client_id=client, timestamp=1000 + i) for i, text in enumerate(texts)
            )
        store.put_answers([("a", PaidAnswer("for one", "m", 1)), ("b", PaidAnswer("for both", "m", 2))], gone)
        store.put_answers([("c", PaidAnswer("for the other", "m", 3))], stays)
        store.put_answers([("d", PaidAnswer("nobody knows for whom", "m", 4))])
        store.own_answers(stays, ["b", "c"])
        before = list(store.read(*stays, ALWAYS))
        assert store.holdings([gone]) == Holdings(40, 1, 1, 1)
        writer = self.reopen(store)
        writer.write([news_record(f"{prompt}stays, said before", client_id="stays", timestamp=5000)])
        store.forget([gone])
        assert store.holdings([gone]) == Holdings(0, 0, 0, 1)
        assert store.scopes() == [stays] and not list(store.read(*gone, ALWAYS))
        assert list(store.read(*stays, ALWAYS))[:-1] == before
        assert sorted(store.get_answers(["a", "b", "c", "d"])) == ["b", "c", "d"]
        assert sorted(store.read_owners()) == [(stays, "b"), (stays, "c")]
        # One who had the store open meanwhile, and one who opens it now, write and read as ever.
        for number, one in enumerate((writer, self.reopen(store))):
            added = [
                news_record(
                    f"{prompt}{client}, said after {number}", client_id=client, timestamp=6000 + number
                )
                for client in ("stays", "gone")
            ]
            one.write(added)
            assert list(self.reopen(store).get([record.id for record in added])) == added
        store.forget([gone], unowned=True)
        store.forget([gone], unowned=True)
        assert sorted(store.get_answers(["a", "b", "c", "d"])) == ["b", "c"]
        assert len(list(store.read(*stays, ALWAYS))) == len(before) + 3
