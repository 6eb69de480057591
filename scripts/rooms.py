"""The picture and the table of the rooms in docs/architecture.md, made from the code.

python scripts/rooms.py    writes docs/images/rooms.svg and the table between the page's marks
A test compares both with what is committed.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PICTURE = PROJECT / "docs/images/rooms.svg"
PAGE = PROJECT / "docs/architecture.md"
BEGIN, END = "<!-- rooms: made by scripts/rooms.py -->\n", "<!-- end of rooms -->\n"

# In the order in which data walks through them: a room imports those above it.
ORDER = (
    *("common", "config", "workloads", "artifacts", "runs", "sources", "stores", "teacher", "curation"),
    *("jobs", "students", "evaluation", "report", "promotion", "serving", "annotation", "stages"),
    *("runtimes", "demo", "forgetting", "orchestration", "web", "laptop", "cli"),
)

Edges = set[tuple[str, str]]

WIDTH, BOX, HEIGHT, LEVEL = 900, 108, 34, 74


def rooms() -> list[str]:
    """Return the rooms there are, in their order; one that has no place in it comes last."""
    there = {path.parent.name for path in (PROJECT / "include/flywheel").glob("*/__init__.py")}
    return [name for name in ORDER if name in there] + sorted(there - set(ORDER))


def imports() -> Edges:
    """Return which room imports which, wherever in a module that is said."""
    found: Edges = set()
    for path in (PROJECT / "include/flywheel").rglob("*.py"):
        room = path.relative_to(PROJECT / "include/flywheel").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                package, _, rest = name.partition(".")
                other = rest.split(".")[0]
                if package == "flywheel" and other and other != room:
                    found.add((room, other))
    known = set(rooms())
    return {(a, b) for a, b in found if a in known and b in known}


def table(names: list[str]) -> str:
    """Return the rooms with what each is for: the first sentence of its package."""
    lines = ["| room | what it does |", "|---|---|"]
    for name in names:
        tree = ast.parse((PROJECT / "include/flywheel" / name / "__init__.py").read_text())
        sentence = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split()).rstrip(".")
        lines.append(f"| [{name}/](../include/flywheel/{name}) | {sentence.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def levels(names: list[str], edges: Edges) -> dict[str, int]:
    """Return how deep each room stands: one below the deepest of those it imports."""
    place = {name: number for number, name in enumerate(names)}
    depth: dict[str, int] = {}
    for name in names:  # those above it are done
        above = [depth[other] for room, other in edges if room == name and place[other] < place[name]]
        depth[name] = max(above, default=-1) + 1
    return depth


def told(names: list[str], edges: Edges) -> Edges:
    """Return the imports that the others do not already say: of A over B to C the import of C by A goes."""
    place = {name: number for number, name in enumerate(names)}
    down = {(room, other) for room, other in edges if place[other] < place[room]}
    reach: dict[str, set[str]] = {}
    for name in names:
        direct = {other for room, other in down if room == name}
        reach[name] = direct.union(*(reach[other] for other in direct))
    return {
        (room, other)
        for room, other in down
        if not any(other in reach[via] for start, via in down if start == room and via != other)
    }


def picture(names: list[str], edges: Edges) -> str:
    """Return the rooms as boxes, each below those that it imports, as SVG."""
    depth = levels(names, edges)
    rows: dict[int, list[str]] = {}
    for name in names:
        rows.setdefault(depth[name], []).append(name)
    at = {
        name: ((WIDTH * (2 * number + 1)) // (2 * len(row)), 30 + LEVEL * level)
        for level, row in rows.items()
        for number, name in enumerate(row)
    }
    height = 60 + LEVEL * max(rows)
    place = {name: number for number, name in enumerate(names)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="13" text-anchor="middle">',
        "<title>The rooms of flywheel: each stands below those that it imports</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    climbing = {(room, other) for room, other in edges if place[other] > place[room]}
    for room, other in sorted(told(names, edges) | climbing):
        (x1, y1), (x2, y2) = at[room], at[other]
        wrong = (room, other) in climbing
        lines.append(
            f'<path d="M{x1} {y1 - HEIGHT // 2} C{x1} {y1 - LEVEL // 2} {x2} {y2 + LEVEL // 2} '
            f'{x2} {y2 + HEIGHT // 2}" fill="none" stroke="{"#c33" if wrong else "#99a"}"/>'
        )
    for name in names:
        x, y = at[name]
        lines.append(
            f'<rect x="{x - BOX // 2}" y="{y - HEIGHT // 2}" width="{BOX}" height="{HEIGHT}" rx="6" '
            f'fill="#eef3ea" stroke="#486"/><text x="{x}" y="{y + 5}">{escape(name)}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def page(text: str, names: list[str]) -> str:
    """Return the page with its table made anew."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return before + BEGIN + table(names) + END + after


def main() -> int:
    """Write both."""
    names = rooms()
    PICTURE.write_text(picture(names, imports()))
    PAGE.write_text(page(PAGE.read_text(), names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
