"""What Airflow loads from flywheel: the orchestrator API, at /flywheel, and the timetable of the nights.

Every process of Airflow imports its plugins, each task's too; so the API itself is imported by the first
request to it, in the API server alone.
"""

from __future__ import annotations

from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from flywheel.orchestration.nights import TIMETABLES


class _Api:
    """The ASGI application of the API, made when it is first asked for something."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            from flywheel.web.app import create_app

            self._app = create_app()
        await self._app(scope, receive, send)


def _look_for_stuck_runs(app: Any) -> Any:
    """Have the API server, as it starts, look for stuck runs by itself; its requests pass as they are."""
    from flywheel.web.stuck import look_by_itself

    look_by_itself()
    return app


class _ImportAhead:
    """Has the components of Airflow that fork tasks' processes import what those need."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        from flywheel.orchestration.ahead import import_ahead

        import_ahead()


class FlywheelPlugin(AirflowPlugin):  # type: ignore[misc]
    """The flywheel in Airflow."""

    name = "flywheel"
    fastapi_apps = [{"app": _Api(), "url_prefix": "/flywheel", "name": "flywheel"}]  # noqa: RUF012  Airflow's form
    fastapi_root_middlewares = [{"middleware": _look_for_stuck_runs, "name": "flywheel"}]  # noqa: RUF012  as above
    timetables = TIMETABLES
    listeners = [_ImportAhead()]  # noqa: RUF012  as above
