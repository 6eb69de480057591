"""The page docs/configuration.md, made from the schema: `python -m flywheel.config.reference > FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flywheel.config.schema import IGNORED_KEYS, Config, section_in
from flywheel.config.sides import Side, side_of

# What a run may do with a key, by its side.
_RUN: dict[Side, str] = {"run": "sets", "exam": "exam", "gate": "stricter", "operator": ""}

INTRODUCTION = """\
# Configuration

`config.yaml` of `FLYWHEEL_HOME` ([home.md](home.md)), else the shipped `include/config.yaml`, or the file
that `FLYWHEEL_CONFIG` names. It is read once, when a run starts, and
frozen into the run's plan. A wrong key or value is an error that names file, line, key, what was expected and
the nearest valid key. `nim` is another spelling of `nims`. Secrets have no place here: they live in Airflow
connections or in the environment.

Keys of the NVIDIA Data Flywheel Blueprint without effect here are accepted, and named in one line of the log:
{ignored}.

## Several experiments

`config.yaml` is an experiment, and so is each `experiments/NAME.yaml` in the same `FLYWHEEL_HOME`: a DAG
of its own in Airflow, `flywheel` or `flywheel_NAME`, with its schedule, owner and tags, its champion,
its runs on the page, its experiment and registered model in MLflow. Store, artifacts, the teacher's
answers and the places of jobs on a machine are shared, as far as their sections say the same. A second
workload takes a file such as

```yaml
# experiments/sentiment.yaml
extends: ../config.yaml
workload: workloads/sentiment.yaml
schedule: {{cron: "0 3 * * *"}}
dag: {{owner: research, tags: [sentiment]}}
```

`extends` names the file that this one is laid over, by its path from here; that one may extend another.
A file of `experiments/` without that key is laid over `config.yaml`; `extends: null` says that it stands
alone. Sections are merged key by key; lists, and `source`, stand instead of the extended file's.

A champion is known by its workload and client. So `client_id` is not taken from what is extended: it is
what the experiment's own file says, else its name. Two files with the same workload and client are an
error that names both: `config.yaml` stays as it is, of other two the first by name.

A file that is wrong stops its own DAG alone, as an import error in Airflow with file, line and key
(`./airflow dags list-import-errors`, `./flywheel doctor`). Commands take `--experiment NAME`, and the id
of a run is Airflow's after `NAME@`. A job of the API starts the experiment of its workload and client,
else that of `config.yaml`; who may start, read or decide what is a permission on the experiment's DAG.

On one machine experiments with one store label one after the other, so that no headline is asked for
twice. With a store of Elasticsearch and workers on several machines, make a pool of one slot
(`./airflow pools set flywheel_label 1 label`) and name it in `dag.label_pool` of each.

Airflow gets a DAG file for each experiment by a bundle class, which `make run` and the image configure:
[kubernetes.md](kubernetes.md#several-experiments). Of the DAGs beside, `flywheel_annotate` is there for
each experiment with a section `annotation` (as `flywheel_annotate_NAME`), `flywheel_watch` and
`flywheel_prune` look after all of them by the clock of `config.yaml`, and `flywheel_serving` after the
champions of all that run on NeMo. An endpoint (`./flywheel serve --experiment NAME`) answers with the
champion of one.

## What a run may set

Who may start a run is not the operator. By its param `overrides` a run sets only what the column `run`
of the tables below marks, with the bounds of the trigger form; all else comes from the files of its
experiment, and a run that tries is refused with the key's name.

| in the column `run` | |
|---|---|
| sets | a run may set it |
| exam | a run may set it, but then it never promotes by itself: it decides how candidates are examined |
| stricter | a run may make this gate stricter, never looser |
| | the operator's files alone set it |
"""


def page() -> str:
    """Return the whole page as Markdown."""
    ignored = ", ".join(f"`{key}`" for key in IGNORED_KEYS)
    parts = [INTRODUCTION.format(ignored=ignored), "## Top level\n", *_table(Config, "")]
    for path, section in _sections(Config, ""):
        parts += [f"\n## {path}\n", f"{_first_line(section)}\n", *_table(section, path)]
    return "\n".join(parts) + "\n"


def _sections(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner:
            path = f"{prefix}{name}"
            yield path, inner
            yield from _sections(inner, f"{path}.")


def _table(section: type[BaseModel], path: str) -> Iterator[str]:
    rows = []
    for name, field in section.model_fields.items():
        if not section_in(field.annotation):
            dotted = f"{path}.{name}".lstrip(".")
            cells = [_type(field), _default(field), _RUN[side_of(dotted)], _meaning(field, dotted)]
            rows.append(f"| `{name}` | {' | '.join(cells)} |")
    if rows:
        yield "| key | type | default | run | meaning |"
        yield "|---|---|---|---|---|"
        yield from rows


def _meaning(field: FieldInfo, path: str) -> str:
    ignored = {key.replace(".*", "") for key in IGNORED_KEYS}
    return "no effect here" if path in ignored else (field.description or "").replace("|", "\\|")


def _type(field: FieldInfo) -> str:
    return f"`{_name(field.annotation)}`"


def _name(annotation: Any) -> str:
    """Return a type in words that need no Python: `list of int`, `'local' or 'kubernetes'`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(parts[0])
    if origin is Literal:
        return " or ".join(repr(value) for value in parts)
    if origin in (Union, UnionType):
        return " or ".join(_name(part) for part in parts)
    if origin in (tuple, list):
        return f"list of {_name(parts[0])}"
    if origin is dict:
        return f"mapping of {_name(parts[1])}"
    if annotation in (None, NoneType):
        return "null"
    return getattr(annotation, "__name__", str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value in ("", {}, ()):
        return ""
    return f"`{json.dumps(value)}`"


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().split("\n\n")[0]


if __name__ == "__main__":
    sys.stdout.write(page())
