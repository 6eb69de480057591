"""The operator's named experiments: experiments/NAME.yaml in the project's folder, laid over config.yaml.

A run names one by its param `experiment`, and so chooses among what the operator has written, addresses and
paths included. Sections are laid over key by key; a list, and `source`, stands instead of the other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel

from flywheel.common.errors import ConfigError
from flywheel.config.schema import Config, section_in

FOLDER = "experiments"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


def experiment_names(home: Path) -> list[str]:
    """Return the names of the experiments of a project's folder."""
    names = (file.stem for file in (home / FOLDER).glob("*.yaml"))
    return sorted(name for name in names if re.fullmatch(NAME, name))


def experiment_path(home: Path, name: str) -> Path:
    """Return the file of an experiment.

    Raises:
        ConfigError: it is no name, or there is no such experiment.
    """
    there = experiment_names(home)
    if name not in there:
        known = f"there are {', '.join(there)}" if there else "there are none"
        raise ConfigError(f"experiment: no experiment {name[:80]!r} in {home / FOLDER}; {known}")
    return home / FOLDER / f"{name}.yaml"


def laid_over(data: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a config file with those of an experiment over them."""
    return _laid_over(Config, data, more)


def _laid_over(section: type[BaseModel] | None, data: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    found = dict(data)
    for key, value in more.items():
        spellings = _spellings(section, key)
        before = next((found.pop(one) for one in spellings if one in found), None)
        inner = None if section is None else section.model_fields.get(spellings[0])
        if isinstance(before, dict) and isinstance(value, dict) and key != "source":
            value = _laid_over(section_in(inner.annotation) if inner else None, before, value)
        found[key] = value
    return found


def _spellings(section: type[BaseModel] | None, key: str) -> list[str]:
    """Return all spellings of a key, the field's own first."""
    for name, field in section.model_fields.items() if section else ():
        alias = field.validation_alias
        names = [name, *map(str, alias.choices)] if isinstance(alias, AliasChoices) else [name]
        if key in names:
            return names
    return [key]
