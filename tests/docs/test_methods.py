"""The pages on published methods: every Python block is run, in order, as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.repository import doc_pages
from tests.support.servers.server_process import ServerProcess

PAGES = sorted(page.stem for page in doc_pages.METHODS.glob("*.md") if page.stem != "README")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs(name: str, shared_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRPILOT_SERVER", shared_server.target)
    monkeypatch.chdir(tmp_path)
    doc_pages.run_page(doc_pages.METHODS / f"{name}.md")


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+)\.md\)", (doc_pages.METHODS / "README.md").read_text()))
    assert linked == set(PAGES)
