"""The experiments of a user: config.yaml, and each experiments/NAME.yaml beside it. Each is a DAG of its own.

    config.yaml             the DAG flywheel, made by dags/flywheel.py; its name is empty
    experiments/NAME.yaml   the DAG flywheel_NAME, made by a link to that file, experiment_NAME.py

A file says by `extends: FILE`, a path from its own folder, which file it is laid over; one of experiments/
without that key is laid over config.yaml, and one with `extends: null` stands alone. Sections are laid over
key by key; a list, and `source`, stands instead of the other. An experiment's `client_id` is what its own
file says, else its name: it is not taken from what is extended.
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
DAG_ID = "flywheel"
# The DAGs beside the flywheel's own, which are called so: DAG_ID_NAME.
BESIDE = ("annotate", "prune", "serving", "watch")
EXTENDS = "extends"
FILE_PREFIX = "experiment_"


def experiment_names(home: Path) -> list[str]:
    """Return the names of the files of experiments/, right or wrong; config.yaml's is not among them."""
    files = (home / FOLDER).glob("*.yaml")
    return sorted(file.stem for file in files if not file.name.startswith("."))


def check_name(home: Path, name: str) -> None:
    """Check that an experiment can be called so.

    Raises:
        ConfigError: with the file, and what it may be called.
    """
    file = home / FOLDER / f"{name}.yaml"
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"{file}: expected a name of at most 64 letters, digits, '_' and '-', the first a letter or "
            "digit; rename the file"
        )
    if name in BESIDE or name.startswith("annotate_"):
        raise ConfigError(f"{file}: {DAG_ID}_{name} is another DAG of flywheel's; rename the file")


def experiment_path(home: Path, name: str) -> Path:
    """Return the file of an experiment.

    Raises:
        ConfigError: there is no such experiment, or it cannot be called so.
    """
    there = experiment_names(home)
    if name not in there:
        known = f"there are {', '.join(there)}" if there else "there are none"
        raise ConfigError(f"experiment: no experiment {name[:80]!r} in {home / FOLDER}; {known}")
    check_name(home, name)
    return home / FOLDER / f"{name}.yaml"


def dag_id_of(experiment: str) -> str:
    """Return the DAG of an experiment."""
    return f"{DAG_ID}_{experiment}" if experiment else DAG_ID


def experiment_of(dag_id: str) -> str:
    """Return the experiment whose DAG that is, or whose history it labels; else that of config.yaml."""
    name = dag_id.removeprefix(f"{DAG_ID}_").removeprefix("annotate_")
    is_experiments = name != dag_id and name not in BESIDE and re.fullmatch(NAME, name)
    return name if is_experiments else ""


def dag_file_of(experiment: str) -> str:
    """Return the name of the file that makes an experiment's DAG (flywheel.orchestration.bundle)."""
    return f"{FILE_PREFIX}{experiment}.py" if experiment else f"{DAG_ID}.py"


def experiment_in(dag_file: str) -> str:
    """Return whose DAG a file makes, by its name."""
    name = Path(dag_file).stem
    return name.removeprefix(FILE_PREFIX) if name.startswith(FILE_PREFIX) else ""


def laid_over(data: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a config file with those of another over them."""
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
