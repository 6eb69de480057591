"""What nothing calls: `make lint` fails on a function, method or class that is shipped and has no user.

Tests and benchmarks are no users: what only they call is dead. Vulture finds names; these of them are in use:

* what a decorator registers, such as a command, a route, a validator or a place;
* a name that stands in a string of the code, in a template or in the page's source: methods that a trigger
  resumes, fields that a template shows;
* fields of models and dataclasses: readers of their JSON are their users.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vulture import Vulture

SHIPPED = ("include", "dags", "plugins", "scripts")
REGISTERING = ("app.*", "*.command", "*.callback", "router.*", "model_validator", "field_validator", "place")
# Methods that a library's base class calls.
CALLED_BY_LIBRARIES = (
    "serialize",  # Airflow, of a trigger
    "trigger_reentry",  # Airflow, of a resumed pod operator
    "readinto",  # io.RawIOBase
    "FlywheelPlugin",  # Airflow, of plugins/
    "ResultsPagePlugin",
    "create_metadata_engine",  # Airflow, by the name of its hook
    "on_starting",  # Airflow, of a listener
    "_load_pyfunc",  # MLflow, by the name of its module
)
# What research code calls: of `flywheel.champion()`, and a labelled history in one process.
PUBLIC = ("label_batches", "predict_proba", "run_here")
# What benchmarks measure with and the package keeps beside what it belongs to.
FOR_BENCHMARKS = ("bytes_per_token", "reaching")


def main() -> int:
    """Print what is dead, a line each; return 1 if something is."""
    vulture = Vulture(
        ignore_names=[*CALLED_BY_LIBRARIES, *PUBLIC, *FOR_BENCHMARKS],
        ignore_decorators=[form for name in REGISTERING for form in (f"@{name}", f"@{name}(*")],
    )
    vulture.scavenge(list(SHIPPED))
    found = [item for item in vulture.get_unused_code() if item.typ not in ("variable", "attribute")]
    spoken = _spoken({item.name for item in found})
    dead = [item for item in found if item.name not in spoken]
    for item in dead:
        sys.stdout.write(f"{item.filename}:{item.first_lineno}: {item.typ} '{item.name}' has no user\n")
    return bool(dead)


def _spoken(names: set[str]) -> set[str]:
    """Return the names that stand in quotes in the code, or anywhere in templates and the page's source."""
    quoted = re.compile(rf"""["'.:]({"|".join(map(re.escape, names)) or "$^"})["']""")
    words = re.compile(rf"\b({'|'.join(map(re.escape, names)) or '$^'})\b")
    spoken: set[str] = set()
    for folder in (*SHIPPED, "ui/src"):
        for path in Path(folder).rglob("*"):
            if path.suffix == ".py":
                spoken.update(quoted.findall(path.read_text()))
            elif path.suffix in (".jinja", ".tsx", ".ts"):
                spoken.update(words.findall(path.read_text()))
    return spoken


if __name__ == "__main__":
    sys.exit(main())
