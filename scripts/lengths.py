"""`make lint` fails on a file of more than 400 lines, and a function of more than 60 without its docstring.

A function that reads better whole says so where it begins: `def train(  # long: the reason`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

OF_A_FILE, OF_A_FUNCTION = 400, 60
SHIPPED = ("include", "dags", "plugins", "scripts")


def too_long(path: Path) -> Iterator[str]:
    """Yield what is too long in a file."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    if len(lines) > OF_A_FILE:
        yield f"{path}: {len(lines)} lines, more than {OF_A_FILE}"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first, count = node.body[0], (node.end_lineno or 0) - node.lineno + 1
        if ast.get_docstring(node, clean=False) is not None:
            count -= (first.end_lineno or 0) - first.lineno + 1
        if count > OF_A_FUNCTION and "  # long: " not in lines[node.lineno - 1]:
            yield f"{path}:{node.lineno}: {node.name} has {count} lines, more than {OF_A_FUNCTION}"


def main() -> int:
    """Print what is too long, a line each; return 1 if something is."""
    paths = sorted(path for folder in SHIPPED for path in Path(folder).rglob("*.py"))
    found = [line for path in paths for line in too_long(path)]
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
