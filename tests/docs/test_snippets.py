"""The pages on training loops: every Python block is run, in order, as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.repository import doc_pages
from tests.support.servers.server_process import ServerProcess

QUICK = ["pytorch", "checkpoints", "outages", "replay", "loggers", "unfreezing", "continuing", "state", "mistakes"]
PLANS = ["changing-plans"]
LONG = ["updates", "data", "distributed", "open-ended"]
"""Many runs of what tests of loops, loaders, ranks and runs without an end do in short."""
IN_PROCESS = [*QUICK, *PLANS, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]
"""Pages that need no framework of their own, and no second process; the others are run beside their adapters' tests."""


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_page_runs(name: str, shared_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRPILOT_SERVER", shared_server.target)
    monkeypatch.chdir(tmp_path)
    assert doc_pages.blocks(name)
    doc_pages.run(name)


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+)\.md\)", (doc_pages.TRAINING_LOOPS / "README.md").read_text()))
    assert linked == {page.stem for page in doc_pages.TRAINING_LOOPS.glob("*.md")} - {"README"}
