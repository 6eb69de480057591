"""The Datastore: repositories with files, by the Hugging Face Hub's API; files go over LFS, by their hash."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flywheel_stand_ins.nemo.state import Entity, State, problem, reply

KIND = "repositories"
_REGULAR_BYTES = 1024


class DatastoreStandIn:
    """The Datastore's application.

    Args:
        state: where repositories are kept; the files lie in its folder.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._blobs = state.folder / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)

    def routes(self) -> list[Route]:
        """Return the routes."""
        repository = "/v1/hf/api/{type}s/{namespace}/{name}"
        return [
            Route("/v1/datastore/namespaces", self._make_namespace, methods=["POST"]),
            Route("/v1/hf/api/repos/create", self._create, methods=["POST"]),
            Route("/v1/hf/api/repos/delete", self._delete, methods=["DELETE"]),
            Route(f"{repository}/preupload/{{revision}}", self._preupload, methods=["POST"]),
            Route(f"{repository}/commit/{{revision}}", self._commit, methods=["POST"]),
            Route(f"{repository}/tree/{{revision}}", self._tree),
            Route(repository, self._info),
            Route(f"{repository}/revision/{{revision}}", self._info),
            Route(
                "/v1/hf/{type}s/{namespace}/{name}.git/info/lfs/objects/batch", self._batch, methods=["POST"]
            ),
            Route("/v1/hf/lfs/{oid}", self._upload, methods=["PUT"]),
            Route("/v1/hf/{type}s/{namespace}/{name}/resolve/{revision}/{path:path}", self._resolve),
        ]

    def file(self, repository: str, path: str) -> Path | None:
        """Return a file of a data set's repository, NAMESPACE/NAME."""
        found = self._state.all(KIND).get(f"dataset/{repository}")
        oid = (found or {}).get("files", {}).get(path)
        return self._blobs / oid if oid else None

    def publish(self, repository: str, folder: Path) -> None:
        """Make a repository of a folder's files; its name begins with its type: model/NAMESPACE/NAME."""
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            data = path.read_bytes()
            files[str(path.relative_to(folder))] = oid = hashlib.sha256(data).hexdigest()
            (self._blobs / oid).write_bytes(data)
        self._state.put(KIND, repository, {"files": files, "commits": 1})

    async def _make_namespace(self, request: Request) -> Response:
        async with request.form() as form:
            name = str(form.get("namespace", ""))
        if name in self._state.all("datastore namespaces"):
            return problem(409, f"namespace {name} already exists")
        self._state.put("datastore namespaces", name, {"namespace": name})
        return reply({"namespace": name}, 201)

    async def _create(self, request: Request) -> Response:
        asked = await request.json()
        name = f"{asked.get('organization')}/{asked['name']}"
        full = f"{asked.get('type', 'model')}/{name}"
        if asked.get("organization") not in self._state.all("datastore namespaces"):
            return problem(404, f"namespace {asked.get('organization')} not found")
        url = f"{_base(request)}/{asked.get('type', 'model')}s/{name}"
        if full in self._state.all(KIND):
            return reply({"error": f"You already created this repo: {name}", "url": url}, 409)
        self._state.put(KIND, full, {"files": {}, "commits": 0})
        self._state.count("repositories made")
        return reply({"url": url, "name": name})

    async def _delete(self, request: Request) -> Response:
        asked = await request.json()
        full = f"{asked.get('type', 'model')}/{asked.get('organization')}/{asked['name']}"
        if self._state.remove(KIND, full) is None:
            return _missing()
        return reply({})

    async def _preupload(self, request: Request) -> Response:
        if self._find(request) is None:
            return _missing()
        files = (await request.json())["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "regular" if file["size"] < _REGULAR_BYTES else "lfs",
                "shouldIgnore": False,
            }
            for file in files
        ]
        return reply({"files": modes})

    async def _batch(self, request: Request) -> Response:
        if self._find(request) is None:
            return _missing()
        objects = []
        for asked in (await request.json())["objects"]:
            entry: Entity = {"oid": asked["oid"], "size": asked["size"]}
            if not (self._blobs / asked["oid"]).exists():
                entry["actions"] = {"upload": {"href": f"{_base(request)}/lfs/{asked['oid']}"}}
            objects.append(entry)
        return reply({"transfer": "basic", "objects": objects})

    async def _upload(self, request: Request) -> Response:
        data = await request.body()
        oid = request.path_params["oid"]
        if hashlib.sha256(data).hexdigest() != oid:
            return problem(422, "the file's SHA-256 is not its oid")
        (self._blobs / oid).write_bytes(data)
        self._state.count("files uploaded")
        self._state.count(f"uploads of {oid}")
        return reply({})

    async def _commit(self, request: Request) -> Response:
        found = self._find(request)
        if found is None:
            return _missing()
        for line in (await request.body()).splitlines():
            entry = orjson.loads(line)
            value = entry["value"]
            if entry["key"] == "lfsFile":
                if not (self._blobs / value["oid"]).exists():
                    return problem(422, f"{value['path']}: {value['oid']} was not uploaded")
                found["files"][value["path"]] = value["oid"]
            elif entry["key"] == "file":
                data = base64.b64decode(value["content"])
                oid = hashlib.sha256(data).hexdigest()
                (self._blobs / oid).write_bytes(data)
                found["files"][value["path"]] = oid
        found["commits"] += 1
        self._state.save()
        return reply(
            {"success": True, "commitUrl": f"{_url(request)}/commit/{_sha(found)}", "commitOid": _sha(found)}
        )

    async def _tree(self, request: Request) -> Response:
        found = self._find(request)
        if found is None:
            return _missing()
        files = [
            {"type": "file", "path": path, "oid": oid[:40], "size": (self._blobs / oid).stat().st_size}
            for path, oid in found["files"].items()
        ]
        return reply(files)

    async def _info(self, request: Request) -> Response:
        found = self._find(request)
        if found is None:
            return _missing()
        names = [{"rfilename": path} for path in found["files"]]
        return reply(
            {"id": _name(request), "sha": _sha(found), "siblings": names, "private": False, "tags": []}
        )

    async def _resolve(self, request: Request) -> Response:
        found = self._find(request)
        oid = (found or {}).get("files", {}).get(request.path_params["path"])
        if found is None or oid is None:
            return problem(404, "Entry not found")
        headers = {"X-Repo-Commit": _sha(found), "ETag": f'"{oid}"'}
        return Response(
            (self._blobs / oid).read_bytes(), headers=headers, media_type="application/octet-stream"
        )

    def _find(self, request: Request) -> Entity | None:
        return self._state.all(KIND).get(f"{request.path_params['type']}/{_name(request)}")


def _name(request: Request) -> str:
    return f"{request.path_params['namespace']}/{request.path_params['name']}"


def _base(request: Request) -> str:
    return f"{str(request.base_url).rstrip('/')}{request.scope.get('root_path', '')}/v1/hf"


def _url(request: Request) -> str:
    return f"{_base(request)}/{request.path_params['type']}s/{_name(request)}"


def _sha(repository: Entity) -> str:
    return hashlib.sha256(orjson.dumps([repository["files"], repository["commits"]])).hexdigest()[:40]


def _missing() -> Response:
    return reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
