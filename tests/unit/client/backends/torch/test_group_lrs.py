"""All parameter groups move with the first, each at its own ratio."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from lrpilot.backends.torch.group_lrs import GroupLrs
from lrpilot.errors import ConfigError


@dataclasses.dataclass
class Grouped:
    param_groups: list[dict[str, Any]]


def groups(*lrs: Any) -> list[dict[str, Any]]:
    return [{"lr": lr} for lr in lrs]


def group_lrs_of(param_groups: list[dict[str, Any]]) -> GroupLrs:
    return GroupLrs([Grouped(param_groups)])


def test_loading_an_optimizer_s_state_replaces_its_groups_and_changes_nothing() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    group_lrs = GroupLrs([optimizer])
    optimizer.load_state_dict(optimizer.state_dict())
    group_lrs.set(0.4)
    assert optimizer.param_groups[0]["lr"] == 0.4


def sgd(*lrs: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [parameter()], "lr": lr} for lr in lrs], lr=0.1)


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(2))


def test_a_group_that_is_added_later_keeps_its_ratio_to_the_present_lr() -> None:
    first, second = sgd(0.1, 0.2), sgd(1.0)
    group_lrs = GroupLrs([first, second])
    group_lrs.set(0.5)
    first.add_param_group({"params": [parameter()], "lr": 0.05})
    for lr in (0.5, 0.2, 0.0, 0.1):
        group_lrs.set(lr)
        assert group_lrs.get() == pytest.approx([lr, 2 * lr, 0.1 * lr, 10 * lr])


def test_a_group_that_is_added_without_an_lr_has_the_optimizer_s_own_as_base() -> None:
    optimizer = sgd(0.1, 0.2)
    group_lrs = GroupLrs([optimizer])
    group_lrs.set(0.7)
    optimizer.add_param_group({"params": [parameter()]})
    group_lrs.set(0.3)
    assert group_lrs.get() == pytest.approx([0.3, 0.6, 0.3])


def test_a_group_that_is_gone_again_is_forgotten() -> None:
    optimizer = sgd(0.1)
    group_lrs = GroupLrs([optimizer])
    for ratio in (0.5, 2.0):
        optimizer.add_param_group({"params": [parameter()], "lr": 0.1 * ratio * 1.01})
        group_lrs.set(0.1)
        assert group_lrs.get()[1] == pytest.approx(0.1 * ratio * 1.01)
        del optimizer.param_groups[1]
        group_lrs.set(0.1)


def test_ratios_of_added_groups_are_in_a_checkpoint() -> None:
    optimizer = sgd(0.1)
    group_lrs = GroupLrs([optimizer])
    group_lrs.set(0.4)
    optimizer.add_param_group({"params": [parameter()], "lr": 0.04})
    group_lrs.set(0.4)

    fresh = sgd(0.1, 0.3)
    resumed = GroupLrs([fresh])
    resumed.load_state_dict(group_lrs.state_dict())
    resumed.set(1.0)
    assert resumed.get() == pytest.approx([1.0, 0.1])


def test_an_optimizer_that_was_loaded_before_keeps_the_base_of_the_checkpoint() -> None:
    """Its LR is where the run was; a group without an LR of its own is added at the one that was set."""
    optimizer = sgd(0.1)
    group_lrs = GroupLrs([optimizer])
    group_lrs.set(0.7)

    fresh = sgd(0.1)
    fresh.load_state_dict(optimizer.state_dict())
    resumed = GroupLrs([fresh])
    resumed.load_state_dict(group_lrs.state_dict())
    assert resumed.base_lrs == [0.1]
    fresh.add_param_group({"params": [parameter()]})
    resumed.set(0.4)
    assert resumed.get() == [0.4, 0.4]
    assert GroupLrs([fresh]).base_lrs == [0.1, 0.1]


def test_a_second_run_with_one_optimizer_starts_from_the_lr_that_was_set() -> None:
    optimizer = sgd(0.1, 0.02)
    for _ in range(3):
        group_lrs = GroupLrs([optimizer])
        assert group_lrs.base_lrs == [0.1, 0.02]
        group_lrs.set(0.0)


def test_an_lr_that_was_set_by_hand_between_two_runs_is_the_new_base() -> None:
    optimizer = sgd(0.1, 0.02)
    GroupLrs([optimizer]).set(1e-9)
    optimizer.param_groups[0]["lr"] = 0.05
    optimizer.param_groups[1]["lr"] = 0.05
    for _ in range(2):
        group_lrs = GroupLrs([optimizer])
        assert group_lrs.base_lrs == [0.05, 0.05]
        group_lrs.set(1e-9)


def test_an_lr_that_a_scheduler_or_a_checkpoint_has_moved_is_said(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = sgd(0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.001)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert GroupLrs([optimizer]).base_lrs == [0.1]
    assert "0.0001, since a schedule has moved it; the tuner starts from 0.1" in caplog.text


@pytest.mark.parametrize("decayed", [(1e-9, 2e-10), (0.0, 0.0)])
def test_an_optimizer_that_was_loaded_with_a_decayed_lr_starts_from_the_one_it_was_made_with(
    decayed: tuple[float, float], caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = sgd(*decayed)
    expected = [0.1, 0.02] if any(decayed) else [0.1, 0.1]
    assert GroupLrs([optimizer]).base_lrs == pytest.approx(expected)
    assert "the tuner starts from 0.1" in caplog.text


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_groups_with_small_lrs_of_their_own_are_what_the_user_set(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Far below the class's default, which nobody meant."""
    optimizer = kind([{"params": [parameter()], "lr": 5e-6}, {"params": [parameter()], "lr": 1e-6}])
    assert GroupLrs([optimizer]).base_lrs == [5e-6, 1e-6]
    assert not caplog.text


def test_the_lr_that_a_scheduler_began_with_is_believed_however_small() -> None:
    optimizer = sgd(1e-8)
    optimizer.param_groups[0]["initial_lr"] = 1e-6
    assert GroupLrs([optimizer]).base_lrs == [1e-6]


def test_layers_with_falling_lrs_are_what_the_user_set(caplog: pytest.LogCaptureFixture) -> None:
    lrs = [0.1 * 0.5**i for i in range(20, -1, -1)]
    assert GroupLrs([sgd(*lrs)]).base_lrs == lrs
    assert not caplog.text


def test_nothing_is_written_into_the_groups_but_the_lr() -> None:
    optimizer = sgd(0.1)
    before = optimizer.param_groups[0].keys() | set()
    GroupLrs([optimizer]).set(0.3)
    assert optimizer.param_groups[0].keys() == before


@pytest.mark.parametrize(("group", "named"), [({}, "missing"), ({"lr": None}, "None")])
def test_an_optimizer_without_an_lr_is_refused(group: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"optimizer: its parameter group 1 has no LR to tune .*{named}"):
        group_lrs_of([{"lr": 0.1}, group])


def test_ratios_are_kept_and_a_frozen_group_stays_frozen() -> None:
    param_groups = groups(0.1, 0.01, 0.3, 0.0)
    group_lrs = group_lrs_of(param_groups)
    group_lrs.set(1.0)
    assert [group["lr"] for group in param_groups] == pytest.approx([1.0, 0.1, 3.0, 0.0])
    assert group_lrs.get() == [group["lr"] for group in param_groups]
    assert group_lrs.base_lrs == [0.1, 0.01, 0.3, 0.0]


@hypothesis.given(
    base=st.floats(1e-6, 10.0),
    other=st.floats(1e-6, 10.0),
    lrs=st.lists(st.floats(1e-8, 10.0), min_size=1, max_size=20),
)
def test_the_first_group_has_the_very_lr_and_ratios_do_not_drift(base: float, other: float, lrs: list[float]) -> None:
    group_lrs = group_lrs_of(groups(base, other))
    for lr in lrs:
        group_lrs.set(lr)
        assert group_lrs.get()[0] == lr
    group_lrs.set(base)
    assert group_lrs.get() == [base, base * (other / base)]


def test_zero_may_be_set_and_left_again() -> None:
    group_lrs = group_lrs_of(groups(0.1, 0.2))
    group_lrs.set(0.0)
    assert group_lrs.get() == [0.0, 0.0]
    group_lrs.set(0.1)
    assert group_lrs.get() == [0.1, 0.2]


def test_a_tensor_lr_is_changed_in_place() -> None:
    tensor = torch.tensor(0.1, dtype=torch.float64)
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))]
    optimizer = torch.optim.AdamW(
        [{"params": parameters[:1], "lr": tensor}, {"params": parameters[1:], "lr": 0.05}], capturable=False
    )
    GroupLrs([optimizer]).set(0.4)
    assert optimizer.param_groups[0]["lr"] is tensor
    assert tensor.item() == 0.4
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.2)


def test_a_whole_number_is_an_lr_too() -> None:
    param_groups = groups(1, 2)
    group_lrs_of(param_groups).set(0.5)
    assert [group["lr"] for group in param_groups] == [0.5, 1.0]


@pytest.mark.parametrize("lr", [0.0, -0.1, math.nan, math.inf])
def test_a_first_lr_that_the_others_can_not_follow_is_refused(lr: float) -> None:
    with pytest.raises(ConfigError, match="first group"):
        group_lrs_of(groups(lr, 0.1))


def test_no_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter group"):
        group_lrs_of([])
