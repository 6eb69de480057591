"""The OpenAPI document of the API, and a page made of it that needs nothing from elsewhere."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

from flywheel.web import contract
from flywheel.web.access import requires
from flywheel.web.headers import document_policy

router = APIRouter(include_in_schema=False, dependencies=[requires("read")])

_METHODS = ("get", "post", "put", "patch", "delete")


@router.get("/openapi.json")
def get_document(request: Request) -> JSONResponse:
    """Return the OpenAPI document."""
    return JSONResponse(document(request.app, request.scope.get("root_path", "")))


@router.get("/docs")
def get_page(request: Request) -> HTMLResponse:
    """Show the document to people: each route with its parameters, and examples to copy."""
    text = page(request.app, request.scope.get("root_path", ""))
    return HTMLResponse(text, headers={"Content-Security-Policy": document_policy(text)})


def document(app: Any, base: str) -> dict[str, Any]:
    """Return the OpenAPI document, with the path under which the application is mounted.

    An answer has all its fields, where FastAPI calls those with a default optional, as they would be in a
    request. What the blueprint publishes stays as it does.
    """
    described: dict[str, Any] = copy.deepcopy(app.openapi()) | {"servers": [{"url": base or "/"}]}
    schemas = described["components"]["schemas"]
    operations = [one for methods in described["paths"].values() for one in methods.values()]
    asked = _named(schemas, [one.get("requestBody") for one in operations])
    for name in (
        _named(schemas, [one["responses"].get("200") for one in operations]) - asked - vars(contract).keys()
    ):
        if "properties" in schemas[name]:
            schemas[name]["required"] = list(schemas[name]["properties"])
    return described


def _named(schemas: dict[str, Any], part: Any) -> set[str]:
    """Return the names of the schemas that a part of the document refers to, and those that they refer to."""
    found: set[str] = set()
    left = [part]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += one
        elif isinstance(one, dict):
            name = str(one.get("$ref", "")).rsplit("/", 1)[-1]
            if name in schemas and name not in found:
                found.add(name)
                left.append(schemas[name])
            left += one.values()
    return found


@lru_cache(maxsize=8)
def page(app: Any, base: str) -> str:
    """Return the page."""
    described = document(app, base)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = files("flywheel.web").joinpath("documentation.html.jinja").read_text(encoding="utf-8")
    operations = [
        _operation(described, path, method, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    ]
    tags = list(dict.fromkeys(operation["tag"] for operation in operations))
    return environment.from_string(source).render(
        info=described["info"],
        base=base,
        tags=[(tag, [one for one in operations if one["tag"] == tag]) for tag in tags],
    )


def _operation(
    described: dict[str, Any], path: str, method: str, operation: dict[str, Any]
) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {})
    media, asked = next(iter(body.items()), ("", {}))
    good = operation["responses"].get("200", {})
    answer_media, answer = next(iter(good.get("content", {}).items()), ("", {}))
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "method": method.upper(),
        "path": path,
        "description": operation.get("description", ""),
        "parameters": operation.get("parameters", []),
        "media": media,
        "body": _example(described, asked),
        "answer_media": answer_media,
        "answer": _example(described, answer),
        "answers": [(status, one["description"]) for status, one in operation["responses"].items()],
    }


def _example(described: dict[str, Any], content: dict[str, Any]) -> str:
    """Return an example of a body as text; empty where the document has none."""
    if "example" in content:
        return str(content["example"]).rstrip("\n")
    value = _value(described, content.get("schema", {}), 0)
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)


def _value(described: dict[str, Any], schema: dict[str, Any], depth: int) -> Any:
    """Return a value of a schema: its examples, else made of those of its parts."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _value(described, described["components"]["schemas"][name], depth + 1)
    if schema.get("examples"):
        return schema["examples"][0]
    if "default" in schema:
        return schema["default"]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return _value(described, schema[key][0], depth + 1)
    if "enum" in schema:
        return schema["enum"][0]
    if depth > 8:
        return None
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        parts = schema.get("properties", {})
        return {name: _value(described, part, depth + 1) for name, part in parts.items()}
    if kind == "array":
        return [] if "items" not in schema else [_value(described, schema["items"], depth + 1)]
    plain = {"string": "…", "integer": 1, "number": 0.9, "boolean": True}
    return "2026-03-01T02:00:00Z" if schema.get("format") == "date-time" else plain.get(str(kind))
