"""Read a config file: YAML with line numbers, so that an error names file, line, key and the nearest key."""

from __future__ import annotations

import difflib
import logging
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flywheel.common.errors import ConfigError
from flywheel.config.experiments import experiment_path, laid_over
from flywheel.config.logs import LoggingConfig, LogLevel
from flywheel.config.schema import IGNORED_KEYS, Config, section_in
from flywheel.config.secrets import secrets_in
from flywheel.config.yaml_text import BadYamlError, read_yaml

log = logging.getLogger(__name__)

# Wrong keys that are named; a file with more is another file.
_MOST_PROBLEMS = 50

Location = tuple[str | int, ...]

# Files whose keys without effect were named by this process.
_told: set[tuple[str, ...]] = set()

CONFIG_VARIABLE = "FLYWHEEL_CONFIG"
HOME_VARIABLE = "FLYWHEEL_HOME"


def project_home() -> Path:
    """Return the project's folder, which relative paths start from: FLYWHEEL_HOME, else the checkout."""
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).resolve() if home else Path(__file__).resolve().parents[3]


def resolve_path(path: str) -> str:
    """Return `path` made absolute against the project's folder; a URL with a scheme is left as it is."""
    if "://" in path:
        return path
    return str(project_home() / Path(path).expanduser())


def default_config_path() -> Path:
    """Return the config file in force: FLYWHEEL_CONFIG, else include/config.yaml of the project."""
    return Path(resolve_path(os.environ.get(CONFIG_VARIABLE, "include/config.yaml")))


def load_config(path: str | os.PathLike[str] | None = None, experiment: str = "") -> Config:
    """Read and validate a configuration file.

    Args:
        path: a YAML file; default: `default_config_path()`.
        experiment: name of a file `experiments/NAME.yaml` of the project, whose keys are laid over those
            of the first file; empty: none.

    Raises:
        ConfigError: a file cannot be read, is not YAML, repeats a key, or has a wrong key or value. All
            wrong keys are named, one a line, with their line in their file. There is no such experiment.
    """
    path = Path(path) if path is not None else default_config_path()
    data, lines = _read_yaml(path)
    if experiment:
        more, more_lines = _read_yaml(experiment_path(project_home(), experiment))
        data, lines = laid_over(data, more), {**lines, **more_lines}
    config = validate_config(data, str(path), lines)
    unused = _ignored_keys_in(data)
    if unused and (str(path), *unused) not in _told:
        _told.add((str(path), *unused))
        log.warning("%s: keys of the blueprint without effect here: %s", path, ", ".join(unused))
    return config


def log_level_in_force() -> LogLevel:
    """Return `logging_config.level` of the file in force; INFO where it is wrong, as its reader will say."""
    try:
        data, _ = read_yaml(default_config_path())
        return LoggingConfig.model_validate(data["logging_config"]).level
    except (OSError, BadYamlError, ValidationError, LookupError, TypeError):
        return "INFO"


def validate_config(data: Any, origin: str, lines: dict[Location, str] | None = None) -> Config:
    """Return the typed configuration of decoded data.

    Args:
        origin: what the data came from, for messages.
        lines: file and line of each location, where there is a file.

    Raises:
        ConfigError: as `load_config`; or a key holds a secret, which is then not shown.
    """
    secrets = secrets_in(data)
    if secrets:
        raise ConfigError("\n".join(f"{_where(origin, lines or {}, key)}: {way}" for key, way in secrets))
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [_explain(origin, lines or {}, detail) for detail in details[:_MOST_PROBLEMS]]
        if len(details) > _MOST_PROBLEMS:
            problems.append(f"{origin}: and {len(details) - _MOST_PROBLEMS:,} more")
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def _read_yaml(path: Path) -> tuple[Any, dict[Location, str]]:
    """Return the file's data, and file and line of each key and item, by its location."""
    try:
        data, node = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; set {CONFIG_VARIABLE} or create it") from None
    except BadYamlError as error:
        raise ConfigError(str(error)) from None
    lines: dict[Location, str] = {(): f"{path}, line 1"}
    if node is not None:
        _collect_lines(path, node, (), lines)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}, line 1: expected a mapping of sections such as nims, source and teacher")
    return data, lines


def _collect_lines(path: Path, node: yaml.Node, location: Location, lines: dict[Location, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                raise ConfigError(f"{path}, line {line}: key {name!r} is there already in line {seen[name]}")
            seen[name] = line
            lines[(*location, name)] = f"{path}, line {line}"
            _collect_lines(path, value, (*location, name), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*location, index)] = f"{path}, line {value.start_mark.line + 1}"
            _collect_lines(path, value, (*location, index), lines)


def _explain(origin: str, lines: dict[Location, str], detail: ErrorDetails) -> str:
    location = detail["loc"]
    where = _where(origin, lines, location)
    if detail["type"] == "extra_forbidden":
        names = _keys_of(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
        hint = f"the nearest valid key is {near[0]!r}" if near else f"valid keys are {', '.join(names)}"
        return f"{where}: no such key; {hint}"
    if detail["type"] == "missing":
        return f"{where}: missing, and required"
    message = re.sub(r"^Value error, ", "expected ", detail["msg"])
    message = re.sub(r"^Input should be", "expected", message)
    if not location:  # about several keys, which the message names
        return f"{origin}: {message}"
    if "headers" in location:  # what is wrong there may be a key
        return f"{where}: {message}"
    return f"{where}: {message}; got {_shorten(detail.get('input'))}"


def _where(origin: str, lines: dict[Location, str], location: Location) -> str:
    """Return file, line and key, for the beginning of a message."""
    known = location
    while known and known not in lines:  # a missing key has no line of its own: its section has
        known = known[:-1]
    key = ".".join(str(part) for part in location)
    return f"{lines[known]}: {key}" if lines else f"{origin}: {key}"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _keys_of(location: Location) -> list[str]:
    """Return the valid keys of the section at that location."""
    section: type[BaseModel] = Config
    for part in location:
        if isinstance(part, int):
            continue
        field = section.model_fields.get("nims" if part == "nim" else part)
        if field:  # else a key of a mapping, such as a student's name
            section = section_in(field.annotation) or section
    return sorted(section.model_fields)


def _ignored_keys_in(data: dict[str, Any]) -> list[str]:
    """Return the dotted keys of `IGNORED_KEYS` that the file sets."""
    found: list[str] = []

    def visit(value: Any, pattern: list[str], done: list[str]) -> None:
        if not pattern:
            found.append(".".join(done))
        elif pattern[0] == "*":
            for item in value if isinstance(value, list) else ():
                visit(item, pattern[1:], [*done, "*"])
        elif isinstance(value, dict):
            names = ("nims", "nim") if pattern[0] == "nims" else (pattern[0],)
            for name in names:
                if name in value:
                    visit(value[name], pattern[1:], [*done, name])

    for key in IGNORED_KEYS:
        visit(data, key.split("."), [])
    return list(dict.fromkeys(found))
