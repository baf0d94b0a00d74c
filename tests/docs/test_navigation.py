"""A page is called in the navigation as it calls itself, or by the beginning of that; and it begins with its title."""

from __future__ import annotations

import re

import pytest

from tests.support.repository.doc_pages import ROOT

NAVIGATION = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
ENTRIES = re.findall(r'^ +- (?:"?([^"\n]*?)"?: )?(\S+\.md)$', NAVIGATION, re.MULTILINE)


@pytest.mark.parametrize(("name", "page"), ENTRIES, ids=[page for _, page in ENTRIES])
def test_a_page_has_one_title(name: str, page: str) -> None:
    first = (ROOT / "docs" / page).read_text("utf-8").partition("\n")[0]
    assert first.startswith("# ")
    title = first.removeprefix("# ").replace("`", "")
    assert title.removeprefix("The ").lower().startswith(name.removeprefix("The ").lower())


def test_every_page_is_in_the_navigation_once() -> None:
    pages = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    assert sorted(page for _, page in ENTRIES) == pages
