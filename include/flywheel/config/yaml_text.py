"""Read YAML that a person wrote, or somebody else: with lines, within bounds, and as data alone.

An alias stands for all that its anchor holds: nine lines of aliases of aliases are a thousand million values.
What a file holds is counted with its aliases before anything walks through it. No tag makes an object.

What is wrong is said in one form, whatever the file: the place, what was expected, what is there.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from flywheel.common.errors import FlywheelError

MAX_BYTES = 2_000_000
# Values of a file, each counted as often as aliases repeat it; and their depth.
MAX_VALUES, MAX_LEVELS = 200_000, 50

Location = tuple[str | int, ...]
# File and line of each key and item, by its location.
Lines = dict[tuple[str, ...], str]


class BadYamlError(ValueError):
    """The file cannot be read: the message names it, the line where there is one, and what is wrong."""


def read_with_lines(path: str | os.PathLike[str], error: type[FlywheelError], lost: str) -> tuple[Any, Lines]:
    """Return a file's data, and where in it each key and item is.

    Args:
        error: what is raised for a file that cannot be read (see `read_yaml`), or has a key twice.
        lost: what to do where there is no such file.
    """
    lines: Lines = {(): f"{path}, line 1"}
    try:
        data, node = read_yaml(path)
        if node is not None:
            _collect(Path(path), node, (), lines)
    except FileNotFoundError:
        raise error(f"{path}: no such file; {lost}") from None
    except BadYamlError as bad:
        raise error(str(bad)) from None
    return data, lines


def place(lines: Lines, at: Location, origin: str = "") -> str:
    """Return file, line and dotted key of a location, for the beginning of a message.

    Args:
        origin: what stands there instead of file and line where there are no lines.
    """
    known = tuple(str(part) for part in at)
    key = ".".join(known)
    while known and known not in lines:  # a missing key has no line of its own: its section has
        known = known[:-1]
    where = lines.get(known, origin)
    return f"{where}: {key}" if key else where


def no_such_key(where: str, key: object, keys: Iterable[str]) -> str:
    """Return what is said of a key that is none of these, at its place."""
    near = difflib.get_close_matches(str(key), keys := list(keys), n=1, cutoff=0.5)
    hint = f"the nearest valid key is {near[0]!r}" if near else f"valid keys are {', '.join(keys)}"
    return f"{where}: no such key; {hint}"


def missing(where: str) -> str:
    """Return what is said of a key that is not there."""
    return f"{where}: missing, and required"


def shorten(value: object) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def read_yaml(path: str | os.PathLike[str]) -> tuple[Any, yaml.Node | None]:
    """Return a file's data, and its nodes, which know their lines.

    Raises:
        FileNotFoundError: there is no such file.
        BadYamlError: it is not UTF-8 text, not YAML, or more than `MAX_BYTES` or `MAX_VALUES`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise BadYamlError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    if len(data) > MAX_BYTES:
        raise BadYamlError(f"{path}: more than {MAX_BYTES:,} bytes")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _check(path, node)
        return loader.construct_document(node), node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        hint = "; a text with ': ' or that starts with '{' needs quotes" if "mapping" in str(error) else ""
        raise BadYamlError(f"{path}, line {line}: not valid YAML: {error.problem}{hint}") from None
    except RecursionError:
        raise BadYamlError(f"{path}: not valid YAML: nested too deeply") from None
    except BadYamlError:
        raise
    # Of tags on what they do not fit (`!!bool x`, `!!timestamp x`), and numbers and days that are none.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise BadYamlError(f"{path}: not valid YAML: {error}") from None


def _check(path: Path, root: yaml.Node) -> None:
    """Refuse what is too large with its aliases, holds itself, or is no text that can be kept."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node, level: int) -> int:
        key = id(node)
        where = f"{path}, line {node.start_mark.line + 1}"
        if key in above:
            raise BadYamlError(f"{where}: an anchor that holds itself")
        if key not in sizes:
            if level > MAX_LEVELS:
                raise BadYamlError(f"{where}: nested too deeply: more than {MAX_LEVELS} levels")
            above.add(key)
            if isinstance(node, yaml.ScalarNode):
                if any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in node.value):
                    raise BadYamlError(f"{where}: a text with a NUL or half of a surrogate pair")
                sizes[key] = 1
            elif isinstance(node, yaml.MappingNode):
                sizes[key] = 1 + sum(size(one, level + 1) for pair in node.value for one in pair)
            else:
                sizes[key] = 1 + sum(size(one, level + 1) for one in node.value)
            above.discard(key)
        if sizes[key] > MAX_VALUES:
            raise BadYamlError(f"{where}: more than {MAX_VALUES:,} values, with what its aliases stand for")
        return sizes[key]

    size(root, 0)


def _collect(path: Path, node: yaml.Node, at: tuple[str, ...], lines: Lines) -> None:
    """Note where everything is; refuse a key that is there twice, of which YAML would take the last."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner, where = (*at, str(key.value)), f"{path}, line {key.start_mark.line + 1}"
            if inner in lines:
                first = lines[inner].rpartition(" ")[2]
                raise BadYamlError(f"{where}: key {key.value!r} is there already in line {first}")
            lines[inner] = where
            _collect(path, value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*at, str(index)] = f"{path}, line {value.start_mark.line + 1}"
            _collect(path, value, (*at, str(index)), lines)
