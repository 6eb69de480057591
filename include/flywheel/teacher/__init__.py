"""The teacher: where it is, how it is asked, what its answers are worth; and a stand-in for demos."""

from flywheel.teacher.client import TeacherClient
from flywheel.teacher.endpoint import Endpoint, resolve_endpoint, resolve_endpoints

__all__ = ["Endpoint", "TeacherClient", "resolve_endpoint", "resolve_endpoints"]
