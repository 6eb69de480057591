"""The door for what a run sets of the configuration: scientific settings pass, all else is the operator's."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import AliasChoices, BaseModel

from flywheel.common.errors import ConfigError
from flywheel.config.loading import validate_config
from flywheel.config.schema import Config, section_in
from flywheel.config.sides import (
    LOWER_IS_STRICTER,
    MOST,
    MOST_SIZES,
    SIDES,
    WORDS,
    field_named,
    is_open,
    side_of,
    value_of,
)

ORIGIN = "run parameters"


def override_config(config: Config, overrides: dict[str, Any]) -> tuple[Config, tuple[str, ...]]:
    """Return the config with what a run sets of it, and the keys of the examination that it changed.

    Args:
        overrides: sections with the keys to change.

    Raises:
        ConfigError: a key is the operator's, a gate would be looser, a value is too large, or a key or value
            is wrong; all of them are named, one a line.
    """
    refused: list[str] = []
    given: list[str] = []
    data = _laid_over(Config, config.model_dump(mode="json"), overrides, "", refused, given)
    if refused:
        raise ConfigError("\n".join(refused))
    changed = validate_config(data, ORIGIN)
    refused = [said for path in given if (said := _too_much(path, value_of(changed, path)))]
    refused += [
        said for path in SIDES if side_of(path) == "gate" and (said := _looser(config, changed, path))
    ]
    if refused:
        raise ConfigError("\n".join(refused))
    return changed, exam_changes(config, changed)


def exam_changes(before: Config, after: Config) -> tuple[str, ...]:
    """Return the keys that decide an examination and differ."""
    exam = (path for path, side in SIDES.items() if side == "exam")
    return tuple(path for path in exam if value_of(before, path) != value_of(after, path))


def overrides_schema(config: Config | None) -> dict[str, Any]:
    """Return the JSON Schema of a run's overrides: each key that a run may set with its type and bounds.

    A key of the operator's is there to be refused in words: what Airflow tells of a value that does not fit
    is the schema that it does not fit.

    Args:
        config: whose gates are the bounds of stricter ones.
    """
    return _schema_of(Config, "", config)


def refusal(path: str) -> str:
    """Return the sentence that refuses a key of the operator's."""
    return (
        f"{path}: a run may not set this; the operator's files set it (config.yaml, or an experiment's "
        "experiments/NAME.yaml)"
    )


def _laid_over(
    section: type[BaseModel],
    data: dict[str, Any],
    overrides: dict[str, Any],
    prefix: str,
    refused: list[str],
    given: list[str],
) -> dict[str, Any]:
    """Return a section's data with those of a run over them; note what is refused and what is set."""
    for key, value in overrides.items():
        name = field_named(section, str(key))
        if name is None:
            data[key] = value  # no such key: the validation says so, and which one is near
            continue
        path = f"{prefix}{name}"
        inner = section_in(section.model_fields[name].annotation)
        if not (is_open(path) if inner else side_of(path) != "operator"):
            refused.append(refusal(path))
        elif inner is None:
            data[name] = value
            given.append(path)
        elif isinstance(value, dict):
            data[name] = _laid_over(inner, dict(data.get(name) or {}), value, f"{path}.", refused, given)
        else:
            refused.append(f"{path}: expected an object with the keys to change")
    return data


def _too_much(path: str, value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    if path == "sizes" and len(values) > MOST_SIZES:
        return f"{path}: a run has at most {MOST_SIZES}; got {len(values)}"
    most = MOST.get(path)
    if most is None or not any(isinstance(one, int | float) and one > most for one in values):
        return ""
    return f"{path}: a run may set at most {most:,}; got {max(values):,}"


def _looser(before: Config, after: Config, path: str) -> str:
    old, new = value_of(before, path), value_of(after, path)
    lower = path in LOWER_IS_STRICTER
    if _rank(path, new) == _rank(path, old) or (_rank(path, new) < _rank(path, old)) == lower:
        return ""
    bound = "" if path in WORDS else "at most " if lower else "at least "
    return (
        f"{path}: a run may make this gate stricter, never looser than the operator's files do: "
        f"{bound}{old}; got {new}"
    )


def _rank(path: str, value: Any) -> float:
    return WORDS[path].index(value) if path in WORDS else float(value)


def _schema_of(section: type[BaseModel], prefix: str, config: Config | None) -> dict[str, Any]:
    written = _written(section)
    properties: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        path, inner = f"{prefix}{name}", section_in(field.annotation)
        if not (is_open(path) if inner else side_of(path) != "operator"):
            schema: dict[str, Any] = {"not": {"description": refusal(path)}}
        elif inner:
            schema = _schema_of(inner, f"{path}.", config)
        else:
            schema = _leaf_schema(path, written[name], config)
        alias = field.validation_alias
        spellings = [str(one) for one in alias.choices] if isinstance(alias, AliasChoices) else []
        properties.update(dict.fromkeys([name, *spellings], schema))
    return {"type": "object", "properties": properties, "additionalProperties": False}


@cache
def _written(section: type[BaseModel]) -> dict[str, Any]:
    """Return what pydantic writes of a section's keys: more than half of what reading the DAG file takes."""
    properties: dict[str, Any] = section.model_json_schema(by_alias=False)["properties"]
    return properties


def _leaf_schema(path: str, written: dict[str, Any], config: Config | None) -> dict[str, Any]:
    """Return what pydantic writes of a key, with the bounds of a run."""
    schema = {key: value for key, value in written.items() if key not in ("default", "title")}
    if path == "sizes":
        schema = {**schema, "maxItems": MOST_SIZES, "items": {**schema["items"], "maximum": MOST[path]}}
    elif path in MOST:
        schema = _bounded(schema, "maximum", MOST[path])
    if side_of(path) == "gate" and config is not None:
        value = value_of(config, path)
        if path in WORDS:
            schema["enum"] = list(WORDS[path][WORDS[path].index(value) :])
        elif isinstance(value, bool):
            schema["enum"] = [True] if value else [False, True]
        else:
            schema = _bounded(schema, "maximum" if path in LOWER_IS_STRICTER else "minimum", value)
    return schema


def _bounded(schema: dict[str, Any], bound: str, value: float) -> dict[str, Any]:
    if "anyOf" not in schema:
        return {**schema, bound: value}
    kinds = [kind if kind.get("type") == "null" else {**kind, bound: value} for kind in schema["anyOf"]]
    return {**schema, "anyOf": kinds}
