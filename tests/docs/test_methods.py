"""The pages on published methods: every Python block is run, in order, as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.repository import doc_pages
from tests.support.servers.server_process import ServerProcess

METHODS = doc_pages.ROOT / "docs" / "methods"


@pytest.mark.parametrize("name", ["schedules", "batch-size"])
def test_a_page_runs(name: str, shared_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRPILOT_SERVER", shared_server.target)
    monkeypatch.chdir(tmp_path)
    doc_pages.run_page(METHODS / f"{name}.md")
