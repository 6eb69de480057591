"""Events: reports in other words are one, other events of the company are not, and no chain makes a large one."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.made_events import make_reports
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.schema import DataSplitConfig
from flywheel.curation.events import event_words
from flywheel.curation.reading import Reduced
from flywheel.curation.samples import Samples, collect
from flywheel.curation.seen import seen_ids, seen_in_eval
from flywheel.curation.words import words_of
from tests.unit.news_records import WORKLOAD, news_record
from tests.unit.test_curate import headlines, ids, lines, run
from tests.unit.test_prompt_versions import EDITED, TEXTS, night, records_of
from tests.unit.test_splits import make


def samples_of(texts: list[str], times: list[int], **values) -> Samples:
    lines = (Reduced(str(i), "OTHER", " ".join(words_of(text)), times[i], 0) for i, text in enumerate(texts))
    return collect(lines, DataSplitConfig(**values))


def pairs(groups) -> int:
    return sum(count * (count - 1) // 2 for count in Counter(groups).values())


def test_made_events_are_found_in_other_words_and_told_from_others_of_the_company() -> None:
    reports = make_reports(400, seed=5, days=10)
    samples = samples_of([r.text for r in reports], [r.time for r in reports])
    truth = [reports[int(name)].event for name in samples.ids]
    groups = samples.events.tolist()
    both = pairs(zip(groups, truth, strict=True))
    assert both / pairs(groups) >= 0.9
    assert both / pairs(truth) >= 0.9
    assert max(Counter(groups).values()) <= 0.01 * len(groups)


# Words that tell nothing of an event, as many texts have them.
FILLERS = [
    "buys",
    "for",
    "sold",
    "pays",
    "to",
    "spend",
    "on",
    "bought",
    "by",
    "price",
    "merger",
    "talks",
    "go",
    "billion",
    "up",
    "down",
    "with",
    "at",
    "of",
    "says",
]


def background() -> list[str]:
    """Return texts of other events."""
    return [f"alpha{i} beta{i % 50} {FILLERS[i % 20]} {FILLERS[(3 * i + 1) % 20]} delta" for i in range(300)]


def grouped(texts: list[str], times: list[int]) -> list[int]:
    """Return the events of some texts among many others."""
    others = background()
    samples = samples_of([*texts, *others], [*times, *([times[-1]] * len(others))])
    return samples.events[: len(texts)].tolist()


def test_another_figure_is_another_event_and_spellings_of_one_figure_are_one() -> None:
    texts = [
        "Brenwick buys Caldane for $1.50bn",
        "Caldane sold: Brenwick pays 1.5 billion",
        "Brenwick to spend $2.7bn on Caldane",
    ]
    assert grouped(texts, [100, 200, 300]) == [0, 0, 2]


def test_a_report_after_the_window_is_another_event() -> None:
    texts = ["Brenwick buys Caldane for $15 billion", "Caldane bought by Brenwick, price $15 billion"]
    assert grouped(texts, [100, 100 + 86400]) == [0, 0]
    assert grouped(texts, [100, 100 + 3 * 86400]) == [0, 1]


def test_a_chain_of_daily_reports_does_not_grow_beyond_the_window_of_the_first() -> None:
    texts = [f"Brenwick Caldane {FILLERS[i]} {FILLERS[i + 7]}" for i in range(6)]
    assert grouped(texts, [100 + 86400 * day for day in range(6)]) == [0, 0, 0, 3, 3, 3]


def test_words_of_a_figure_and_of_a_name_are_one() -> None:
    merged, figures = event_words(["1.50bn", "1.5", "1,500", "1500", "acme's", "acme", "q3"])
    assert merged.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert figures.tolist() == [True, True, False, False]


@pytest.mark.parametrize("kind", ["temporal", "random"])
def test_texts_of_one_event_are_on_one_side(kind: str) -> None:
    rng = np.random.default_rng(4)
    events = np.array([i - i % 3 for i in range(400)])
    parts = make(
        rng.integers(0, 4, 400).tolist(),
        events=events,
        split=kind,
        gap_days=0,
        calibration_ratio=0.1,
        eval_size=40,
    )
    sides = [
        set(events[places].tolist()) for places in (parts.train, parts.val, parts.calibration, parts.eval)
    ]
    for place, side in enumerate(sides):
        assert side
        assert not side & set().union(*sides[place + 1 :])


def test_temporal_is_in_the_order_of_time_and_eval_is_the_newest() -> None:
    parts = make(
        [i % 3 for i in range(200)], split="temporal", gap_days=0, calibration_ratio=0.1, eval_size=20
    )
    assert sorted(parts.eval.tolist()) == list(range(180, 200))
    assert parts.train.max() < parts.val.min()
    assert parts.val.max() < parts.calibration.min()
    assert parts.calibration.max() < parts.eval.min()
    assert len(parts.left_out) == 0


def test_the_gap_takes_its_days_and_at_most_a_tenth() -> None:
    days = [86400 * i for i in range(200)]
    parts = make([0] * 200, times=days, split="temporal", gap_days=5, eval_size=20)
    # Strictly less than five days before the first validation record.
    assert days[parts.val.min()] - days[parts.train.max()] == 5 * 86400
    assert len(parts.left_out) == 4
    parts = make([0] * 200, times=[7] * 200, split="temporal", gap_days=5, eval_size=20)
    assert len(parts.left_out) == 16
    assert "data_split_config.gap_days" in parts.notes[0]


def test_temporal_says_which_eval_classes_training_has_none_of() -> None:
    parts = make([0] * 190 + [1] * 10, split="temporal", eval_size=10)
    assert parts.notes[-1] == "10 eval records are of classes that training has none of: b"


def test_a_raised_eval_size_leaves_out_what_the_champion_was_trained_on(tmp_path: Path) -> None:
    records = headlines(300)
    before = run(tmp_path, records, eval_size=20, sizes=(100,))
    after = run(tmp_path, eval_size=150, sizes=(100,))
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    seen = seen_ids(root, before.dataset, 100)
    assert seen >= {*ids(tmp_path, before, "train")[:100], *ids(tmp_path, before, "val")}
    assert seen.isdisjoint(ids(tmp_path, before, "eval"))
    examined = set(ids(tmp_path, after, "eval"))
    assert examined & seen
    assert seen_in_eval(root, after.dataset, seen) == examined & seen


def test_another_report_of_a_seen_event_is_seen(tmp_path: Path) -> None:
    others = [news_record(text, timestamp=1000 + i) for i, text in enumerate(background())]
    first = news_record("Brenwick buys Caldane for $15 billion", timestamp=1400)
    sibling = news_record("Caldane bought by Brenwick, price $15 billion", timestamp=2000)
    before = run(tmp_path, [*others, first], sizes=(500,), cutoff=1900, split="random", eval_size=2)
    late = [
        news_record(f"late{i} other{i % 5} more{i % 4}", ("OTHER", "Earnings")[i % 2], timestamp=1950 + i)
        for i in range(5)
    ]
    after = run(tmp_path, [*late, sibling], sizes=(500,), split="temporal", eval_size=3, gap_days=0)
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    seen = seen_ids(root, before.dataset, None)
    assert first.id in seen
    assert sibling.id in ids(tmp_path, after, "eval")
    assert seen_in_eval(root, after.dataset, seen) == {sibling.id}


def test_a_seen_text_is_known_again_under_another_prompt_seed_and_word(tmp_path: Path) -> None:
    posted = records_of(WORKLOAD, TEXTS, labelled_by="posted", timestamp=1000)
    before = night(tmp_path, WORKLOAD, posted, sizes=(500,), eval_size=5, random_seed=1)
    folder = tmp_path / "after"
    folder.mkdir()
    labelled = records_of(EDITED, TEXTS, labelled_by="teacher", timestamp=1000)
    after = night(folder, EDITED, labelled, known=[WORKLOAD], sizes=(500,), eval_size=10, random_seed=2)
    one, other = ArtifactRoot(str(tmp_path / "artifacts")), ArtifactRoot(str(folder / "artifacts"))
    seen = seen_ids(one, before.dataset, None)
    examined = set(ids(folder, after, "eval"))
    held_out = {line["text"] for line in lines(tmp_path, before, "eval")}
    known = {line["id"] for line in lines(folder, after, "eval") if line["text"] not in held_out}
    assert not examined & seen  # none is there under the same id
    assert seen_in_eval(other, after.dataset, seen) == known
    assert len(known) >= 5


def test_what_stays_in_place_of_a_seen_near_duplicate_is_seen(tmp_path: Path) -> None:
    others = [news_record(text, timestamp=1000 + i) for i, text in enumerate(background())]
    words = "Brenwick agrees to buy Caldane for 15 billion dollars after months of talks in London"
    weaker = news_record(words, timestamp=1500, labelled_by="posted")
    before = run(tmp_path, [*others, weaker], sizes=(500,), cutoff=1600, split="random", eval_size=2)
    stronger = news_record(f"{words} today", timestamp=2000)
    late = [news_record(f"late{i} it{i}", ("OTHER", "Earnings")[i % 2], timestamp=1950 + i) for i in range(3)]
    after = run(
        tmp_path, [*late, stronger], sizes=(500,), split="temporal", eval_size=3, gap_days=0, event_days=0
    )
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    assert weaker.id in ids(tmp_path, before, "train")
    assert stronger.id in ids(tmp_path, after, "eval")
    assert stronger.id in seen_in_eval(root, after.dataset, seen_ids(root, before.dataset, None))
