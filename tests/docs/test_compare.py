"""The page that compares systems: its code runs as it stands."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.support.repository import doc_pages
from tests.support.servers.server_process import ServerProcess


def test_every_word_that_the_page_changes_trains(
    shared_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRPILOT_SERVER", shared_server.target)
    monkeypatch.chdir(tmp_path)
    losses = doc_pages.run_page(doc_pages.ROOT / "docs" / "compare.md")["losses"]
    assert len(losses) == 5
    assert all(math.isfinite(loss) for loss in losses.values())
