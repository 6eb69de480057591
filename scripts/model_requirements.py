"""The pinned requirements of a champion in MLflow's registry, of the locks: scripts/lock.sh runs it.

python scripts/model_requirements.py    writes include/flywheel/promotion/model_requirements.txt
A test compares it with the locks.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
TARGET = PROJECT / "include/flywheel/promotion/model_requirements.txt"


def pins(lock: str, name: str) -> list[str]:
    """Return the lines of a lock that pin a package, with their markers."""
    found = re.findall(rf"^{re.escape(name)}==[^\\\n]+", (PROJECT / lock).read_text(), re.MULTILINE)
    return [line.strip() for line in found]


def requirements() -> str:
    """Return MLflow and what the package and its extra `students` name, at the versions of the locks."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["students"]]
    names = sorted({re.match(r"[\w.-]+", one)[0].lower() for one in named})  # type: ignore[index]
    lines = pins("requirements.txt", "mlflow")
    for name in names:
        lines += pins("requirements-students.txt", name)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(requirements())
