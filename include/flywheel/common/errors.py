"""The errors that a user of flywheel can meet and catch.

Every message names what is wrong (file, line or key), what was expected and what to do.
"""

from flywheel.common.redaction import clean


class FlywheelError(Exception):
    """Base of all errors that flywheel raises on purpose; no secret and no escape code is in its message."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(clean(value) if isinstance(value, str) else value for value in arguments))


class ConfigError(FlywheelError):
    """The configuration is wrong: the message names file, line, key and what was expected."""


class WorkloadError(FlywheelError):
    """The workload file (prompt, classes, examples) is wrong."""


class SourceError(FlywheelError):
    """A source of headlines or log records cannot be read."""


class RecordError(FlywheelError):
    """A record is not a valid log record; such a record is quarantined, the others go on."""


class TeacherError(FlywheelError):
    """The teacher endpoint cannot be used, or failed the gate against human labels."""


class UnusableTeacherError(TeacherError):
    """No call can succeed as things are: no address, its key or certificate is refused, or its labels are."""


class JudgeError(FlywheelError):
    """The judge that rates answers cannot be asked."""


class BudgetError(TeacherError):
    """What the configuration allows to be spent on the teacher is spent; what was answered is kept."""


class UnconfirmedError(FlywheelError):
    """More would be asked of the teacher than `teacher.confirm_above` allows without a person's word."""


class StoreError(FlywheelError):
    """The record store cannot be used."""


class NotEnoughRecordsError(FlywheelError):
    """Fewer records than the configuration or a candidate's size asks for."""


class ArtifactError(FlywheelError):
    """An artifact is missing, damaged or cannot be written."""


class DiskFullError(FlywheelError, OSError):
    """A disk is full: the message names the place and what to free."""


class OutsideError(ArtifactError):
    """A path leaves the artifact root, or a link on it might."""


class OtherPlanError(ArtifactError):
    """The plan in a run's folder is not that run's."""


class StudentError(FlywheelError):
    """A student's weights cannot be loaded, trained or run."""


class ServingError(FlywheelError):
    """The endpoint does not answer with the champion."""


class JobError(FlywheelError):
    """A customization or evaluation job failed in its runtime.

    Attributes:
        mend: what to do, as the end of the message says it; empty where it does not.
    """

    def __init__(self, *arguments: object, mend: str = "") -> None:
        super().__init__(*arguments)
        self.mend = clean(mend)
