"""The generator of headlines: what its users rely on, and how near it is to real news."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path

import pytest
import yaml

from flywheel.demo.grammar import compiler, kinds
from flywheel.demo.headlines import (
    DEFAULT_END,
    DEFAULT_SEED,
    DEFAULT_START,
    DemoHeadline,
    _reports,
    generate,
    write_csv,
)

CLASSES = {
    "Analyst Rating", "Price Targets", "Earnings", "Labour Issues", "Mergers and Acquisitions", "Dividends",
    "Regulatory", "Stock price movement", "Credit Ratings", "Products-Services", "Product Approval", "Guidance",
    "OTHER",
}  # fmt: skip


@pytest.fixture(scope="module")
def headlines() -> list[DemoHeadline]:
    return list(generate(10_000))


def _words(item: DemoHeadline) -> list[str]:
    return item.text.lower().split()


def test_the_same_seed_gives_the_same_headlines(headlines: list[DemoHeadline]) -> None:
    assert list(generate(300)) == headlines[:300]
    assert list(generate(300, seed=1)) != headlines[:300]


def test_a_smaller_count_is_a_prefix_and_generation_streams(headlines: list[DemoHeadline]) -> None:
    assert list(islice(generate(10**12), 50)) == headlines[:50]


def test_all_classes_are_there_and_their_frequencies_are_skewed(headlines: list[DemoHeadline]) -> None:
    counts = Counter(item.human_label for item in headlines)
    assert set(counts) == CLASSES == {item.teacher_label for item in headlines}
    assert min(counts.values()) >= 100
    assert max(counts.values()) > 7 * min(counts.values())


def test_lengths_are_those_of_news(headlines: list[DemoHeadline]) -> None:
    lengths = sorted(len(item.text.split()) for item in headlines)
    assert 8 <= lengths[len(lengths) // 2] <= 14
    assert lengths[len(lengths) // 100] >= 3
    assert lengths[-1] <= 40


# Distinct lower-cased words among the first n headlines; real news has 546, 3592, 10030 and 14917.
@pytest.mark.parametrize(("count", "real"), [(100, 546), (1000, 3592), (5000, 10030), (10_000, 14917)])
def test_vocabulary_grows_as_in_news(headlines: list[DemoHeadline], count: int, real: int) -> None:
    distinct = len({word for item in headlines[:count] for word in _words(item)})
    assert real / 2 <= distinct <= 2 * real


def test_near_duplicates_are_rare(headlines: list[DemoHeadline]) -> None:
    sets = [frozenset(_words(item)) for item in headlines[:5000]]
    frequency = Counter(word for words in sets for word in words)
    holders: dict[str, list[int]] = defaultdict(list)
    near: set[int] = set()
    for place, words in enumerate(sets):
        # Two sets with Jaccard 0.8 share one of the rarest words of each; so only those are looked up.
        rarest = sorted(words, key=lambda word: (frequency[word], word))[: len(words) // 5 + 1]
        for other in {other for word in rarest for other in holders[word]}:
            if len(words & sets[other]) >= 0.8 * len(words | sets[other]):
                near |= {place, other}
        for word in rarest:
            holders[word].append(place)
    assert len(near) < 0.03 * len(sets)


def test_the_teacher_is_good_but_not_perfect(headlines: list[DemoHeadline]) -> None:
    agreement = sum(item.human_label == item.teacher_label for item in headlines) / len(headlines)
    assert 0.90 <= agreement <= 0.95


def test_dates_lie_in_the_range_and_are_utc() -> None:
    for item in generate(200, start=date(2025, 2, 1), end=date(2025, 2, 8)):
        moment = datetime.fromisoformat(item.timestamp)
        assert moment.utcoffset() is not None
        assert date(2025, 2, 1) <= moment.date() < date(2025, 2, 8)


def test_texts_are_clean(headlines: list[DemoHeadline]) -> None:
    for item in headlines:
        assert item.text == item.text.strip()
        assert not re.search(r"[{}\[\]|^\n]|  ", item.text), item.text


def test_a_price_target_outranks_the_rating_it_comes_with(headlines: list[DemoHeadline]) -> None:
    both = [item for item in headlines if item.kind.startswith("rating_") and "target" in item.kind]
    assert both
    assert {item.human_label for item in both} == {"Price Targets"}


def test_a_wrong_range_or_count_is_refused() -> None:
    with pytest.raises(ValueError, match="must be after start"):
        next(generate(1, start=date(2025, 1, 1), end=date(2025, 1, 1)))
    with pytest.raises(ValueError, match="count must be"):
        next(generate(-1))


def test_the_csv_has_human_labels_for_its_first_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "headlines.csv"
    assert write_csv(path, 50, human_labelled=20) == 50
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["date", "headline", "human_label", "teacher_label"]
    assert [bool(row["human_label"]) for row in rows] == [True] * 20 + [False] * 30
    assert all(row["teacher_label"] in CLASSES for row in rows)
    assert [row["headline"] for row in rows] == [item.text for item in generate(50)]


def test_every_slot_of_every_template_is_known() -> None:
    folder = Path(compiler.__file__).parent
    words = yaml.safe_load((folder / "words.yaml").read_text(encoding="utf-8"))
    known = set(words) | set(compiler.SLOTS)
    for file in folder.glob("*.yaml"):
        if file.name in ("names.yaml", "sectors.yaml"):
            continue
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for slot in re.findall(r"\{(\w+)\^?\}", str(list(content.values()))):
            assert slot in known, f"{file.name}: {slot}"


def test_a_choice_that_is_not_closed_is_refused() -> None:
    with pytest.raises(ValueError, match="not closed"):
        compiler.compile_template("shares [rise|fall")


def test_kinds_have_distinct_names_and_known_classes() -> None:
    assert len({kind.name for kind in kinds()}) == len(kinds())
    assert {kind.label for kind in kinds()} | {kind.teacher for kind in kinds()} == CLASSES


def test_events_are_reported_again_in_other_words_within_days_and_with_the_same_labels() -> None:
    reports = list(islice(_reports(4000, DEFAULT_SEED, DEFAULT_START, DEFAULT_END), 4000))
    further = [
        (first, then)
        for first, then in pairwise(reports)
        if then[0].kinds == first[0].kinds and then[0].template != first[0].template and then[1] > first[1]
        if {"co", "bank", "person"} & set(first[0].facts)
        and set(first[0].facts.items()) <= set(then[0].facts.items())
    ]
    assert 0.08 < len(further) / len(reports) < 0.2
    for (first, when), (then, later) in further:
        assert then.text != first.text
        assert (then.human_label, then.teacher_label) == (first.human_label, first.teacher_label)
        assert later - when < timedelta(days=3)
