"""The results page inside Airflow's UI: in its navigation, on the DAG's page and on the page of each run.

`results/page.js` is built from ui/ and committed, so that users need no Node; a test builds it anew and
compares. The page reads the orchestrator API at /flywheel/api with the session of Airflow's UI. Why it is a
React app of Airflow's and no external view is said in ui/src/host.ts.

The files hold nothing secret and are given without asking who wants them, as Airflow gives those of its UI.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from airflow.plugins_manager import AirflowPlugin

FILES = Path(__file__).parent / "results"
PREFIX = "/flywheel-results"
NAME = "Flywheel"


class _Files:
    """The ASGI application that gives the page's files, made when it is first asked: every task's process
    imports this module."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            from starlette.staticfiles import StaticFiles

            self._app = StaticFiles(directory=FILES)
        await self._app(scope, receive, send)


def _address(name: str) -> str:
    """Return a file's address below Airflow's; it changes with the file: no browser keeps an old one."""
    return f"{PREFIX.lstrip('/')}/{name}?v={zlib.crc32((FILES / name).read_bytes()):08x}"


def _react_app(destination: str, route: str, **more: Any) -> dict[str, Any]:
    return {
        "name": NAME,
        "bundle_url": _address("page.js"),
        "destination": destination,
        "url_route": route,
        "icon": _address("icon.svg"),
        "icon_dark_mode": _address("icon-dark.svg"),
        **more,
    }


class ResultsPagePlugin(AirflowPlugin):  # type: ignore[misc]
    """The results page."""

    name = "flywheel_results"
    fastapi_apps = [{"app": _Files(), "url_prefix": PREFIX, "name": "flywheel results page"}]  # noqa: RUF012
    react_apps = [  # noqa: RUF012  Airflow's form
        _react_app("nav", "flywheel", nav_top_level=True),
        _react_app("dag", "flywheel-results"),
        _react_app("dag_run", "flywheel-run"),
    ]
