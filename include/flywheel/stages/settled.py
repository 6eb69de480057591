"""What becomes of a headline once the teacher has answered: a record, or a place in the quarantine."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import orjson

from flywheel.runs.plan import Plan
from flywheel.sources import Headline
from flywheel.sources.quarantine import Quarantine
from flywheel.teacher.agreement import AgreementCounter, check_gate
from flywheel.teacher.disagreements import DisagreementsFile
from flywheel.teacher.labeller import Outcome
from flywheel.teacher.persons import FILE as PERSONS_FILE
from flywheel.teacher.persons import PersonsLabels
from flywheel.teacher.without_label import WithoutLabel
from flywheel.workloads.markers import marks_in
from flywheel.workloads.records import make_record

log = logging.getLogger(__name__)

DISAGREEMENTS_FILE = "label.disagreements.csv"
# With so many human labels the gate is looked at before all are there; then whenever they have doubled.
FIRST_GATE_CHECK = 200


class Settled:
    """Takes headlines with their answers, in their order.

    Args:
        plan: of the run.
        file: takes the records, one a line.
        quarantine: takes the headlines without a label.
        disagreements: takes those that a person labels differently.
        persons: takes persons' labels of texts with a time.

    Attributes:
        agreement: of the teacher with persons.
        undated: headlines without a time; they become no record.
        marked: headlines that hold what could speak in a prompt, by what it is.
        without_label: why headlines have none.
    """

    def __init__(
        self,
        plan: Plan,
        file: BinaryIO,
        quarantine: Quarantine,
        disagreements: DisagreementsFile,
        persons: PersonsLabels,
    ) -> None:
        self.undated = 0
        self.marked: Counter[str] = Counter()
        self.without_label = WithoutLabel()
        self.agreement = AgreementCounter(
            plan.workload,
            bootstrap_samples=plan.config.evaluation_config.bootstrap_samples,
            seed=plan.config.data_split_config.random_seed,
        )
        self._plan = plan
        self._file = file
        self._quarantine = quarantine
        self._disagreements = disagreements
        self._persons = persons
        self._gate = plan.config.teacher.gate
        self._gate_check = max(FIRST_GATE_CHECK, self._gate.min_records)

    @classmethod
    @contextmanager
    def into(cls, plan: Plan, folder: Path, file: BinaryIO, quarantine: Quarantine) -> Iterator[Settled]:
        """Settle into the files of a run's folder."""
        with (
            DisagreementsFile(folder / DISAGREEMENTS_FILE) as disagreements,
            PersonsLabels(folder / PERSONS_FILE) as persons,
        ):
            yield cls(plan, file, quarantine, disagreements, persons)

    @property
    def disagreements_file(self) -> str:
        """The name of the file of disagreements; empty without any."""
        return DISAGREEMENTS_FILE if self._disagreements.count else ""

    def take(self, headline: Headline, outcome: Outcome) -> None:
        """Take a headline and what the teacher made of it.

        Raises:
            TeacherError: persons do not agree with the teacher (`teacher.gate`).
        """
        self.marked.update(marks_in(headline.text, self._plan.workload))
        if headline.human_label is not None:
            self._compare(headline, headline.human_label, outcome)
        if outcome.label is None:
            self.without_label.add(outcome.reason)
            self._quarantine.add(
                headline.file, headline.line, outcome.reason, headline.text, answer=outcome.answer
            )
        elif headline.known_at is None:
            self.undated += 1
        else:
            self._write(headline, headline.known_at, outcome, outcome.label)

    def _compare(self, headline: Headline, human_label: str, outcome: Outcome) -> None:
        if headline.known_at is not None:
            human = self._plan.workload.label_of(human_label)
            if human is not None:
                self._persons.add(headline.text, human, headline.known_at)
        if outcome.answer is None:
            return
        found = self.agreement.add(human_label, outcome.label, headline.text, outcome.confidence)
        if found:
            self._disagreements.add(headline, found, outcome.answer)
        if self.agreement.records >= self._gate_check:
            self._gate_check *= 2
            check_gate(self.agreement.result(), self._gate, is_all=False)

    def _write(self, headline: Headline, known_at: int, outcome: Outcome, label: str) -> None:
        assert outcome.answer is not None
        plan = self._plan
        record = make_record(
            workload_id=plan.workload_id,
            client_id=plan.client_id,
            timestamp=headline.timestamp,
            model=plan.config.teacher.model,
            messages=(outcome.workload or plan.workload).messages(headline.text),
            answer=outcome.answer,
            label=label,
            confidence=outcome.confidence,
            known_at=known_at,
        )
        line = {**record.to_json(), "known_at": record.known_at}
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def warn(self, quarantine_file: str) -> None:
        """Say in the log what a person should look at."""
        if self.marked:
            log.warning(
                "%s: broken up in the teacher's and the students' prompts (docs/workloads.md)",
                ", ".join(f"{count:,} headlines hold {what}" for what, count in sorted(self.marked.items())),
            )
        if line := self.without_label.line():
            log.warning("%s (each is in %s)", line, quarantine_file)
        if self.agreement.unknown:
            names = ", ".join(repr(name) for name, _ in self.agreement.unknown.most_common(5))
            total = self.agreement.unknown.total()
            log.warning("%d human labels are no class or alias: %s", total, names)
