"""Commands that the documentation shows are there, with their options."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tests.support.repository import doc_pages
from tuner_server.cli.app import app

SHELL = ("", "sh", "bash", "console")
SEPARATORS = {"&&", "||", "|", ";", "&", ">", "2>", "2>&1", "<"}
PAGES = {doc_pages.name_of(page): page for page in doc_pages.pages()}


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page's blocks, in words, without variables before them."""
    for block in doc_pages.fenced(page):
        if block.language not in SHELL:
            continue
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue  # a drawing, or a sentence
            yield from _split(words)


def _split(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word in SEPARATORS or word.endswith(";"):
            while command and re.match(r"[A-Z_]+=", command[0]):
                command = command[1:]
            if command:
                yield command
            command = []
        else:
            command.append(word)


def found(command: list[str]) -> tuple[Any, list[str]]:
    """A command of `lrpilot`, and the words after its name."""
    at: Any = get_command(app)
    rest = command[1:]
    while rest and rest[0] in getattr(at, "commands", {}):
        at, rest = at.commands[rest[0]], rest[1:]
    return at, rest


@pytest.mark.parametrize(
    "name", [name for name, page in PAGES.items() if any(c[0] == "lrpilot" for c in commands(page))]
)
def test_the_commands_of_a_page_are_there(name: str) -> None:
    for command in commands(PAGES[name]):
        if command[0] != "lrpilot" or "..." in command:
            continue
        at, rest = found(command)
        assert getattr(at, "invoke_without_command", True) or rest[:1] in (["--version"], ["--help"]), command
        options = {option for parameter in at.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert used <= {*options, "--version", "--help"}, command


def test_the_programs_and_targets_of_all_pages_are_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (doc_pages.ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, page in PAGES.items():
        for command in commands(page):
            match command:
                case ["make", target, *_]:
                    assert target in targets, name
                case ["python", "-m", module, *_] if module.startswith(("benchmarks", "tests")):
                    assert importlib.util.find_spec(module), (name, module)
                case ["python", path, *_] if path.startswith("examples/"):
                    assert (doc_pages.ROOT / path).is_file(), (name, path)
