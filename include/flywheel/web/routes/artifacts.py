"""/api/runs/{run_id}/artifacts: what a run has made, to take away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse

from flywheel.runs.run import Run
from flywheel.web import archive, run_files
from flywheel.web.access import requires
from flywheel.web.artifact_names import JSON, NDJSON, TAR, Artifact, Artifacts, artifacts_of, predictions_path
from flywheel.web.headers import BARS, document_policy
from flywheel.web.problems import Problem
from flywheel.web.routes.parts import RunId, planned_run, problems

router = APIRouter(tags=["artifacts"], dependencies=[requires("read")])

_READ_BYTES = 1 << 20


@router.get("/runs/{run_id}/artifacts", responses=problems(404))
def list_artifacts(run_id: RunId) -> Artifacts:
    """List what the run has made so far."""
    return Artifacts(artifacts=artifacts_of(*planned_run(run_id)))


@router.get(
    "/runs/{run_id}/artifacts/{name:path}",
    response_class=Response,
    responses={
        **problems(404),
        200: {
            "description": "The artifact, as the list gives its media type.",
            "content": {kind: {} for kind in (JSON, NDJSON, TAR, "text/html", "image/png")},
        },
    },
)
def get_artifact(
    run_id: RunId,
    name: Annotated[
        str,
        Path(
            max_length=200,
            pattern=r"^[A-Za-z0-9_.@/-]+$",
            description="As the list gives it.",
            examples=["adapters/1b@5000.tar"],
        ),
    ],
) -> Response:
    """Take an artifact: an adapter is streamed as a tar archive."""
    run, plan = planned_run(run_id)
    found = next((one for one in artifacts_of(run, plan) if one.name == name), None)
    if found is None:
        raise Problem(404, "The run has no such artifact.")
    if found.kind == "adapter":
        return _adapter(run, found)
    if found.kind == "predictions":
        return _predictions(run, found)
    if found.kind == "losses":
        made = run_files.read_json(run, f"jobs/{found.student}@{found.size}/customize.json")
        return Response(orjson.dumps(made["result"]["losses"]), media_type=JSON)
    data = run_files.read_bytes(run, name)
    if data is None:
        raise Problem(404, "The run has no such artifact.")
    headers = _headers(found)
    if found.media_type.startswith("text/html"):
        text = data.decode("utf-8", errors="replace")
        headers["Content-Security-Policy"] = f"sandbox; {document_policy(text)}; {BARS}"
    return Response(data, media_type=found.media_type, headers=headers)


def _adapter(run: Run, found: Artifact) -> Response:
    assert found.key is not None
    folder = f"{found.student}@{found.size}"
    files = archive.files_of(run.root, "adapters", found.key)
    return StreamingResponse(
        archive.tar(run.root, "adapters", found.key, folder, files),
        media_type=TAR,
        headers={**_headers(found), "Content-Length": str(archive.tar_bytes(folder, files))},
    )


def _predictions(run: Run, found: Artifact) -> Response:
    assert found.key is not None
    path = predictions_path(found.key)
    if not run.root.exists(path):
        raise Problem(404, "These predictions are no longer there.")

    def chunks() -> Iterator[bytes]:
        with run.root.open(path) as file:
            while chunk := file.read(_READ_BYTES):
                yield chunk

    return StreamingResponse(chunks(), media_type=NDJSON, headers=_headers(found))


def _headers(found: Artifact) -> dict[str, str]:
    name = found.name.rsplit("/", 1)[-1]
    inline = found.media_type.startswith(("text/html", "image/"))
    headers = {
        "Content-Disposition": f'{"inline" if inline else "attachment"}; filename="{name}"',
        "Cache-Control": "private, no-cache",
    }
    if found.kind == "adapter":
        headers["Content-Encoding"] = "identity"  # weights do not get smaller by compression
        headers["ETag"] = f'"{found.key}"'
    return headers
