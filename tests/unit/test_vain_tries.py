"""What a second try cannot mend fails a task at once, with the sentence that says what to do."""

import pytest
from airflow.sdk.exceptions import AirflowFailException

from flywheel.common.errors import (
    BudgetError,
    ConfigError,
    NotEnoughRecordsError,
    SourceError,
    StoreError,
    TeacherError,
    UnusableTeacherError,
)
from flywheel.config.teacher import TeacherConfig
from flywheel.runtimes.context import without_vain_tries
from flywheel.teacher.endpoint import resolve_endpoint
from tests.unit.test_teacher_client import ask


@pytest.mark.parametrize("kind", [BudgetError, ConfigError, NotEnoughRecordsError, UnusableTeacherError])
def test_what_only_a_person_can_mend_is_not_tried_again(kind: type[Exception]) -> None:
    with (
        pytest.raises(AirflowFailException, match=r"^set teacher\.budget \(not tried again"),
        without_vain_tries(),
    ):
        raise kind("set teacher.budget")


@pytest.mark.parametrize("kind", [TeacherError, SourceError, StoreError, OSError])
def test_what_may_pass_is_tried_again(kind: type[Exception]) -> None:
    with pytest.raises(kind), without_vain_tries():
        raise kind("not now")


def test_a_key_that_is_refused_is_no_matter_of_tries() -> None:
    (error,), _, _ = ask([(401, {}, b"no such key")])
    assert isinstance(error, UnusableTeacherError)
    (error,), _, _ = ask([(503, {}, b"busy")], outage_seconds=0.05)
    assert not isinstance(error, UnusableTeacherError)


def test_a_teacher_without_an_address_is_no_matter_of_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLYWHEEL_TEACHER_BASE_URL", raising=False)
    monkeypatch.setattr("flywheel.teacher.endpoint.find_connection", lambda *_: None)
    with pytest.raises(UnusableTeacherError, match="the teacher's address is not known"):
        resolve_endpoint(TeacherConfig(model="m", base_url=None))
