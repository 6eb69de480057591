"""Groups of near-duplicates are those that comparing all pairs gives; a sample's own text is what is compared."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.curation import near_duplicates
from flywheel.curation.near_duplicates import group_similar
from flywheel.curation.texts import MIN_SHARED, own_texts
from flywheel.curation.words import words_of
from tests.unit.news_records import WORKLOAD, news_record

THRESHOLDS = [0.5, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]


def groups(sets: list[set[int]], threshold: float) -> list[int]:
    words = np.array([word for words in sets for word in sorted(words)], np.int32)
    starts = np.cumsum([0, *map(len, sets)])
    return group_similar(words, starts, threshold).tolist()


def groups_by_all_pairs(sets: list[set[int]], threshold: float) -> list[int]:
    first = list(range(len(sets)))
    for i, one in enumerate(sets):
        for j, other in enumerate(sets[:i]):
            union = len(one | other)
            if len(one & other) >= threshold * union - 1e-9:
                low, high = sorted((first[i], first[j]))
                first = [low if name == high else name for name in first]
    return first


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 14), max_size=14), max_size=25),
    st.sampled_from(THRESHOLDS),
)
def test_small_sets_are_grouped_as_by_all_pairs(sets: list[set[int]], threshold: float) -> None:
    assert groups(sets, threshold) == groups_by_all_pairs(sets, threshold)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_edited_texts_of_all_lengths_are_grouped_as_by_all_pairs(threshold: float) -> None:
    rng = random.Random(threshold)
    bases = [set(rng.sample(range(5000), size)) for size in (3, 6, 7, 8, 10, 13, 20, 45, 110, 260)]
    sets = []
    for _ in range(130):
        edited = set(rng.choice(bases))
        for _ in range(rng.randrange(1 + len(edited) // 3)):
            edited.discard(rng.choice([*edited, 0]))
            if rng.random() < 0.5:
                edited.add(rng.randrange(5000))
        sets.append(edited)
    assert groups(sets, threshold) == groups_by_all_pairs(sets, threshold)


def test_work_in_many_small_chunks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    sets = [set(rng.sample(range(12), rng.randrange(12))) for _ in range(150)]
    monkeypatch.setattr(near_duplicates, "_PAIRS", 3)
    monkeypatch.setattr(near_duplicates, "_CHUNK_WORDS", 5)
    monkeypatch.setattr(near_duplicates, "_LARGE", 4)
    assert groups(sets, 0.7) == groups_by_all_pairs(sets, 0.7)


def test_no_sets_and_empty_sets() -> None:
    assert groups([], 0.85) == []
    assert groups([set(), {1}, set()], 0.85) == [0, 1, 0]


def test_a_chain_of_similar_texts_is_one_group() -> None:
    words = list(range(30))
    chain = [set(words[i : i + 20]) for i in range(8)]  # neighbours share 19 of 21
    assert groups([{99}, *chain], 0.85) == [0] + [1] * 8


def test_words_keep_figures_whole_and_drop_case_and_punctuation() -> None:
    assert words_of("UPDATE 1-Q3 EPS $0.18, S&P's K-Cups: up 4.5%!") == [
        "update", "1-q3", "eps", "0.18", "s&p's", "k-cups", "up", "4.5",
    ]  # fmt: skip
    assert words_of("STRASSE") == words_of("straße")
    assert words_of("!?") == []


def texts_of(contents: list[str], workload=WORKLOAD) -> list[str]:
    records = [news_record("", messages=[{"role": "user", "content": content}]) for content in contents]
    found = list(own_texts(records, workload))
    assert [record for record, _ in found] == records
    return [own.text for _, own in found]


def test_the_workloads_own_prompt_gives_its_text() -> None:
    records = [news_record("Shares rise"), news_record("Shares fall")]
    assert [own.text for _, own in own_texts(records, WORKLOAD)] == ["Shares rise", "Shares fall"]


def test_a_prompt_nobody_described_loses_what_its_records_share() -> None:
    before, after = "Classify with care. " * 40 + "Headline: ", "\nAnswer in one word."
    headlines = ["Apple raises dividend", "Apple raises guidance", "Banks fall", "Apple raises dividend"]
    assert [t.strip() for t in texts_of([before + h + after for h in headlines])] == headlines


@pytest.mark.parametrize("batch", [2, 500])
def test_two_versions_of_a_prompt_are_told_apart(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.curation.texts._BATCH", batch)
    start = "Classify the headline below. " * 20
    versions = [start + "Old rules apply. " * 30, start + "New rules apply, and more of them. " * 30]
    headlines = ["Big news", "Small news", "Odd company falls", "Big company falls", "Banks rise"]
    texts = texts_of([version + headline for headline in headlines for version in versions])
    assert texts[4:] == [headline for headline in headlines[2:] for _ in versions]


def test_a_rare_prompt_is_recognised_across_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.curation.texts._BATCH", 2)
    prompt = "Say what this is about, briefly and well. " * 20
    texts = texts_of([prompt + "one two", "x", "y", "z", prompt + "three four", prompt + "five six"])
    assert texts[1:] == ["x", "y", "z", "three four", "five six"]


def test_texts_that_share_less_than_a_prompt_keep_it() -> None:
    headline = "Company announces results of its annual meeting held on the third of May in "
    assert len(headline) < MIN_SHARED
    assert texts_of([headline + "Paris", headline + "Rome"]) == [headline + "Paris", headline + "Rome"]
