"""Which of the teacher's answers a student in training gives to the validation slice.

Settings and the form of prompts are chosen by this; it never looks at the calibration slice or the eval set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flywheel.config.student import Student
from flywheel.stages.evaluate import choose_among
from flywheel.workloads.short_prompts import ShortPrompt

if TYPE_CHECKING:
    from flywheel.students.chat import Chat

# Validation records that are asked: of so many, two students that differ by .02 are told apart.
MOST_ASKED = 2000


def chosen_answers(
    model: Any,
    chat: Chat,
    student: Student,
    records: Sequence[dict[str, Any]],
    answers: Sequence[str],
    short: ShortPrompt | None,
    batch_size: int,
) -> list[str]:
    """Return the answer that a student chooses for each record; "" where it cannot be asked.

    Args:
        model: with its adapter.
        records: of a data set.
        answers: that it chooses among.
        short: what its prompts leave out.
    """
    from flywheel.students.label_trie import LabelTrie

    requests = [record["messages"][:-1] for record in records]
    if short is not None:
        requests = [short.shorten(request) for request in requests]
    prompts, _ = chat.prompts(requests, [record.get("tools") for record in records])
    trie = LabelTrie(chat.answers(requests[0], answers))
    room = student.context_length - max(map(len, trie.answers))
    asked = {at: one for at, one in enumerate(prompts) if one is not None and len(one) <= room}
    given = choose_among(model, list(asked.values()), trie, batch_size=batch_size).given if asked else []
    found = dict(zip(asked, (answers[choice.answer] for choice in given), strict=True))
    return [found.get(at, "") for at in range(len(records))]


def teachers_answer(record: dict[str, Any]) -> str:
    """Return what the teacher answered, in the workload's own form."""
    return str(record["messages"][-1]["content"])
