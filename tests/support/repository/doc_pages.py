"""Pages of the documentation, and what is in their fenced blocks."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
TRAINING_LOOPS = ROOT / "docs" / "training-loops"
METHODS = ROOT / "docs" / "methods"
_FENCED = re.compile(r"^```(?P<info>[^`\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]*)"')
_NOT_RUN = "not run: "


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    """The word after the fence; empty where there is none."""
    title: str
    """What stands over it on the site; empty: nothing."""
    code: str
    """What is in it, at the lines of the page where it stands."""

    @property
    def not_run(self) -> str:
        """Why it is not run, which its title says; empty: it is."""
        return self.title.removeprefix(_NOT_RUN) if self.title.startswith(_NOT_RUN) else ""

    @property
    def text(self) -> str:
        """What is in it."""
        return self.code.lstrip("\n")


def pages() -> list[Path]:
    """All pages that people read: those of the site, and what lies beside it."""
    return [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def fenced(page: Path) -> list[Block]:
    """All blocks of a page."""
    text = page.read_text("utf-8")
    found = []
    for block in _FENCED.finditer(text):
        language, _, attributes = block["info"].strip().partition(" ")
        title = _TITLE.search(attributes)
        code = "\n" * text.count("\n", 0, block.start("code")) + block["code"]
        found.append(Block(language, title[1] if title else "", code))
    return found


def without_blocks(page: Path) -> str:
    """What is on a page besides its blocks."""
    return _FENCED.sub("", page.read_text("utf-8"))


def python_of(page: Path) -> list[str]:
    """The Python blocks of a page that are run."""
    return [block.code for block in fenced(page) if block.language == "python" and not block.not_run]


def blocks(name: str) -> list[str]:
    """The Python blocks of a page on training loops."""
    return python_of(TRAINING_LOOPS / f"{name}.md")


def run(name: str) -> dict[str, Any]:
    """Runs them, in order, as they stand; what they leave behind, by name."""
    return run_page(TRAINING_LOOPS / f"{name}.md")


def run_page(page: Path, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs the blocks of any page like this, of which some may use names that are the reader's own."""
    namespace: dict[str, Any] = {"__name__": "__main__", **(names or {})}
    for block in python_of(page):
        exec(compile(block, page, "exec"), namespace)
    return namespace


def first_shows(name: str, example: str) -> bool:
    """Whether the first block is the code of an example, without its docstring and the import of annotations."""
    return blocks(name)[0].lstrip("\n") == _code(example)


def shows_all(page: Path, example: str) -> bool:
    """Whether the blocks of a page are all the code of an example, in its order; blank lines don't count."""
    return _lines("\n".join(python_of(page))) == _lines(_code(example))


def begins_with(page: Path, example: str) -> bool:
    """Whether the blocks of a page begin with all the code of an example; blank lines and types don't count."""
    shown, code = _lines("\n".join(python_of(page))), _lines(_code(example))
    return _without_types(shown[: len(code)]) == _without_types(code)


def _without_types(lines: list[str]) -> list[str]:
    """Lines without comments for the type checker, and without what functions are said to return."""
    return [re.sub(r" -> \w+:$", ":", line.partition("  # type: ignore")[0]) for line in lines]


def _code(example: str) -> str:
    _, code = (ROOT / "examples" / f"{example}.py").read_text().split("from __future__ import annotations\n\n")
    return code


def _lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line]
