"""Read a config file: YAML with line numbers, so that an error names file, line, key and the nearest key."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flywheel.common.errors import ConfigError
from flywheel.config.experiments import EXTENDS, experiment_path, laid_over
from flywheel.config.logs import LoggingConfig, LogLevel
from flywheel.config.schema import IGNORED_KEYS, Config, section_in
from flywheel.config.secrets import secrets_in
from flywheel.config.yaml_text import Lines, Location, missing, no_such_key, place, read_with_lines, shorten

log = logging.getLogger(__name__)

# Wrong keys that are named; a file with more is another file.
_MOST_PROBLEMS = 50

# Files whose keys without effect were named by this process.
_told: set[tuple[str, ...]] = set()

CONFIG_VARIABLE = "FLYWHEEL_CONFIG"
HOME_VARIABLE = "FLYWHEEL_HOME"


def checkout() -> Path:
    """Return the folder that dags/, plugins/ and include/ came in: nothing is written there."""
    return Path(__file__).resolve().parents[3]


def project_home() -> Path:
    """Return the folder of the user's files, where relative paths start: FLYWHEEL_HOME, else the checkout.

    In it are config.yaml, experiments/, workloads/, state/ and artifacts/.
    """
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).expanduser().resolve() if home else checkout()


def find_path(path: str) -> str:
    """Return `path` as `resolve_path`; where what is not in the user's folder came with flywheel, it is that.

    So does `include/workloads/news_classifier.yaml` name the shipped workload in any FLYWHEEL_HOME.
    """
    own = resolve_path(path)
    if "://" in own or os.path.lexists(own):
        return own
    shipped = checkout() / path
    return str(shipped) if shipped.exists() else own


def resolve_path(path: str) -> str:
    """Return `path` made absolute against the user's folder; a URL with a scheme is left as it is."""
    if "://" in path:
        return path
    return str(project_home() / Path(path).expanduser())


def default_config_path() -> Path:
    """Return the config file in force.

    FLYWHEEL_CONFIG's; else config.yaml of FLYWHEEL_HOME, or include/config.yaml where that is a
    project's folder, as it is by default.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(resolve_path(named))
    own, shipped = project_home() / "config.yaml", project_home() / "include/config.yaml"
    return shipped if shipped.exists() and not own.exists() else own


def load_config(path: str | os.PathLike[str] | None = None, experiment: str = "") -> Config:
    """Read and validate a configuration file.

    Args:
        path: a YAML file; default: `default_config_path()`.
        experiment: name of a file `experiments/NAME.yaml` of the project; empty: the first file's own.

    Raises:
        ConfigError: a file cannot be read, is not YAML, repeats a key, or has a wrong key or value. All
            wrong keys are named, one a line, with their line in their file. There is no such experiment, or
            no file that it extends.
    """
    path = Path(path) if path is not None else default_config_path()
    if experiment:
        own = experiment_path(project_home(), experiment)
        data, lines = _extended(own, path.absolute())
        data["client_id"] = _read(own)[0].get("client_id", experiment)
        path = own
    else:
        data, lines = _extended(path, None)
    config = validate_config(data, str(path), lines)
    unused = _ignored_keys_in(data)
    if unused and (str(path), *unused) not in _told:
        _told.add((str(path), *unused))
        log.warning("%s: keys of the blueprint without effect here: %s", path, ", ".join(unused))
    return config


def files_of(experiment: str = "") -> list[Path]:
    """Return the files that an experiment is read from, its own first; of a wrong one, those found so far."""
    found: list[Path] = []
    try:
        own = experiment_path(project_home(), experiment) if experiment else default_config_path()
        _extended(own, default_config_path() if experiment else None, found)
    except ConfigError:
        pass
    return found


def _extended(
    path: Path, default: Path | None, above: list[Path] | None = None
) -> tuple[dict[str, Any], Lines]:
    """Return what a file says over what it extends, and where each key of both is.

    Args:
        default: what it extends if it does not say; None: nothing.
        above: the files that extend this one; it is added.
    """
    above = [] if above is None else above
    above.append(path)
    data, lines = _read(path)
    there = data.pop(EXTENDS, default)
    if there is None:
        return data, lines
    where = place(lines, (EXTENDS,), str(path))
    if not isinstance(there, str | Path) or not str(there):
        raise ConfigError(f"{where}: expected the path of a file, or null; got {shorten(there)}")
    base = Path(os.path.normpath(path.parent / Path(there).expanduser()))
    if base in above:
        raise ConfigError(f"{where}: {base} is extended by this file itself; name another, or null")
    if not base.is_file():
        above.append(base)
        raise ConfigError(f"{where}: no such file: {base}; name one by its path from here, or null")
    below, below_lines = _extended(base, None, above)
    return laid_over(below, data), {**below_lines, **lines}


def log_level_in_force() -> LogLevel:
    """Return `logging_config.level` of the file in force; INFO where it is wrong, as its reader will say."""
    try:
        data, _ = _read(default_config_path())
        return LoggingConfig.model_validate(data["logging_config"]).level
    except (ConfigError, ValidationError, LookupError):
        return "INFO"


def validate_config(data: Any, origin: str, lines: Lines | None = None) -> Config:
    """Return the typed configuration of decoded data.

    Args:
        origin: what the data came from, for messages.
        lines: file and line of each location, where there is a file.

    Raises:
        ConfigError: as `load_config`; or a key holds a secret, which is then not shown.
    """
    secrets = secrets_in(data)
    if secrets:
        raise ConfigError("\n".join(f"{place(lines or {}, key, origin)}: {way}" for key, way in secrets))
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [_explain(origin, lines or {}, detail) for detail in details[:_MOST_PROBLEMS]]
        if len(details) > _MOST_PROBLEMS:
            problems.append(f"{origin}: and {len(details) - _MOST_PROBLEMS:,} more")
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def _read(path: Path) -> tuple[dict[str, Any], Lines]:
    data, lines = read_with_lines(
        path,
        ConfigError,
        f"set {CONFIG_VARIABLE}, or {HOME_VARIABLE} to a folder that `flywheel init DIR` has made",
    )
    if not isinstance(data, dict):
        raise ConfigError(f"{path}, line 1: expected a mapping of sections such as nims, source and teacher")
    return data, lines


def _explain(origin: str, lines: Lines, detail: ErrorDetails) -> str:
    location = detail["loc"]
    where = place(lines, location, origin)
    if detail["type"] == "extra_forbidden":
        return no_such_key(where, location[-1], _keys_of(location[:-1]))
    if detail["type"] == "missing":
        return missing(where)
    message = re.sub(r"^Value error, ", "expected ", detail["msg"])
    message = re.sub(r"^Input should be", "expected", message)
    if not location:  # about several keys, which the message names
        return f"{origin}: {message}"
    if "headers" in location:  # what is wrong there may be a key
        return f"{where}: {message}"
    return f"{where}: {message}; got {shorten(detail.get('input'))}"


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
