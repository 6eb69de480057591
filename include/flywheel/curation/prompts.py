"""One prompt, one data set: which records go in, and as what, when the workload's prompt was edited.

- A record with today's prompt goes in as it is, and so does one with a prompt of an application's own.
- One with another version of the workload's prompt stays out: its label answers another question, and two
  prompts in one training set share no beginning. Where the workload file declares that the labels of that
  version still hold (`labels_hold_from`), it goes in with its text in today's prompt.
- One of the teacher's whose prompt is of no known version stays out.
- One whose class no longer exists stays out, unless an alias of today's workload says which class it is now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from flywheel.artifacts.root import ArtifactRoot
from flywheel.curation.result import PromptCounts
from flywheel.runs.plan import Plan
from flywheel.workloads.records import FREE_TEXT, Record
from flywheel.workloads.tool_calls import NO_CALL, is_functions
from flywheel.workloads.versions import Recognizer, versions_of
from flywheel.workloads.workload import VERSION_DIGITS, Workload

_WORKLOAD = TypeAdapter(Workload | None)
_WORKLOADS = TypeAdapter(tuple[Workload, ...])


class Sift:
    """Lets the records of today's prompt through, and counts the others.

    Args:
        workload: today's; None: the records are another's, and all go through.
        others: its other versions.
    """

    def __init__(self, workload: Workload | None, others: Iterable[Workload] = ()) -> None:
        self._workload = workload if workload is not None and workload.has_prompt else None
        self.others = tuple(others) if self._workload else ()
        self._recognizer = Recognizer(self._workload, self.others) if self._workload else None
        self._classes = frozenset(self._workload.classes) if self._workload else frozenset()
        self.other: Counter[str] = Counter()
        self.taken_over: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.unknown = self.renamed = 0

    @classmethod
    def of(cls, plan: Plan, workload: Workload | None, root: ArtifactRoot) -> Sift:
        """Return the sift of a run.

        Args:
            workload: the one whose records are read; None: another's.
        """
        if workload is None or not workload.has_prompt:
            return cls(None)
        versions = [version.workload for version in versions_of(root, workload.id)]
        return cls(workload, [other for other in versions if other.sha256 != workload.sha256])

    @property
    def key(self) -> list[Any]:
        """What decides, beside today's workload: other versions, and those whose labels hold."""
        held = self._workload.labels_hold_from if self._workload else ()
        return [sorted(other.sha256 for other in self.others), sorted(held)] if self.others else []

    @property
    def has_changed(self) -> bool:
        """Whether a record has stayed out or was changed so far; if none was, all go in again as they are."""
        counted = (self.other, self.taken_over, self.removed)
        return bool(self.unknown or self.renamed or any(map(Counter.total, counted)))

    def through(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records that go in, in their order, as they go in."""
        for record in records:
            taken = self.take(record)
            if taken is not None:
                yield taken

    def take(self, record: Record) -> Record | None:
        """Return the record as it goes into the data set; None: it stays out."""
        today = self._workload
        if today is None or self._recognizer is None:
            return record
        found = self._recognizer.find(record.messages)
        if found is None:
            if record.labelled_by == "teacher":
                self.unknown += 1
                return None
        elif found[0] is not today:
            version, text = found
            if version.sha256 not in today.labels_hold_from:
                self.other[version.sha256] += 1
                return None
            record = replace(record, request={**record.request, "messages": today.messages(text)})
        if record.label not in self._classes and not _is_no_class(record.label):
            label = today.label_of(record.answer)
            if label is None:
                self.removed[record.label] += 1
                return None
            record = renamed(record, label, today)
            self.renamed += 1
        if found is not None and found[0] is not today:
            self.taken_over[found[0].sha256] += 1
        return record

    def counts(self) -> PromptCounts:
        """Return what stayed out, and what was taken over."""
        return PromptCounts(
            other_version=_short(self.other),
            unknown_version=self.unknown,
            removed_class=dict(sorted(self.removed.items())),
            taken_over=_short(self.taken_over),
        )

    def tell(self) -> dict[str, Any]:
        """Return as JSON what another process needs to sift alike."""
        return {
            "workload": _WORKLOAD.dump_python(self._workload, mode="json"),
            "others": _WORKLOADS.dump_python(self.others, mode="json"),
        }

    @classmethod
    def told(cls, message: dict[str, Any]) -> Sift:
        """Return the sift that another process told of."""
        return cls(
            _WORKLOAD.validate_python(message["workload"]), _WORKLOADS.validate_python(message["others"])
        )

    def sums(self) -> list[Any]:
        """Return the counts as JSON, for `add`."""
        return [self.other, self.taken_over, self.removed, self.unknown, self.renamed]

    def add(self, sums: list[Any]) -> None:
        """Add the counts of another process."""
        for mine, its in zip((self.other, self.taken_over, self.removed), sums[:3], strict=True):
            mine.update(its)
        self.unknown += sums[3]
        self.renamed += sums[4]


def _is_no_class(label: str) -> bool:
    """Return whether a label is of calls, of none where some are expected, or of a free text."""
    return is_functions(label) or label in (NO_CALL, FREE_TEXT)


def notes_of(counts: PromptCounts) -> list[str]:
    """Return what the user should know of it, in sentences."""
    notes = []
    if counts.other_version:
        notes.append(
            f"{sum(counts.other_version.values()):,} records stay out, as they were labelled under other "
            f"versions of the prompt ({_listed(counts.other_version)}); if the labels of a version still "
            "hold, name it under labels_hold_from in the workload file"
        )
    if counts.unknown_version:
        notes.append(
            f"{counts.unknown_version:,} records of the teacher's stay out, as their prompt is of no known "
            "version of the workload"
        )
    if counts.removed_class:
        notes.append(
            f"{sum(counts.removed_class.values()):,} records stay out, as their class no longer exists "
            f"({_listed(counts.removed_class)})"
        )
    if counts.taken_over:
        notes.append(
            f"{sum(counts.taken_over.values()):,} records of other versions of the prompt were taken over "
            f"into today's, as labels_hold_from says ({_listed(counts.taken_over)})"
        )
    return notes


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def _short(counts: Counter[str]) -> dict[str, int]:
    return {sha[:VERSION_DIGITS]: count for sha, count in sorted(counts.items())}


def renamed(record: Record, label: str, today: Workload) -> Record:
    """Return a record with nothing but the class, in today's form, as its answer."""
    choice, *rest = record.response["choices"]
    message = {**choice["message"], "content": today.answer_for(label)}
    response = {**record.response, "choices": [{**choice, "message": message}, *rest]}
    return replace(record, label=label, response=response)
