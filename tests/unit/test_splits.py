"""Splits: shares of classes at every size, order that does not matter, stability as data grows, rare classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.config.schema import DataSplitConfig
from flywheel.curation.splits import Split, apportion, split

NAMES = tuple("abcdefgh")


def config(**values) -> DataSplitConfig:
    return DataSplitConfig.model_validate({"eval_size": 10, "val_ratio": 0.1, **values})


def make(labels: list[int], seed: int = 0, *, times=None, events=None, **values) -> Split:
    n = len(labels)
    hashes = np.random.default_rng(seed).integers(0, 1 << 62, n).astype(np.uint64)
    times = np.arange(n) if times is None else np.array(times, np.int64)
    events = np.arange(n) if events is None else np.array(events, np.int64)
    return split(np.array(labels, np.int64), NAMES, hashes, times, events, config(**values))


def labels_of_counts(counts: list[int]) -> list[int]:
    return [label for label, count in enumerate(counts) for _ in range(count)]


class_counts = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(lambda counts: sum(counts) > 12)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=14), st.floats(0, 1))
def test_seats_are_shared_by_exact_quota(counts: list[int], share: float) -> None:
    total = sum(counts)
    seats = int(share * total)
    given_seats = apportion(np.array(counts), seats)
    assert given_seats.sum() == seats
    for count, got in zip(counts, given_seats.tolist(), strict=True):
        assert got <= count
        assert abs(got * total - count * seats) < max(total, 1)


@settings(deadline=None, max_examples=50)
@given(class_counts, st.integers(1, 12), st.floats(0, 0.9))
def test_each_record_is_in_one_part_and_the_parts_have_their_sizes(
    counts: list[int], eval_size: int, val_ratio: float
) -> None:
    n = sum(counts)
    parts = make(labels_of_counts(counts), eval_size=eval_size, val_ratio=val_ratio)
    places = np.concatenate([parts.train, parts.val, parts.eval])
    assert sorted(places.tolist()) == list(range(n))
    assert len(parts.eval) == eval_size
    assert len(parts.val) == round(val_ratio * (n - eval_size))


@settings(deadline=None, max_examples=50)
@given(class_counts, st.integers(0, 5))
def test_the_first_rows_of_every_part_have_each_classs_share(counts: list[int], seed: int) -> None:
    counts = [count + 2 if count else 0 for count in counts]
    labels = np.array(labels_of_counts(counts))
    parts = make(labels.tolist(), seed, val_ratio=0.3, rare_class_threshold=0, min_samples_per_class=1)
    assert parts.stratified
    for places in (parts.train, parts.val, parts.eval):
        classes = [label for label in range(len(counts)) if (labels[places] == label).any()]
        for n in range(1, len(places) + 1):
            seen = np.bincount(labels[places[:n]], minlength=len(counts))
            there = np.bincount(labels[places], minlength=len(counts))
            for label in classes:
                # Within half a record at any point of the way; n itself is off by half a record a class.
                bound = 0.5 + there[label] / len(places) * len(classes) / 2
                assert abs(seen[label] - n * there[label] / len(places)) <= bound + 1e-9


def test_a_large_skewed_set_keeps_shares_within_a_record_of_exact() -> None:
    counts = [16000, 9000, 5000, 2000, 900, 300, 40, 7]
    labels = np.array(labels_of_counts(counts))
    parts = make(labels.tolist(), eval_size=1000)
    total = len(parts.train)
    there = np.bincount(labels[parts.train], minlength=8)
    for n in (10, 100, 1000, 5000, 10000, 25000):
        seen = np.bincount(labels[parts.train[:n]], minlength=8)
        assert np.abs(seen - n * there / total).max() <= 1.0


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(60)), st.integers(0, 3))
def test_the_order_of_the_records_does_not_matter(order: list[int], seed: int) -> None:
    labels = np.array([i % 5 if i % 7 else 6 for i in range(60)])
    hashes = np.random.default_rng(seed).integers(0, 1 << 62, 60).astype(np.uint64)
    each = np.arange(60)
    one = split(labels, NAMES, hashes, each, each, config())
    other = split(labels[order], NAMES, hashes[order], each, each, config())
    for part in ("train", "val", "eval"):
        assert getattr(one, part).tolist() == [order[place] for place in getattr(other, part)]


@settings(deadline=None, max_examples=60)
@given(class_counts, class_counts, st.integers(0, 3))
def test_as_data_grows_no_old_record_moves_into_eval_unless_its_class_gains_seats(
    before: list[int], more: list[int], seed: int
) -> None:
    old = labels_of_counts(before)
    labels = np.array([*old, *labels_of_counts(more)])
    hashes = np.random.default_rng(seed).integers(0, 1 << 62, len(labels)).astype(np.uint64)
    settings_ = config(rare_class_threshold=0, min_samples_per_class=1)
    each, before_ = np.arange(len(labels)), np.arange(len(old))
    night = split(labels[: len(old)], NAMES, hashes[: len(old)], before_, before_, settings_)
    next_night = split(labels, NAMES, hashes, each, each, settings_)
    for label in set(old):
        was = {place for place in night.eval.tolist() if labels[place] == label}
        now = {place for place in next_night.eval.tolist() if labels[place] == label}
        moved_in = {place for place in now - was if place < len(old)}
        assert len(moved_in) <= max(0, len(now) - len(was))


def test_rare_classes_are_pooled_and_named() -> None:
    parts = make(labels_of_counts([40, 40, 1, 1, 1]))
    assert parts.stratified
    assert "with at most 1 records each" in parts.notes[0]
    assert parts.notes[0].endswith(": c, d, e")


@pytest.mark.parametrize(
    ("counts", "values", "words"),
    [
        (
            [40, 40, 1],
            {},
            "the pooled 'others' has 1 records, data_split_config.min_samples_per_class asks for 2",
        ),
        ([40, 40, 3], {"min_samples_per_class": 4}, "'c' has 3 records"),
        ([40, 40], {"stratify_enabled": False}, "data_split_config.stratify_enabled is false"),
    ],
)
def test_a_random_split_says_why(counts: list[int], values: dict, words: str) -> None:
    parts = make(labels_of_counts(counts), **values)
    assert not parts.stratified
    assert words in parts.notes[-1]
    assert len(parts.eval) == 10


def test_one_class_alone_is_split() -> None:
    parts = make([0] * 40)
    assert (len(parts.eval), len(parts.val), len(parts.train)) == (10, 3, 27)


def test_the_plan_names_the_keys_of_the_split_that_its_params_change(tmp_path) -> None:
    from datetime import UTC, datetime

    from flywheel.runs.plan import make_plan
    from tests.unit.finished_run import config_of

    config = config_of(str(tmp_path), "nowhere")
    at = {"run_id": "r", "cutoff": datetime(2026, 1, 1, tzinfo=UTC)}
    same = {"data_split_config": {"eval_size": config.data_split_config.eval_size}}
    assert make_plan(config, **at, overrides=same).exam_changes == ()
    assert make_plan(config, **at, sizes=[7]).exam_changes == ()
    changed = {"data_split_config": {"limit": 400, "eval_size": config.data_split_config.eval_size}}
    assert make_plan(config, **at, overrides=changed).exam_changes == ("data_split_config.limit",)
