"""Answers beside the teacher's: scores by type of workload."""

from typing import Any

import numpy as np
import pytest

from flywheel.config.evaluation import EvaluationConfig, WorkloadType
from flywheel.students.comparing import Compared, bootstrap_mean, compare
from flywheel.students.similarity import Similarity
from flywheel.workloads.tool_calls import NO_CALL


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def record(content: str, *calls: dict[str, Any], label: str = "text") -> dict[str, Any]:
    answer: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        answer["tool_calls"] = list(calls)
    return {"id": "1", "label": label, "messages": [{"role": "user", "content": "?"}, answer]}


def compared(records: list[dict[str, Any]], texts: list[str], kind: WorkloadType) -> Compared:
    evaluation = EvaluationConfig(workload_type=kind, bootstrap_samples=200)
    return compare(records, texts, evaluation, ("Earnings", "OTHER"), {})


def test_calls_are_scored_by_function_and_by_arguments() -> None:
    records = [
        record("", call("buy", n=1)),
        record("", call("buy", n=2)),
        record("", call("sell", n=1), call("buy", n=1)),
        record("Nothing to do."),
        record("", call("sell", n=9)),
    ]
    answers = [
        '{"name": "buy", "arguments": {"n": 1.0}}',  # right
        '{"name": "buy", "arguments": {"n": 3}}',  # the right function
        '{"name": "buy", "arguments": {"n": 1}}\n{"name": "sell", "arguments": {"n": 1}}',  # right, another order
        "There is nothing to do.",  # right: no call
        '{"name": "sell", "arguments": {"n": ',  # cut off
    ]
    found = compared(records, answers, "tool_calling")
    assert found.scores["function_name_accuracy"] == pytest.approx(4 / 5)
    assert found.scores["function_name_and_args_accuracy"] == pytest.approx(3 / 5)
    assert found.each["function_name_and_args_accuracy"] == [1, 0, 1, 1, 0]
    assert found.unparsable == 1
    assert found.teacher[3] == found.student[3] == NO_CALL
    assert found.labels is not None
    assert set(found.labels.per_class) == {"buy()", "buy() + sell()", "sell()", NO_CALL}
    low, high = found.intervals["function_name_and_args_accuracy"]
    assert 0 <= low < 3 / 5 < high <= 1


def test_no_answer_is_not_the_decision_to_call_nothing() -> None:
    found = compared([record("Nothing."), record("Nothing.")], ["", "Nothing."], "tool_calling")
    assert found.scores["function_name_accuracy"] == 0.5
    assert found.unparsable == 1


def test_free_texts_are_scored_by_similarity_and_equality() -> None:
    records = [record("Acme raises its dividend."), record("Beta cuts 300 jobs."), record("Nothing new.")]
    found = compared(records, ["Acme  raises its dividend.", "Beta cuts 200 jobs.", ""], "generic")
    assert found.each["similarity"][0] == 1.0
    assert 0.2 < found.each["similarity"][1] < 0.9
    assert found.each["similarity"][2] == 0.0
    assert found.scores["exact_match"] == pytest.approx(1 / 3)
    assert found.labels is None
    assert found.unparsable == 1


def test_what_a_student_thought_is_no_part_of_its_text_or_calls() -> None:
    found = compared([record("Acme rises.")], ["<think>Or falls?</think>\n\nAcme rises."], "generic")
    assert found.scores["exact_match"] == 1
    thought = '<think>Not {"name": "sell", "arguments": {}}.</think>'
    answers = [f'{thought}{{"name": "buy", "arguments": {{}}}}', thought]
    found = compared([record("", call("buy")), record("", call("sell"))], answers, "tool_calling")
    assert found.each["function_name_and_args_accuracy"] == [1, 0]


def test_a_classification_is_scored_as_ever() -> None:
    records = [record("", label="Earnings"), record("", label="OTHER"), record("", label="OTHER")]
    found = compared(records, ["[[[earnings]]]", "[[[earnings]]]", "other"], "classification")
    assert found.student == ["Earnings", "Earnings", "OTHER"]
    assert found.scores["accuracy"] == pytest.approx(2 / 3)
    assert found.scores["f1_weighted"] == pytest.approx(2 / 3)


def test_an_answer_for_each_record_is_expected() -> None:
    with pytest.raises(ValueError, match="an answer for each record"):
        compared([record("x")], [], "generic")


def test_rare_words_weigh_more_than_common_ones() -> None:
    similarity = Similarity(
        [f"Company {name} reports results" for name in ("Acme", "Beta", "Gamma", "Delta")]
    )
    reference = "Company Acme reports results"
    wrong_name = similarity.of(reference, "Company Beta reports results")
    wrong_verb = similarity.of(reference, "Company Acme posts results")
    assert wrong_name < similarity.of(reference, reference) == 1.0
    assert similarity.of(reference, "") == 0.0
    assert similarity.of("?!", "?!") == 1.0
    assert 0 < wrong_verb < 1


def test_similarities_are_those_of_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["Acme raises dividend", "Beta cuts 300 jobs", "Acme cuts dividend again", "results of Beta"]
    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit_transform(texts)
    expected = (vectors @ vectors.T).toarray()
    similarity = Similarity(texts)
    found = [[similarity.of(one, other) for other in texts] for one in texts]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_nearest_texts_come_first_and_the_earlier_of_equal_ones() -> None:
    pool = ["Beta cuts jobs", "Acme raises dividend", "Gamma", "Acme raises dividend"]
    similarity = Similarity(pool)
    assert similarity.nearest(["Acme raises its dividend"], pool, 3) == [[1, 3, 0]]
    assert similarity.nearest(["?"], pool, 2) == [[0, 1]]


def test_the_interval_of_a_mean_holds_it_and_narrows_with_more_records() -> None:
    few, many = np.array([0.0, 1.0] * 20), np.array([0.0, 1.0] * 2000)
    (low, high), (other_low, other_high) = bootstrap_mean(few, 500), bootstrap_mean(many, 500)
    assert low < 0.5 < high
    assert other_high - other_low < (high - low) / 5
