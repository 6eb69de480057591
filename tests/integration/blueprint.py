"""The blueprint's contract, read from tests/contract/blueprint.yaml: as fields, and as JSON schemas."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[1] / "contract" / "blueprint.yaml"
CONTRACT: dict[str, Any] = yaml.safe_load(FILE.read_text())
_NAMES = {">=": "minimum", "<=": "maximum", "<": "exclusiveMaximum"}


@dataclass(frozen=True)
class Field:
    """A field of a model: its JSON schema, whether it is required, and its default as JSON text."""

    schema: dict[str, Any]
    required: bool
    default: str | None


def field_of(text: str) -> Field:
    """Read a field as the file writes it."""
    text, _, default = text.partition(" = ")
    required = text.endswith(" !")
    return Field(_schema(text.removesuffix(" !").strip()), required, default or None)


def operations() -> list[tuple[str, str, str | None, dict[int, str]]]:
    """Return (path, method, model of the body, model by status)."""
    return [
        (path, method, operation.get("asks"), operation["answers"])
        for path, methods in CONTRACT["paths"].items()
        for method, operation in methods.items()
    ]


def models() -> dict[str, dict[str, Field]]:
    """Return the models that have fields."""
    return {
        name: {field: field_of(text) for field, text in fields.items()}
        for name, fields in CONTRACT["models"].items()
        if isinstance(fields, dict)
    }


def schema_of(model: str) -> dict[str, Any]:
    """Return the JSON schema of a model; an answer must have every field, and no other."""
    definitions: dict[str, Any] = {}
    for name, fields in CONTRACT["models"].items():
        if isinstance(fields, str):
            definitions[name] = _schema(fields)
            continue
        read = {field: field_of(text) for field, text in fields.items()}
        definitions[name] = {
            "type": "object",
            "properties": {field: one.schema for field, one in read.items()},
            "required": list(read),
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{model}", "$defs": definitions}


def _schema(text: str) -> dict[str, Any]:
    if text.startswith("one of "):
        return {"type": "string", "enum": text.removeprefix("one of ").split(", ")}
    if text.startswith("["):
        return {"type": "array", "items": _schema(text[1:-1])}
    if " | " in text:
        return {"anyOf": [_schema(part) for part in text.split(" | ")]}
    if text.startswith("{string: "):
        return {"type": "object", "additionalProperties": _schema(text[9:-1])}
    if text == "time":
        return {"type": "string", "format": "date-time"}
    kind, *rest = text.split(" ", 1)
    if kind in ("string", "integer", "number", "boolean", "null"):
        bounds = re.findall(r"(>=|<=|<) (\S+)", rest[0]) if rest else []
        return {"type": kind, **{_NAMES[sign]: float(number) for sign, number in bounds}}
    return {"$ref": f"#/$defs/{kind}"}
