from __future__ import annotations

import pytest
import torch

from benchmarks.quality import users_lr
from benchmarks.quality.grid import run
from benchmarks.quality.results import RunKey
from benchmarks.quality.workloads import WORKLOADS

MLP = WORKLOADS["mlp"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_optimizer_carries_the_users_lr_and_all_else_is_the_workloads() -> None:
    carrying = users_lr.carrying(MLP, 0.0123)
    session, plain = carrying.build(0), MLP.build(0)
    assert {group["lr"] for group in session.optimizer.param_groups} == {0.0123}
    assert type(session.optimizer) is type(plain.optimizer)
    assert carrying.lr_range == MLP.lr_range
    assert carrying.lr_grid == MLP.lr_grid
    assert {group["lr"] for group in plain.optimizer.param_groups} != {0.0123}


def test_a_run_too_short_to_search_decays_from_the_users_lr() -> None:
    # 20% of 40 steps hold no probe.
    curve = run(RunKey("mlp", MLP.version, users_lr.USERS_LR, 0.0123, 0, 40))
    assert curve.peak_lr == pytest.approx(0.0123)
    assert curve.search_steps == 0


def test_it_needs_an_lr() -> None:
    with pytest.raises(ValueError, match="needs an LR"):
        run(RunKey("mlp", MLP.version, users_lr.USERS_LR, None, 0, 40))
