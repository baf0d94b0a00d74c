from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tuner_server.core.laws.lr_sensitivity import (
    loss_off_by,
    lost_share,
    lr_sensitivity,
    relative_lr_sensitivity,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "data" / "methods" / "stability.json").read_text("utf-8")
)["lr_sensitivity"]


def test_the_sensitivity_is_that_of_the_vectors() -> None:
    losses = [math.inf if loss is None else loss for loss in VECTORS["losses"]]
    found = lr_sensitivity(losses, VECTORS["loss_at_init"])
    assert found == pytest.approx(VECTORS["sensitivity"], abs=1e-9)
    gain = VECTORS["loss_at_init"] - min(losses)
    assert relative_lr_sensitivity(losses, VECTORS["loss_at_init"]) == pytest.approx(found / gain)
    flat = VECTORS["flat"]
    assert lr_sensitivity(flat["losses"], VECTORS["loss_at_init"]) == flat["sensitivity"]


def test_a_run_that_diverged_counts_as_one_that_learnt_nothing_however_it_diverged() -> None:
    found = {lr_sensitivity([1.0, bad], 3.0) for bad in (math.nan, math.inf, -math.inf, 3.0, 1e9)}
    assert found == {1.0}


def test_the_sensitivity_moves_with_no_shift_and_its_part_of_the_gain_with_no_unit() -> None:
    losses = [2.0, 1.0, 1.5, math.inf]
    shifted = [10 * loss - 7 for loss in losses]
    assert lr_sensitivity(shifted, 10 * 4.0 - 7) == pytest.approx(10 * lr_sensitivity(losses, 4.0))
    assert relative_lr_sensitivity(shifted, 10 * 4.0 - 7) == pytest.approx(relative_lr_sensitivity(losses, 4.0))


def test_where_nothing_was_learnt_there_is_no_part_of_it() -> None:
    assert lr_sensitivity([math.inf, 5.0], 4.0) == 0
    assert relative_lr_sensitivity([math.inf, 5.0], 4.0) is None
    with pytest.raises(ValueError, match="losses: there is none"):
        lr_sensitivity([], 1.0)


@pytest.mark.parametrize(
    ("loss", "share"), [(1.0, 0.0), (0.9, 0.0), (2.0, 0.5), (3.0, 1.0), (9.0, 1.0), (math.nan, 1.0)]
)
def test_what_another_run_lacks_is_between_nothing_and_all(loss: float, share: float) -> None:
    assert lost_share(loss, best=1.0, initial_loss=3.0) == share


def test_between_known_lrs_the_loss_lies_on_a_line_in_log_lr_and_beyond_them_nothing_is_known() -> None:
    lrs, losses = [0.01, 0.1, 1.0], [2.0, 1.0, math.inf]
    assert loss_off_by(lrs, losses, 0.1, 1 / math.sqrt(10), 3.0) == pytest.approx(1.5)
    assert loss_off_by(lrs, losses, 0.1, math.sqrt(10), 3.0) == pytest.approx(2.0), "a divergence counts as the start"
    assert loss_off_by([0.1, 0.3], [1.0, 2.0], 0.1, 3, 3.0) == pytest.approx(2.0), "0.1 times 3 is above 0.3"
    assert loss_off_by(lrs, losses, 0.1, 11, 3.0) is None
    assert loss_off_by(lrs, losses, 0.1, 1 / 11, 3.0) is None
    assert loss_off_by([], [], 0.1, 3, 3.0) is None
