"""The pages on training loops: every Python block is run, in order, as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, running

PAGES = Path(__file__).parents[2] / "docs" / "training-loops"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_PROCESS = ["pytorch", "updates", "data", "checkpoints", "outages", "replay", "loggers", "distributed"]
"""Pages that need no framework of their own, and no second process; the others are run beside their adapters' tests."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(f"sqlite:///{tmp_path_factory.mktemp('server') / 'jobs.db'}") as process:
        yield process


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_page_runs(name: str, server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRPILOT_SERVER", server.target)
    monkeypatch.chdir(tmp_path)
    page = PAGES / f"{name}.md"
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "__main__"}
    blocks = list(BLOCK.finditer(text))
    assert blocks
    for block in blocks:
        # Line numbers of a traceback are those of the page.
        source = "\n" * text.count("\n", 0, block.start(1)) + block[1]
        exec(compile(source, page, "exec"), namespace)


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+)\.md\)", (PAGES / "README.md").read_text()))
    assert linked == {page.stem for page in PAGES.glob("*.md")} - {"README"}
