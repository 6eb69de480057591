"""docs/architecture.md is what the code is: its picture, its table of rooms, and where a walk leads."""

import ast
import re
from pathlib import Path

import pytest

from scripts import rooms

PAGE = rooms.PAGE.read_text()
PLACES = sorted(set(re.findall(r"`(flywheel(?:\.\w+)+):([\w.]+)`", PAGE)))


def test_the_picture_and_the_table_of_rooms_are_made_from_the_code_of_now() -> None:
    names, stale = rooms.rooms(), "python scripts/rooms.py"
    assert rooms.PICTURE.read_text() == rooms.picture(names, rooms.imports()), stale
    assert rooms.page(PAGE, names) == PAGE, stale


@pytest.mark.parametrize(("module", "name"), PLACES, ids=lambda value: str(value))
def test_a_place_that_the_page_names_is_there(module: str, name: str) -> None:
    path = Path(rooms.PROJECT, "include", *module.split("."))
    path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in name.split("."):
        (found,) = [node for node in body if part in names_of(node)]
        body = found.body if isinstance(found, ast.ClassDef) else []


def names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_a_room_stands_below_all_that_it_imports_and_lines_that_others_say_are_left_out() -> None:
    names, edges = ["a", "b", "c", "d"], {("b", "a"), ("c", "b"), ("c", "a"), ("d", "a"), ("a", "d")}
    assert rooms.levels(names, edges) == {"a": 0, "b": 1, "c": 2, "d": 1}
    assert rooms.told(names, edges) == {("b", "a"), ("c", "b"), ("d", "a")}
    assert rooms.picture(names, edges).count("#c33") == 1  # the one that climbs


def test_each_walk_enters_a_room_once_and_never_goes_back() -> None:
    for walk in PAGE.split("## The walk of ")[1:]:
        entered = re.findall(r"^\| \d+ \| `?([\w/]+)`? \|", walk.split("\n## ")[0], re.MULTILINE)
        ways = [room for before, room in zip(["", *entered], entered, strict=False) if room != before]
        assert len(ways) == len(set(ways)) >= 4


def test_a_name_stands_for_one_class() -> None:
    """But for the blueprint's name in the API, and what a module keeps to itself."""
    include = Path(__file__).parents[2] / "include"
    places: dict[str, list[str]] = {}
    for path in sorted(include.rglob("*.py")):
        for name in re.findall(r"^class ([A-Za-z]\w+)", path.read_text(), flags=re.MULTILINE):
            places.setdefault(name, []).append(str(path.relative_to(include)))
    several = {name: where for name, where in places.items() if len(where) > 1}
    assert set(several) == {"DataSplitConfig"}, several
