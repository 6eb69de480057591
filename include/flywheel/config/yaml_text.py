"""Read YAML that a person wrote, or somebody else: with lines, within bounds, and as data alone.

An alias stands for all that its anchor holds: nine lines of aliases of aliases are a thousand million values.
What a file holds is counted with its aliases before anything walks through it. No tag makes an object.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2_000_000
# Values of a file, each counted as often as aliases repeat it; and their depth.
MAX_VALUES, MAX_LEVELS = 200_000, 50


class BadYamlError(ValueError):
    """The file cannot be read: the message names it, the line where there is one, and what is wrong."""


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
