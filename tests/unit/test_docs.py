"""What README and docs say can be done: links lead somewhere, blocks load as configs, commands and options are there."""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from flywheel.cli.main import app
from flywheel.config.loading import validate_config

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [*PROJECT.glob("*.md"), *sorted(PROJECT.glob("docs/*.md")), PROJECT / "examples/README.md"]
# What a block of a config stands beside: students that docs/kubernetes.md and docs/serving.md name.
BESIDE: dict[str, Any] = {
    "artifacts": {"root": "s3://bucket"},
    "nims": [{"model_name": "acme/8b", "name": "8b"}, {"model_name": "meta/1b", "name": "meta-llama-3.2-1b"}],
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def blocks(*languages: str) -> list[Any]:
    """Return the blocks of these languages, each with its page and line as its name."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in FENCE.finditer(text):
            if block[1] in languages:
                line = text.count("\n", 0, block.start()) + 1
                found.append(pytest.param(block[2], id=f"{name_of(page)}:{line}"))
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_block_of_yaml_is_a_config(text: str) -> None:
    given = yaml.safe_load(re.sub(r"\b[0-9a-f]{4}…", "a" * 64, text))
    given.pop("extends", None)
    validate_config({**BESIDE, **given}, "the block")


@pytest.mark.parametrize("text", blocks("json"))
def test_a_block_of_json_is_json(text: str) -> None:
    json.loads(text.replace("[...]", "[]"))


@pytest.mark.parametrize("text", blocks("python"))
def test_a_block_of_python_compiles_and_imports_what_is_there(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Return the arguments of each call of a program in lines of a shell."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||[;|]", re.sub(r"(^|\s)#.*", "", line)):
            try:
                words = shlex.split(part.replace("[", "").replace("]", ""))
            except ValueError:  # a text in quotes of several lines
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*|export|env", words[0]):
                words.pop(0)
            if words and words[0].removeprefix("./") == program:
                yield words[1:]


def spoken(program: str, *, inline: bool = True) -> list[Any]:
    """Return each call of a program in shell blocks and in the lines of a page, with its page as its name."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = page.read_text()
        shell = [block[2] for block in FENCE.finditer(text) if block[1] in ("", "sh", "bash")]
        lines = re.findall(r"`([^`\n]+)`", FENCE.sub("", text)) if inline and page.name != "LOG.md" else []
        for part in (*shell, *lines):
            for words in commands(part, program):
                found.setdefault(shlex.join(words), name_of(page))
    return [pytest.param(shlex.split(words), id=f"{page}: {words}") for words, page in found.items()]


@pytest.mark.parametrize("words", spoken("flywheel"))
def test_a_command_and_its_options_are_there(words: list[str]) -> None:
    command: Any = get_command(app)
    for word in words:
        if word.startswith("-"):
            names = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
            assert word.split("=")[0] in {*names, "--help"}, word
        elif hasattr(command, "commands") and word != "...":
            assert word in command.commands, word
            command = command.commands[word]


@pytest.mark.parametrize("words", spoken("make"))
def test_a_target_of_make_is_there(words: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if "=" not in word and word.islower()} <= targets


@pytest.mark.parametrize("words", spoken("airflow", inline=False))
def test_a_command_of_airflow_and_its_options_are_there(words: list[str]) -> None:
    from airflow.cli.cli_parser import get_parser

    get_parser().parse_args(words)
