"""Duplicates and splits go by the whole conversation where a record is one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flywheel.curation import reading
from flywheel.curation.conversation import around
from flywheel.curation.result import CurateResult
from flywheel.stages.curate import curate
from flywheel.stores.sqlite import SqliteStore
from flywheel.workloads.records import Record
from tests.unit.news_records import news_plan

CLASSES = ("OTHER", "Earnings")
SENTIMENT = "You say whether a text is good or bad for the company that it names. Answer in one word."
TOPIC = "You name the one topic of a text from our list of topics. Answer with the topic alone."


def said(number: int, words: int = 8) -> str:
    """Return a text whose words no other one has."""
    return " ".join(f"word{number}x{place}" for place in range(words))


def logged(
    turns: Sequence[tuple[str, str]], number: int, *, answer: str = "", tools: Any = (), time: int = 0
) -> Record:
    """Return the record of an application: turns as (role, content)."""
    data = {
        "request": {
            "model": "m",
            "messages": [{"role": role, "content": content} for role, content in turns],
            **({"tools": list(tools)} if tools else {}),
        },
        "response": {"choices": [{"message": {"content": answer or f"[[[{CLASSES[number % 2]}]]]"}}]},
        "workload_id": "news_classifier",
        "client_id": "desk",
        "timestamp": time or 1000 + number,
    }
    return Record.from_json(data, CLASSES, {}, workload_type="classification")


def curated(folder: Path, records: list[Record], **split: Any) -> CurateResult:
    with SqliteStore(folder / "records.sqlite") as store:
        store.write(records)
    return curate(news_plan(folder, **split), folder)


def sides(folder: Path, result: CurateResult) -> dict[str, set[str]]:
    at = folder / "artifacts/datasets" / result.dataset
    lines = {part: (at / f"{part}.jsonl").read_text().splitlines() for part in ("train", "val", "eval")}
    return {part: {json.loads(line)["id"] for line in found} for part, found in lines.items()}


def test_dialogues_that_end_alike_are_records_of_their_own(tmp_path: Path) -> None:
    records = [
        logged([("user", said(i)), ("assistant", "Shall I go on?"), ("user", "Yes, please.")], i)
        for i in range(60)
    ]
    result = curated(tmp_path, records)
    assert (result.duplicates, result.near_duplicates, result.used) == (0, 0, 60)


def test_one_question_under_two_instructions_is_two_records(tmp_path: Path) -> None:
    records = [
        logged([(role, content), ("user", said(i))], 2 * i + place)
        for i in range(30)
        for place, (role, content) in enumerate((("system", SENTIMENT), ("developer", TOPIC)))
    ]
    assert curated(tmp_path, records).used == 60


@pytest.mark.parametrize("batch", [7, 500])
def test_one_question_in_two_prompts_is_two_records_whatever_the_batches(
    tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.curation.texts._BATCH", batch)
    start = "Read what follows with care and answer as the desk would. " * 4
    prompts = [
        start + f"{'Rules of one kind apply. ' * 10}Text: ",
        start + f"{'Others do here. ' * 15}Text: ",
    ]
    records = [
        logged([("user", prompts[place] + said(i))], 2 * i + place) for i in range(30) for place in range(2)
    ]
    again = [logged([("user", prompts[0] + said(i).upper())], i, time=5000) for i in range(30)]
    result = curated(tmp_path, [*records, *again])
    assert (result.duplicates, result.near_duplicates, result.used) == (30, 0, 60)


def test_one_question_with_other_functions_is_another_record(tmp_path: Path) -> None:
    def offered(name: str) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": name, "parameters": {}}}]

    records = [
        logged([("user", said(i))], 2 * i + place, tools=offered(name))
        for i in range(30)
        for place, name in enumerate(("file", "send"))
    ]
    assert curated(tmp_path, records).used == 60


def test_instructions_that_say_the_time_are_one(tmp_path: Path) -> None:
    written = [
        "Today is Friday, May 31, 2024.",
        "Today is Monday, 3 June 2024.",
        "It is 2024-06-04T10:20:30Z.",
    ]
    assert len({around(logged([("system", text), ("user", "a")], 1)).context for text in written[:2]}) == 1
    records = [
        logged(
            [("system", f"{SENTIMENT} Now: 2024-05-{1 + i % 28:02} {i % 24:02}:15."), ("user", said(i % 40))],
            i,
        )
        for i in range(80)
    ]
    result = curated(tmp_path, records)
    assert (result.duplicates, result.used) == (40, 40)


def test_a_short_shared_instruction_does_not_blur_headlines(tmp_path: Path) -> None:
    figures = [
        logged([("system", "You are a classifier."), ("user", f"Bank raises Acme target to ${i} from $0")], i)
        for i in range(1, 61)
    ]
    plain = [logged([("user", f"Bank raises Acme target to ${i} from $0")], i) for i in range(1, 61)]
    for name, records in (("system", figures), ("plain", plain)):
        (tmp_path / name).mkdir()
        assert curated(tmp_path / name, records).used == 60


def test_near_duplicates_are_found_in_one_context_alone(tmp_path: Path) -> None:
    texts = [said(i, 16) for i in range(30)]
    changed = [f"{text.rsplit(' ', 1)[0]} other" for text in texts]  # 15 of 17 words
    records = [logged([("system", SENTIMENT), ("user", text)], i) for i, text in enumerate(texts)]
    records += [logged([("system", SENTIMENT), ("user", text)], 100 + i) for i, text in enumerate(changed)]
    records += [logged([("system", TOPIC), ("user", text)], 200 + i) for i, text in enumerate(changed)]
    result = curated(tmp_path, records)
    assert (result.near_duplicates, result.used) == (30, 60)


def test_texts_without_words_are_told_apart_by_what_came_before(tmp_path: Path) -> None:
    records = [logged([("user", said(i)), ("assistant", "Good?"), ("user", "!!")], i) for i in range(40)]
    assert curated(tmp_path, records).used == 40


def test_the_turns_of_a_dialogue_are_on_one_side(tmp_path: Path) -> None:
    """However long it goes on, and though each turn has words of its own."""
    dialogues: list[list[Record]] = []
    for number in range(12):
        turns: list[tuple[str, str]] = [("system", SENTIMENT)]
        records = []
        for turn in range(8):
            turns.append(("user", said(100 * number + turn)))
            answer = f"[[[{CLASSES[(number + turn) % 2]}]]] {number} {turn}"
            # Days apart: it is no window of time that joins them.
            time = 1_000_000 + 1000 * number + 5 * 86400 * turn
            records.append(logged(list(turns), number, answer=answer, time=time))
            turns.append(("assistant", answer))
        dialogues.append(records)
    result = curated(tmp_path, [record for records in dialogues for record in records], eval_size=16)
    found = sides(tmp_path, result)
    assert (result.used, result.events) == (96, 12)
    for records in dialogues:
        assert len([part for part, ids in found.items() if {record.id for record in records} & ids]) == 1


def test_a_greeting_that_many_dialogues_begin_with_joins_none_of_them(tmp_path: Path) -> None:
    hello = [("user", "Hi"), ("assistant", "[[[OTHER]]] Hello!")]
    records = [logged(hello[:1], 0, answer=hello[1][1])]
    records += [logged([*hello, ("user", said(i))], i) for i in range(1, 41)]
    result = curated(tmp_path, records)
    assert (result.used, result.events) == (41, 41)


def test_the_process_that_reads_apart_tells_conversations_apart_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        logged([("system", (SENTIMENT, TOPIC)[i % 2]), ("user", said(i // 4)), ("assistant", said(i // 2)), ("user", "Yes")], i)
        for i in range(80)
    ]  # fmt: skip
    here = curated(tmp_path / "here", records)
    monkeypatch.setattr(reading, "APART_FROM", 1)
    apart = curated(tmp_path / "apart", records)
    assert (apart.dataset, apart.used, apart.events) == (here.dataset, here.used, here.events)
    assert sides(tmp_path / "apart", apart) == sides(tmp_path / "here", here)
    assert here.used == 80
