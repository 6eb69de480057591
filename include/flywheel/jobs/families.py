"""The families of students, in one place: what each is, and what trains, examines and serves it.

A family is a line of `FAMILIES`. What it names is imported when it is used: the DAG knows families where
neither torch nor scikit-learn is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from flywheel.common.errors import StudentError
from flywheel.config.student import FamilyName, Student

if TYPE_CHECKING:
    from flywheel.students.classifiers import Room


@dataclass(frozen=True)
class Family:
    """A family of students.

    Attributes:
        name: in the config.
        title: in words, of one student.
        answers_untrained: it can be asked before any training.
        version: of its artifacts: raised when the code makes other ones of the same input.
        trains, examines, serves: where the functions of jobs and endpoint are, as `module:name`.
        room: module of a family that classifies only; see `flywheel.students.classifiers.Room`.
    """

    name: FamilyName
    title: str
    answers_untrained: bool
    version: str
    trains: str
    examines: str
    serves: str
    room: str = ""

    @property
    def train(self) -> Any:
        """The function of a customization: root, key, spec, scratch folder, progress -> CustomizeResult."""
        return resolve_name(self.trains)

    @property
    def examine(self) -> Any:
        """The function of an evaluation: root, key, spec, progress -> EvaluateResult."""
        return resolve_name(self.examines)

    @property
    def serve(self) -> Any:
        """The class that answers requests: source -> `flywheel.serving.student.ServedStudent` or its like."""
        return resolve_name(self.serves)

    @property
    def classifier(self) -> Room:
        """What trains and loads a student of a family that classifies only."""
        return cast("Room", resolve_name(self.room))


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="causal_lm",
            title="a causal LM with a LoRA adapter",
            answers_untrained=True,
            version="",
            trains="flywheel.stages.customize:train",
            examines="flywheel.stages.evaluate:answer_and_score",
            serves="flywheel.serving.student:ServedStudent",
        ),
        Family(
            name="encoder",
            title="an encoder with a LoRA adapter and a head over the classes",
            answers_untrained=False,
            version="encoder 1",
            trains="flywheel.stages.classifiers:train",
            examines="flywheel.stages.classifiers:examine",
            serves="flywheel.serving.classifier:ServedClassifier",
            room="flywheel.students.encoder",
        ),
        Family(
            name="linear",
            title="TF-IDF and logistic regression",
            answers_untrained=False,
            version="linear 1",
            trains="flywheel.stages.classifiers:train",
            examines="flywheel.stages.classifiers:examine",
            serves="flywheel.serving.classifier:ServedClassifier",
            room="flywheel.students.linear",
        ),
    )
}


def family_of(student: Student) -> Family:
    """Return the family of a student.

    Raises:
        StudentError: this flywheel does not know it.
    """
    if student.family not in FAMILIES:
        raise StudentError(f"student {student.name}: no family {student.family!r} here")
    return FAMILIES[student.family]
