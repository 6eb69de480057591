"""The results page inside Airflow's UI: in its navigation, on the DAG's page and on the page of each run.

`results/page.js` is built from ui/ and committed, so that users need no Node; a test builds it anew and
compares. The page reads the orchestrator API at /flywheel/api with the session of Airflow's UI. Why it is a
React app of Airflow's and no external view is said in ui/src/host.ts. At /flywheel-results/ the same page is
there by itself, without Airflow's UI around it, which takes longer to load than the page.

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
            self._app = _make_app()
        await self._app(scope, receive, send)


def _make_app() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    from flywheel.web.headers import PAGE_POLICY, SafeHeaders

    class Files(StaticFiles):
        """A file under an address that names its content never changes."""

        def file_response(self, full_path: Any, stat_result: Any, scope: Any, *arguments: Any) -> Any:
            response = super().file_response(full_path, stat_result, scope, *arguments)
            named = scope["query_string"].decode("latin-1")
            if named == _version(Path(full_path).name):
                response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
            return response

    def alone(_: Request) -> HTMLResponse:
        return HTMLResponse(_ALONE, headers={"Cache-Control": "no-cache"})

    files = Starlette(routes=[Route("/", alone), Mount("/", Files(directory=FILES))])
    return SafeHeaders(files, PAGE_POLICY)


def _version(name: str) -> str:
    """Return the query that names a file's content."""
    return f"v={zlib.crc32((FILES / name).read_bytes()):08x}"


def _address(name: str) -> str:
    """Return a file's address below Airflow's; it changes with the file: no browser keeps an old one."""
    return f"{PREFIX.lstrip('/')}/{name}?{_version(name)}"


# Addresses are those of Airflow, wherever it is mounted, as in Airflow's own document.
_ALONE = f"""\
<!doctype html>
<html lang="en" data-flywheel-alone>
<head>
<meta charset="utf-8">
<base href="../">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{NAME}</title>
<link rel="icon" href="{_address("icon.svg")}">
<script src="{_address("page.js")}" defer></script>
</head>
<body></body>
</html>
"""


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
