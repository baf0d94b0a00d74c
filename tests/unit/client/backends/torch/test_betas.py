"""Adam's betas and eps for another batch size, in whatever groups an optimizer has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lrpilot.backends.torch.betas import scale_betas
from lrpilot.errors import ConfigError
from torch.optim import SGD, AdamW


def adam(**options: Any) -> AdamW:
    return AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.1, **options)


def constants(optimizer: torch.optim.Optimizer) -> list[float]:
    (group,) = optimizer.param_groups
    return [*map(float, group["betas"]), float(group["eps"])]


def test_groups_that_optimizers_share_are_scaled_once() -> None:
    inner, wrapper, plain = adam(), adam(), SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    wrapper.param_groups = inner.param_groups
    scale_betas([wrapper, inner, plain], 4.0, only_check=False)
    assert constants(inner) == pytest.approx([0.6, 0.996, 5e-9])


def test_tensors_are_set_in_place() -> None:
    optimizer = adam(betas=(torch.tensor(0.9), torch.tensor(0.999)), capturable=True, foreach=False)
    held = optimizer.param_groups[0]["betas"]
    scale_betas([optimizer], 4.0, only_check=False)
    assert optimizer.param_groups[0]["betas"][0] is held[0]
    assert constants(optimizer) == pytest.approx([0.6, 0.996, 5e-9], rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"betas": (0.8, 0.9, 0.999)}, "not those of Adam"),
        ({"eps": None}, "not those of Adam"),
        ({"betas": (0.7, 0.999)}, "beta1 = 0.7"),
    ],
)
def test_nothing_is_scaled_where_one_group_cannot_be(fields: dict[str, Any], words: str) -> None:
    first, second = adam(), adam()
    second.param_groups[0].update(fields)
    with pytest.raises(ConfigError, match=words):
        scale_betas([first, second], 4.0, only_check=False)
    assert constants(first) == [0.9, 0.999, 1e-8]


def test_a_check_scales_nothing() -> None:
    optimizer = adam()
    scale_betas([optimizer], 4.0, only_check=True)
    assert constants(optimizer) == [0.9, 0.999, 1e-8]
    with pytest.raises(ConfigError, match="no optimizer has betas"):
        scale_betas([SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)], 4.0, only_check=True)
