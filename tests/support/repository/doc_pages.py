"""Pages of the documentation, and the Python that is on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
TRAINING_LOOPS = ROOT / "docs" / "training-loops"
METHODS = ROOT / "docs" / "methods"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> list[str]:
    """The Python blocks of a page on training loops, each at the line of the page where it stands."""
    return _blocks(TRAINING_LOOPS / f"{name}.md")


def _blocks(page: Path) -> list[str]:
    text = page.read_text()
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in _BLOCK.finditer(text)]


def run(name: str) -> dict[str, Any]:
    """Runs them, in order, as they stand; what they leave behind, by name."""
    return run_page(TRAINING_LOOPS / f"{name}.md")


def run_page(page: Path) -> dict[str, Any]:
    """Runs the blocks of any page like this."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in _blocks(page):
        exec(compile(block, page, "exec"), namespace)
    return namespace


def first_shows(name: str, example: str) -> bool:
    """Whether the first block is the code of an example, without its docstring and the import of annotations."""
    return blocks(name)[0].lstrip("\n") == _code(example)


def shows_all(page: Path, example: str) -> bool:
    """Whether the blocks of a page are all the code of an example, in its order; blank lines don't count."""
    return _lines("\n".join(_blocks(page))) == _lines(_code(example))


def _code(example: str) -> str:
    _, code = (ROOT / "examples" / f"{example}.py").read_text().split("from __future__ import annotations\n\n")
    return code


def _lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line]


def all_from(name: str, example: str) -> bool:
    """Whether the page has blocks, and each of them is part of an example."""
    code = (ROOT / "examples" / f"{example}.py").read_text()
    found = blocks(name)
    return len(found) > 1 and all(block.lstrip("\n") in code for block in found)
