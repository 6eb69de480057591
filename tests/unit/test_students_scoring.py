"""Scores are scikit-learn's; an answer without a class is wrong and in no class's precision."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from flywheel.workloads.scoring import bootstrap_f1_weighted, score_labels

CLASSES = ("a", "b", "c", "unused")


def make_labels(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    teacher = rng.choice(["a", "b", "c"], count, p=[0.6, 0.3, 0.1])
    wrong = rng.choice(["a", "b", "c", ""], count)
    return teacher.tolist(), np.where(rng.random(count) < 0.7, teacher, wrong).tolist()


def test_scores_are_those_of_scikit_learn() -> None:
    teacher, student = make_labels(300)
    scores = score_labels(teacher, student, CLASSES, bootstrap_samples=100)
    assert scores.scores["f1_weighted"] == pytest.approx(
        f1_score(teacher, student, average="weighted", zero_division=0)
    )
    assert scores.scores["f1_macro"] == pytest.approx(
        f1_score(teacher, student, labels=["a", "b", "c"], average="macro", zero_division=0)
    )
    assert scores.scores["accuracy"] == pytest.approx(accuracy_score(teacher, student))
    assert list(scores.per_class) == ["a", "b", "c"]
    assert sum(score.support for score in scores.per_class.values()) == 300


def test_unparsable_answers_are_misses_and_hits_of_no_class() -> None:
    scores = score_labels(["a", "a", "b"], ["a", "", "b"], CLASSES, bootstrap_samples=100)
    assert scores.unparsable == 1
    assert scores.per_class["a"].precision == 1 and scores.per_class["a"].recall == 0.5
    assert scores.scores["accuracy"] == pytest.approx(2 / 3)
    assert scores.confusion.labels == ("a", "b")
    assert scores.confusion.matrix == ((1, 0, 1), (0, 1, 0))


def test_a_student_that_names_nothing_scores_zero() -> None:
    scores = score_labels(["a", "b"], ["", ""], CLASSES, bootstrap_samples=100)
    assert scores.scores["f1_weighted"] == scores.scores["f1_macro"] == scores.scores["accuracy"] == 0
    assert scores.intervals["f1_weighted"] == (0, 0)


def test_a_perfect_student_scores_one() -> None:
    scores = score_labels(["a", "b"], ["a", "b"], CLASSES, bootstrap_samples=100)
    assert scores.scores["f1_weighted"] == scores.scores["f1_macro"] == 1
    assert scores.intervals["f1_weighted"] == (1, 1)


def test_a_class_that_only_the_student_names_lowers_the_macro_f1_alone() -> None:
    scores = score_labels(["a", "a", "a"], ["a", "a", "c"], CLASSES, bootstrap_samples=100)
    assert scores.per_class["c"].support == 0 and scores.per_class["c"].f1 == 0
    assert scores.scores["f1_weighted"] == pytest.approx(0.8) and scores.scores["f1_macro"] == pytest.approx(
        0.4
    )


def test_the_interval_is_that_of_resampled_records() -> None:
    teacher, student = make_labels(120)
    low, high = score_labels(teacher, student, CLASSES, bootstrap_samples=4000).intervals["f1_weighted"]
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(200):
        picks = rng.integers(0, 120, 120)
        drawn.append(
            f1_score(
                np.array(teacher)[picks],
                np.array(student)[picks],
                labels=["a", "b", "c"],
                average="weighted",
                zero_division=0,
            )
        )
    assert low == pytest.approx(np.percentile(drawn, 2.5), abs=0.02)
    assert high == pytest.approx(np.percentile(drawn, 97.5), abs=0.02)


def test_the_interval_follows_from_the_seed_and_is_quick() -> None:
    matrix = np.random.default_rng(0).integers(0, 50, (13, 14))
    started = time.process_time()
    first = bootstrap_f1_weighted(matrix, 1000, seed=3)
    assert time.process_time() - started < 1
    assert first == bootstrap_f1_weighted(matrix, 1000, seed=3)
    assert first != bootstrap_f1_weighted(matrix, 1000, seed=4)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="as many labels"):
        score_labels(["a"], [], CLASSES, bootstrap_samples=100)
