"""The client of a teacher as the section `teacher` wants it."""

from __future__ import annotations

from collections.abc import Sequence

from flywheel.common.errors import TeacherError
from flywheel.config.teacher import TeacherConfig
from flywheel.teacher.client import TeacherClient
from flywheel.teacher.endpoint import Endpoint
from flywheel.teacher.spending import Spending


def client_of(
    teacher: TeacherConfig, endpoints: Sequence[Endpoint] | TeacherError, spending: Spending
) -> TeacherClient:
    """Return a client with the limits of the config.

    Args:
        endpoints: as `TeacherClient` takes them.
        spending: what is counted against the budget.
    """
    return TeacherClient(
        endpoints,
        concurrency=teacher.concurrency,
        adaptive=teacher.adaptive,
        timeout_seconds=teacher.timeout_seconds,
        max_attempts=teacher.max_attempts,
        outage_seconds=teacher.outage_seconds,
        rates=teacher.rate_limits,
        spending=spending,
    )
