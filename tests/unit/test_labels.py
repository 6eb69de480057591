"""Answers are read tolerantly, and an answer that could mean two classes is no answer."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.workloads.labels import normalize, parse_label

CLASSES = (
    "Analyst Rating",
    "Price Targets",
    "Earnings",
    "Labour Issues",
    "Mergers and Acquisitions",
    "Products-Services",
    "Product Approval",
    "Stock price movement",
    "Guidance",
    "OTHER",
)
ALIASES = {"Management changes": "Labour Issues", "M&A": "Mergers and Acquisitions"}


def parse(answer: str) -> str | None:
    return parse_label(answer, CLASSES, ALIASES)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("[[[analyst rating]]]", "Analyst Rating"),
        ("[[[ANALYST RATING]]]", "Analyst Rating"),
        ("[[Analyst Rating]]", "Analyst Rating"),
        ("[analyst rating]", "Analyst Rating"),
        ("analyst rating", "Analyst Rating"),
        ("[[[[earnings]]]]", "Earnings"),
        ("[[[earnings]", "Earnings"),
        ("  [[[ Price   Targets ]]]\n", "Price Targets"),
        ("[[[analyst-rating]]]", "Analyst Rating"),
        ("[[[analyst_rating]]]", "Analyst Rating"),
        ("[[[Products – Services]]]", "Products-Services"),
        ("[[[products services]]]", "Products-Services"),
        ("[[[“guidance”]]]", "Guidance"),
        ("[[['Guidance']]]", "Guidance"),
        ("**[[[guidance]]]**", "Guidance"),
        ("[[[Guidance.]]]", "Guidance"),
        ("［［［guidance］］］", "Guidance"),
        ("The class is [[[earnings]]].", "Earnings"),
        ("Sure! Here is my answer: [[earnings]] since revenue is realised.", "Earnings"),
        ("[[[class: earnings]]]", "Earnings"),
        ("The class is Earnings.", "Earnings"),
        ("[[[management changes]]]", "Labour Issues"),
        ("[[[M&A]]]", "Mergers and Acquisitions"),
        ("[[[mergers & acquisitions]]]", "Mergers and Acquisitions"),
        ("[[[stock\nprice movement]]]", "Stock price movement"),
        ("[[[stock price movement", "Stock price movement"),
    ],
)
def test_a_class_is_found_whatever_its_form(answer: str, label: str) -> None:
    assert parse(answer) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Not guidance, but [[[earnings]]]", "Earnings"),
        ("[1] see below: [[[earnings]]]", "Earnings"),
        ("[guidance] looks close, yet [[[earnings]]]", "Earnings"),
        ("[[[earnings]]] and once more [[[Earnings]]]", "Earnings"),
        ("<think>[[[guidance]]]? No, results.</think>[[[earnings]]]", "Earnings"),
        ("[a footnote] Earnings", "Earnings"),
    ],
)
def test_brackets_win_over_words_and_more_brackets_over_fewer(answer: str, label: str) -> None:
    assert parse(answer) == label


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "   ",
        "[[[]]]",
        "[[[sports]]]",
        "[[[sports]]] perhaps other",
        "[[[earnings]]] or [[[guidance]]]",
        "[[[earnings / guidance]]]",
        "earnings and guidance",
        "[[[analyst rat",
        "<think>surely [[[earnings]]]",
        "[[[earningsguidance]]]",
        "I cannot tell, since on the other hand nothing in this headline speaks of it",
        "\x00",
        "[[[" * 100,
    ],
)
def test_an_answer_without_one_class_is_no_answer(answer: str) -> None:
    assert parse(answer) is None


def test_of_two_names_the_longer_is_meant() -> None:
    assert parse_label("[[[credit ratings outlook]]]", ("Credit Ratings", "Credit Ratings Outlook"), {}) == (
        "Credit Ratings Outlook"
    )


@given(st.text(max_size=300))
def test_any_text_gives_a_class_or_none(text: str) -> None:
    assert parse(text) in (*CLASSES, None)


@given(st.sampled_from(CLASSES), st.sampled_from(["[{}]", "[[{}]]", "[[[{}]]]", "so: [[[{}]]]!"]))
def test_every_class_is_read_back_in_every_form(label: str, form: str) -> None:
    for name in (label, label.lower(), label.upper(), label.title()):
        assert parse(form.format(name)) == label


@pytest.mark.parametrize("part", ["[", "]", "[[[a", "<think>", "</think>", " earnings", "_", "[earnings]"])
def test_a_huge_answer_takes_no_longer_than_its_length(part: str) -> None:
    started = time.monotonic()
    parse(part * (500_000 // len(part)))
    assert time.monotonic() - started < 3


def test_normalized_names_differ_only_in_words() -> None:
    assert normalize(" Mergers  &\tAcquisitions ") == normalize("mergers-and-acquisitions")


@pytest.mark.parametrize(
    "answer",
    [
        "so [guidance] may fit, but realised figures win.\n</think>\n\nearnings",
        "it is [[[guidance]]] perhaps</think>\n[[[earnings]]]",
        "<thinking>[[[guidance]]]</thinking>earnings",
        "<thought>guidance?</thought>**Earnings**",
        "<reasoning>[[[guidance]]]?</reasoning>[[[earnings]]]",
        "<seed:think>[[[guidance]]]?</seed:think>[[[earnings]]]",
        "[THINK]maybe [[[guidance]]][/THINK]earnings",
        "<|channel|>analysis<|message|>[[[guidance]]]<|end|><|start|>assistant<|channel|>final<|message|>earnings<|return|>",
        "analysisThe user wants guidance.assistantfinalearnings",
        "<think>a <think>guidance</think> [[[guidance]]]</think>earnings",
    ],
)
def test_a_thought_in_any_marking_never_decides(answer: str) -> None:
    assert parse_label(answer, ("Guidance", "Earnings"), {}) == "Earnings"


@pytest.mark.parametrize(
    "answer",
    [
        "<think>[[[guidance]]]",
        "[THINK]guidance",
        "<|channel|>analysis<|message|>guidance",
        "analysisIt is guidance",
    ],
)
def test_a_thought_that_was_cut_off_is_no_answer(answer: str) -> None:
    assert parse_label(answer, ("Guidance", "Earnings"), {}) is None
