"""Curate: datasets that are nested, stratified, free of near-duplicates, found again, and made whole or not."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import NotEnoughRecordsError
from flywheel.curation.result import CurateResult
from flywheel.curation.samples import text_number
from flywheel.curation.words import words_of
from flywheel.stages import curate as stage
from flywheel.stages.curate import curate
from flywheel.stores.sqlite import SqliteStore
from flywheel.workloads.labels import without_thinking
from flywheel.workloads.lines import read_lines
from flywheel.workloads.records import Record, make_record
from tests.unit.news_records import WORKLOAD, news_plan, news_record

LABELS = ["Regulatory"] * 8 + ["OTHER"] * 6 + ["Earnings"] * 4 + ["Dividends"] * 2
WORDS = [f"word{i}" for i in range(400)]


def headlines(count: int, seed: int = 1) -> list[Record]:
    """Return records whose texts share few words, so that none is a near-duplicate."""
    rng = random.Random(seed)
    return [
        news_record(" ".join(rng.sample(WORDS, 8)), rng.choice(LABELS), timestamp=1000 + rng.randrange(500))
        for _ in range(count)
    ]


def store(folder: Path, records: list[Record]) -> None:
    with SqliteStore(folder / "records.sqlite") as opened:
        opened.write(records)


def run(folder: Path, records: list[Record] | None = None, **named: Any) -> CurateResult:
    if records is not None:
        store(folder, records)
    return curate(news_plan(folder, **named), folder)


def lines(folder: Path, result: CurateResult, part: str) -> list[dict[str, Any]]:
    path = folder / "artifacts/datasets" / result.dataset / f"{part}.jsonl"
    return list(read_lines(path))


def ids(folder: Path, result: CurateResult, part: str) -> list[str]:
    return [line["id"] for line in lines(folder, result, part)]


def test_a_dataset_holds_the_records_as_logged(tmp_path: Path) -> None:
    records = headlines(100)
    result = run(tmp_path, records, sizes=(20, 50), val_ratio=0.1)
    by_id = {record.id: record for record in records}
    seen = []
    for part, count in (("train", 81), ("val", 9), ("eval", 10)):
        rows = lines(tmp_path, result, part)
        assert len(rows) == getattr(result, part) == count
        for row in rows:
            record = by_id[row["id"]]
            answer = {"role": "assistant", "content": record.answer}
            text = " ".join(words_of(WORKLOAD.text_of(record.messages) or ""))
            assert row == {
                "id": record.id,
                "timestamp": record.timestamp,
                "known_at": record.known_at,
                "event": record.id,
                "text": f"{text_number(text):016x}",
                "label": record.label,
                "labelled_by": "teacher",
                "messages": [*record.messages, answer],
            }
        seen += [row["id"] for row in rows]
    assert sorted(seen) == sorted(by_id)
    assert (result.total, result.used, result.duplicates, result.near_duplicates) == (100, 100, 0, 0)
    assert result.stratified
    counts = Counter(record.label for record in records)
    assert {name: row.total for name, row in result.per_class.items()} == dict(sorted(counts.items()))
    assert sum(row.eval for row in result.per_class.values()) == 10
    summary = json.loads((tmp_path / "artifacts/datasets" / result.dataset / "summary.json").read_text())
    assert (summary["train"], summary["stratified"]) == (81, True)


@pytest.mark.parametrize("kind", ["auto", "classification", "generic"])
def test_the_target_of_a_classification_is_the_class_whatever_the_teacher_wrote_around_it(
    tmp_path: Path, kind: Any
) -> None:
    wordings = ("{}", "so [guidance] may fit.\n</think>\n\n[[[{}]]]", "The class is **{}**.")
    records = [
        make_record(
            workload_id=record.workload_id,
            client_id=record.client_id,
            timestamp=record.timestamp,
            model="teacher",
            messages=list(record.messages),
            answer=wordings[place % 3].format(record.label),
            label=record.label,
            labelled_by="teacher",
        )
        for place, record in enumerate(headlines(60))
    ]
    store(tmp_path, records)
    plan = news_plan(tmp_path)
    evaluation = plan.config.evaluation_config.model_copy(update={"workload_type": kind})
    config = plan.config.model_copy(update={"evaluation_config": evaluation})
    result = curate(plan.model_copy(update={"config": config}), tmp_path)
    rows = [row for part in ("train", "eval") for row in lines(tmp_path, result, part)]
    as_logged = {record.id: record.answer for record in records}
    for row in rows:
        answer = row["messages"][-1]["content"]
        said = without_thinking(as_logged[row["id"]])
        assert answer == (said if kind == "generic" else WORKLOAD.answer_for(row["label"]))
    with SqliteStore(tmp_path / "records.sqlite") as opened:  # the log is not rewritten
        assert {record.answer for record in opened.get(as_logged)} == set(as_logged.values())


def test_sizes_are_the_first_rows_and_say_what_they_hold(tmp_path: Path) -> None:
    result = run(tmp_path, headlines(100), sizes=(20, 50, 90, 500))
    rows = lines(tmp_path, result, "train")
    assert set(result.sizes) == {20, 50, 81}
    assert [candidate.name for candidate in result.candidates] == ["1b @ 81", "1b @ 50", "1b @ 20"]
    assert result.notes[-1].startswith(
        "size 90, 500: there are 81 training records, so the largest candidate"
    )
    for size in (20, 50):
        assert result.sizes[size].per_class == dict(sorted(Counter(r["label"] for r in rows[:size]).items()))
    assert CurateResult.model_validate(result.model_dump(mode="json")) == result


def test_only_records_before_the_cutoff_of_that_workload_and_client_are_seen(tmp_path: Path) -> None:
    mine = [news_record(f"mine {WORDS[i]} {WORDS[-i]}", timestamp=1000 + i) for i in range(1, 61)]
    others = [news_record(f"theirs {i}", client_id="other") for i in range(9)]
    others += [news_record(f"theirs {i}", workload_id="other") for i in range(9)]
    result = run(tmp_path, [*mine, *others], cutoff=1040)
    assert result.total == 39  # 1040 itself is not before the cutoff
    seen = [row for part in ("train", "val", "eval") for row in lines(tmp_path, result, part)]
    assert {row["timestamp"] for row in seen} == set(range(1001, 1040))


def test_limit_takes_the_newest(tmp_path: Path) -> None:
    records = [news_record(f"{WORDS[i]} {WORDS[-i]} up", timestamp=1000 + i) for i in range(1, 81)]
    result = run(tmp_path, records, limit=30, cutoff=1071)
    seen = [row for part in ("train", "val", "eval") for row in lines(tmp_path, result, part)]
    assert {row["timestamp"] for row in seen} == set(range(1041, 1071))
    assert result.total == 30


def test_near_duplicates_never_straddle_and_the_earliest_stays(tmp_path: Path) -> None:
    rng = random.Random(3)
    records = []
    for group in range(60):
        words = rng.sample(WORDS, 16)
        for copy in range(4):
            text = list(words)
            if copy:
                text[rng.randrange(16)] = f"other{group}{copy}"  # 15 of 17 words: 0.88
            if copy == 3:
                text = [word.upper() + "," for word in words]  # the same words
            records.append(
                news_record(" ".join(text), LABELS[group % 20], timestamp=1000 + 10 * group + copy)
            )
    rng.shuffle(records)
    result = run(tmp_path, records, sizes=(10,))
    seen = [row for part in ("train", "val", "eval") for row in lines(tmp_path, result, part)]
    assert sorted(row["timestamp"] for row in seen) == [1000 + 10 * group for group in range(60)]
    assert (result.total, result.duplicates, result.near_duplicates, result.used) == (240, 60, 120, 60)


def test_short_headlines_that_differ_in_a_figure_are_both_kept(tmp_path: Path) -> None:
    figures = [
        news_record(f"Bank raises Acme price target to ${i} from $0", LABELS[-i % 20]) for i in range(1, 61)
    ]
    assert run(tmp_path, figures).used == 60


def test_prompts_of_before_an_edit_are_not_taken_for_duplicates(tmp_path: Path) -> None:
    old = "".join(f"Rule {i}: read with care. " for i in range(200))
    records = headlines(40)
    records += [
        news_record(
            "", messages=[{"role": "user", "content": f"{old}\nText: {WORKLOAD.text_of(r.messages)}"}]
        )
        for r in headlines(40, seed=9)
    ]
    assert run(tmp_path, records).used == 80


def test_the_order_of_writing_does_not_matter(tmp_path: Path) -> None:
    records = headlines(120)
    first = run(tmp_path / "a", records)
    second = run(tmp_path / "b", records[::-1])
    assert first.dataset == second.dataset
    for part in ("train", "val", "eval"):
        assert ids(tmp_path / "a", first, part) == ids(tmp_path / "b", second, part)


def test_another_seed_gives_another_split(tmp_path: Path) -> None:
    one, other = run(tmp_path, headlines(200)), run(tmp_path, random_seed=7)
    assert one.dataset != other.dataset
    assert set(ids(tmp_path, one, "eval")) != set(ids(tmp_path, other, "eval"))


def test_tomorrows_eval_set_holds_nothing_that_was_trained_on(tmp_path: Path) -> None:
    # The shares of the classes stay; so no class gains seats.
    old = [r for label in set(LABELS) for r in headlines(400) if r.label == label][:300]
    new = [
        news_record(
            f"{WORKLOAD.text_of(r.messages)} again tomorrow with quite other words", r.label, 3000 + i
        )
        for i, r in enumerate(old)
    ]
    today = run(tmp_path, old, cutoff=2000, eval_size=60)
    tomorrow = run(tmp_path, new, cutoff=5000, eval_size=60)
    assert tomorrow.used == 600
    trained = set(ids(tmp_path, today, "train")) | set(ids(tmp_path, today, "val"))
    examined = set(ids(tmp_path, tomorrow, "eval"))
    assert not trained & examined
    assert examined & set(ids(tmp_path, today, "eval"))


def test_the_same_records_and_settings_are_found_not_built(tmp_path: Path, monkeypatch) -> None:
    first = run(tmp_path, headlines(100), sizes=(20,))
    monkeypatch.setattr(stage, "_build", None)
    again = run(tmp_path, sizes=(30, 1000), cutoff=1 << 31)
    assert (again.found, again.dataset, again.cutoff) == (True, first.dataset, 1 << 31)
    assert again.sizes.keys() == {30, again.train}
    assert again.per_class == first.per_class


def test_too_few_records_say_how_many_where_and_which_key(tmp_path: Path) -> None:
    records = [*headlines(20), news_record("late", timestamp=9000)]
    with pytest.raises(NotEnoughRecordsError) as error:
        run(tmp_path, records, min_total_records=50, cutoff=5000)
    message = str(error.value)
    for part in (
        "'news_classifier'",
        "'desk'",
        "1970-01-01T01:23:20",
        "20 records",
        "min_total_records",
        "50",
    ):
        assert part in message
    assert not (tmp_path / "artifacts/datasets").exists()


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRecordsError, match="0 records can be used"):
        run(tmp_path, [])


def test_eval_that_would_take_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRecordsError, match=r"data_split_config\.eval_size holds 40 out"):
        run(tmp_path, headlines(40), eval_size=40)


def test_sizes_beyond_the_data_are_one_candidate_named_by_its_true_number(tmp_path: Path) -> None:
    result = run(tmp_path, headlines(40), sizes=(500, 600), val_ratio=0.1)
    assert [candidate.name for candidate in result.candidates] == ["1b @ 27"]
    assert sum(result.sizes[27].per_class.values()) == 27


def test_the_fallback_to_a_random_split_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [*headlines(60), news_record("one of its kind", "Dividends")]
    records = [r for r in records if r.label != "Dividends" or "kind" in str(r.request)]
    result = run(tmp_path, records)
    assert not result.stratified
    assert "random split instead of a stratified one" in result.notes[-1]
    assert "random split instead of a stratified one" in caplog.text


def test_a_post_takes_no_place_of_the_teachers_and_examines_nobody(tmp_path: Path) -> None:
    ours = headlines(60)
    mine = [
        news_record(WORKLOAD.text_of(r.messages), "Dividends", timestamp=0, known_at=5, labelled_by="posted")
        for r in ours[:30]
    ]
    other = [replace(r, known_at=7, labelled_by="posted") for r in headlines(20, seed=5)]
    result = run(tmp_path, [*mine, *other, *ours])
    differing = [r for r in ours[:30] if r.label != "Dividends"]
    assert (result.conflicts, result.duplicates) == (len(differing), 30)
    assert result.conflict_examples[0].kept in {r.id for r in ours}
    assert (result.conflict_examples[0].other_by, result.conflict_examples[0].kept_by) == (
        "posted",
        "teacher",
    )
    assert any("has another label" in note for note in result.notes)
    assert result.labelled_by == {"teacher": 60, "posted": 20}
    posted = {r.id for r in other}
    for part in ("val", "calibration", "eval"):
        assert not posted & set(ids(tmp_path, result, part))
    assert set(ids(tmp_path, result, "train")[-20:]) == posted
    labels = {
        row["id"]: row["label"] for part in ("train", "val", "eval") for row in lines(tmp_path, result, part)
    }
    assert all(labels[r.id] == r.label for r in ours if r.id in labels)


def test_a_client_that_only_posts_is_examined_on_what_it_posted(tmp_path: Path) -> None:
    result = run(tmp_path, [replace(r, labelled_by="posted") for r in headlines(60)])
    assert result.eval == 10


def test_a_stronger_word_makes_another_dataset(tmp_path: Path) -> None:
    records = headlines(60)
    first = run(tmp_path, [replace(r, labelled_by="application") for r in records])
    assert run(tmp_path, records[:1]).dataset != first.dataset


def test_too_few_records_say_how_many_lie_after_the_cutoff(tmp_path: Path) -> None:
    store(tmp_path, [replace(r, known_at=9000 + i) for i, r in enumerate(headlines(60))])
    with pytest.raises(NotEnoughRecordsError, match="59 lie after the cutoff"):
        run(tmp_path, cutoff=9001)


def test_a_text_that_comes_again_with_another_time_stays_as_first_seen(tmp_path: Path) -> None:
    records = headlines(60)
    again = [
        news_record(WORKLOAD.text_of(r.messages), r.label, timestamp=r.timestamp + 5000) for r in records
    ]
    result = run(tmp_path, [*again, *records])
    assert result.duplicates == 60
    times = [row["timestamp"] for part in ("train", "val", "eval") for row in lines(tmp_path, result, part)]
    assert max(times) < 5000
