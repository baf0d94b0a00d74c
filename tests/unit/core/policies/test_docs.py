"""The page on policies says what the code has: every option, with its default."""

from __future__ import annotations

import ast
import math
import pathlib
import re

import pytest
from lrpilot.schedules.shape import Shape

from tuner_server.core.evidence.promise import LAST_LOOK, STAIRS, VALIDATION_PART
from tuner_server.core.policies import POLICIES
from tuner_server.core.policies.budget import FEWEST_STEPS, LARGEST_SEARCH_SHARE
from tuner_server.core.search.users_lr import toward_users
from tuner_server.core.stages.decayed_probe import LARGEST_PROBE_SHARE, MAX_PROBE, MIN_PROBE, PROBE_SHARE
from tuner_server.core.stages.final_decay import PROMISES

PAGE = (pathlib.Path(__file__).parents[4] / "docs" / "policies.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", re.MULTILINE)


@pytest.mark.parametrize("name", POLICIES)
def test_every_option_is_on_the_page_with_its_default_and_a_meaning(name: str) -> None:
    (section,) = re.findall(rf"^## `{name}`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = {option: ast.literal_eval(default) for option, default, _ in ROW.findall(section)}
    fields = POLICIES[name].options_type.model_fields
    assert rows == {
        option: str(field.default) if isinstance(field.default, Shape) else field.default
        for option, field in fields.items()
    }


def test_the_constants_of_budget_that_the_page_names_are_those_of_the_code() -> None:
    share = f"{PROBE_SHARE:.1%} of `total_steps`, but {MIN_PROBE} to {MAX_PROBE}, and at most {LARGEST_PROBE_SHARE:.0%}"
    assert share in PAGE
    assert f"never takes more than {LARGEST_SEARCH_SHARE:.0%} of `total_steps`" in PAGE
    assert f"A run of fewer than {FEWEST_STEPS} steps has no search" in PAGE


def test_the_bars_that_the_page_names_are_those_of_the_code() -> None:
    (section,) = re.findall(r"^### When committed steps fall short\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    text = " ".join(section.split())
    assert STAIRS[0][1] == 0.5, "the page says half"
    assert (
        f"begin after {STAIRS[0][0]:.0%} of them must have a median training loss that shows half of that gain" in text
    )
    for share, part in STAIRS[1:]:
        assert f"after {share:.0%} of them {part:.0%}" in text
    assert f"what shows {VALIDATION_PART:.0%} of the gain in validation loss" in text
    assert f"in reports that begin after {STAIRS[1][0]:.0%} of the committed steps" in text
    assert f"After {LAST_LOOK:.0%} of the committed steps nothing is asked" in text
    assert f"After {('one', 'two', 'three')[PROMISES - 1]} setbacks nothing is promised" in text


@pytest.mark.parametrize(("ratio", "most", "least"), [(1.3, 0.6, 0.4), (3.0, 0.1, 0.0), (10.0, 0.001, 0.0)])
def test_an_lr_is_drawn_towards_the_user_s_as_far_as_the_page_says(ratio: float, most: float, least: float) -> None:
    part = -math.log(toward_users(ratio, 1.0) / ratio) / math.log(ratio)
    assert least <= part <= most
