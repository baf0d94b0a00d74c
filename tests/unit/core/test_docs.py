"""The page on policies says what the code has: every option, with its default."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

from tuner_server.core.policies import POLICIES
from tuner_server.core.policies.budget import LARGEST_SEARCH_SHARE, MAX_PROBE, MIN_PROBE, PROBE_SHARE

PAGE = (pathlib.Path(__file__).parents[3] / "docs" / "policies.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", re.MULTILINE)


@pytest.mark.parametrize("name", POLICIES)
def test_every_option_is_on_the_page_with_its_default_and_a_meaning(name: str) -> None:
    (section,) = re.findall(rf"^## `{name}`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = {option: ast.literal_eval(default) for option, default, _ in ROW.findall(section)}
    fields = POLICIES[name].options_type.model_fields
    assert rows == {option: field.default for option, field in fields.items()}


def test_the_constants_of_budget_that_the_page_names_are_those_of_the_code() -> None:
    assert f"{PROBE_SHARE:.2%} of `total_steps`, but {MIN_PROBE} to {MAX_PROBE}" in PAGE
    assert f"never takes more than {LARGEST_SEARCH_SHARE:.0%} of `total_steps`" in PAGE
