"""Answers to other versions of the prompt whose labels hold by the workload file: they are not asked anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flywheel.stores import Owner, PaidAnswer, RecordStore
from flywheel.teacher.known import known_answers
from flywheel.teacher.request import Requests
from flywheel.workloads.workload import Workload


class HeldAnswers:
    """Finds answers to other versions of the prompt.

    Args:
        today: names the classes that an answer may name.
        earlier: the versions whose labels hold, each with its requests; the first that has an answer counts.
    """

    def __init__(self, today: Workload, earlier: Sequence[tuple[Workload, Requests]] = ()) -> None:
        self._today = today
        self._earlier = earlier

    def __bool__(self) -> bool:
        return bool(self._earlier)

    def find(
        self, store: RecordStore, texts: Mapping[str, str], owner: Owner | None = None
    ) -> dict[str, tuple[PaidAnswer, str, Workload]]:
        """Return answer, label and version of those texts that have an answer which names a class of today.

        Args:
            texts: by a key, which those of the result are.
            owner: who uses the answers from now on.
        """
        found: dict[str, tuple[PaidAnswer, str, Workload]] = {}
        for workload, requests in self._earlier:
            keys = {requests.key(text): key for key, text in texts.items() if key not in found}
            there = known_answers(store, list(keys), self._label_of)
            if owner is not None:
                store.own_answers(owner, [key for key, known in there.items() if known.label is not None])
            for earlier, known in there.items():
                if known.label is not None:
                    found[keys[earlier]] = known.answer, known.label, workload
        return found

    def _label_of(self, answer: PaidAnswer) -> str | None:
        return self._today.label_of(answer.content)
