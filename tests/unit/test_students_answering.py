"""What is timed of a student's answers: the warm-up, the batches, and prompts alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from flywheel.students import answering
from flywheel.students.answering import Answers, answer_in_batches
from flywheel.students.rows import Tokens

# Lengths 3 to 252, in no order.
PROMPTS = [np.full(3 + 7 * index % 250, index, np.int32) for index in range(250)]


class Student:
    """Answers each prompt by its first token, on a clock of its own: 0.1 s a batch, 9 s one of a new size."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[int]] = []
        self.now = 0.0
        monkeypatch.setattr(answering, "perf_counter", lambda: self.now)

    def __call__(self, batch: Sequence[Tokens]) -> list[list[int]]:
        self.now += 0.1 if any(len(seen) == len(batch) for seen in self.asked) else 9.0
        self.asked.append([len(prompt) for prompt in batch])
        return [[int(prompt[0])] for prompt in batch]

    def answer(self, device: str, same_size: bool = True, count: int = 250) -> Answers:
        return answer_in_batches(PROMPTS[:count], self, batch_size=100, device=device, same_size=same_size)


def test_on_a_gpu_batches_of_all_lengths_and_a_single_prompt_are_asked_first_and_thrown_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = Student(monkeypatch)
    answers = student.answer("cuda")
    assert [len(batch) for batch in student.asked] == [100] * 6 + [1] * 9
    warm_ups, first = student.asked[:3], student.asked[3]
    assert warm_ups[0] == first
    assert min(warm_ups[-1]) == min(map(len, PROMPTS))
    assert sorted(map(sum, warm_ups), reverse=True) == list(map(sum, warm_ups))
    assert answers.warmup_seconds == pytest.approx(9.2)
    assert answers.batch_seconds == pytest.approx([0.1] * 3)
    assert answers.single_seconds == pytest.approx([0.1] * 8)
    assert answers.given == [[index] for index in range(250)]


def test_on_a_cpu_the_warm_up_is_one_prompt_in_fifty_and_at_most_eight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = Student(monkeypatch)
    assert student.answer("cpu", same_size=False).warmup_seconds == 9.0
    assert [len(batch) for batch in student.asked[:4]] == [5, 100, 100, 50]
    monkeypatch.setattr(answering, "WARM_UP_EVERY", 1)
    student.asked.clear()
    student.answer("cpu")
    assert len(student.asked[0]) == 8


def test_prompts_alone_are_of_all_lengths_and_end_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    student = Student(monkeypatch)
    student.answer("cuda")
    alone = sorted(length for (length,) in student.asked[-8:])
    assert alone[0] < 50 and alone[-1] > 200 and len(set(alone)) == 8
    student.asked.clear()
    assert student.answer("cpu").single_seconds == (9.0,)  # the first of its size here: more than the second


def test_no_prompts_are_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student = Student(monkeypatch)
    assert student.answer("cuda", count=0) == Answers([], [], [], 0.0, 0)
    assert student.asked == []


@pytest.mark.parametrize(("size", "full"), [(None, 64), (300, 250)])
def test_one_batch_is_warmed_up_once_and_the_size_is_told(
    monkeypatch: pytest.MonkeyPatch, size: int | None, full: int
) -> None:
    student = Student(monkeypatch)
    answers = answer_in_batches(PROMPTS, student, batch_size=size, device="cuda", same_size=True)
    assert answers.batch_size == full
    assert [len(batch) for batch in student.asked if len(batch) > 1] == [full] * (8 if full == 64 else 2)
