from __future__ import annotations

import math
from itertools import islice, pairwise

import pytest
import torch

from benchmarks.quality.training import train_step
from benchmarks.quality.workloads import WORKLOADS, Workload


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=WORKLOADS.values(), ids=list(WORKLOADS))
def workload(request: pytest.FixtureRequest) -> Workload:
    chosen: Workload = request.param
    return chosen


def _losses(workload: Workload, seed: int, n_steps: int = 5) -> list[float]:
    session = workload.build(seed)
    return [train_step(session, batch) for batch in islice(session.batches(), n_steps)]


def test_same_seed_gives_the_same_losses_bit_for_bit(workload: Workload) -> None:
    first = _losses(workload, seed=1)
    torch.manual_seed(12345)  # a run must not depend on the global random state
    assert _losses(workload, seed=1) == first


def test_another_seed_gives_another_run(workload: Workload) -> None:
    assert _losses(workload, seed=1) != _losses(workload, seed=2)


def test_building_and_training_leave_the_global_random_state_alone(workload: Workload) -> None:
    before = torch.get_rng_state()
    _losses(workload, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_start_over_at_every_call(workload: Workload) -> None:
    session = workload.build(0)
    first, second = next(session.batches()), next(session.batches())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_validation_leaves_no_trace(workload: Workload) -> None:
    session = workload.build(0)
    train_step(session, next(session.batches()))
    state = {name: value.clone() for name, value in session.model.state_dict().items()}
    random_state = torch.get_rng_state()

    loss = session.validate()

    assert math.isfinite(loss)
    assert session.validate() == loss
    assert session.model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, state[name]) for name, value in session.model.state_dict().items())


def test_validation_data_are_the_same_for_all_seeds(workload: Workload) -> None:
    one, other = workload.build(1).validation, workload.build(2).validation
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def test_the_loss_falls(workload: Workload) -> None:
    session = workload.build(0)
    before = session.judge()
    for batch in islice(session.batches(), 100):
        train_step(session, batch)
    assert session.judge() < before - 0.02


def test_a_run_is_judged_by_its_validation_data_unless_there_are_better_ones(workload: Workload) -> None:
    session = workload.build(0)
    if session.judging is None:
        assert session.judge() == session.validate()
    else:
        n_validated, n_judged = (sum(len(b[0]) for b in data) for data in (session.validation, session.judging))
        assert n_judged >= 10 * n_validated
        assert session.judge() != session.validate()


def test_scores_are_positive_and_keep_the_order_of_losses(workload: Workload) -> None:
    losses = (-2.0, -0.5, 0.5, 3.0) if workload.name == "density" else (0.01, 0.5, 3.0)
    scores = [workload.score(loss) for loss in losses]
    assert scores[0] > 0
    assert scores == sorted(scores)


def test_grid_is_half_decades_and_the_users_range_is_inside_what_it_spans(workload: Workload) -> None:
    grid = workload.lr_grid
    assert len(grid) >= 7
    steps = [math.log10(high / low) for low, high in pairwise(grid)]
    assert steps == pytest.approx([0.5] * len(steps), abs=0.02)
    assert workload.lr_range[0] <= grid[len(grid) // 2] <= workload.lr_range[1]


def test_an_optimizer_factory_replaces_the_base_optimizer(workload: Workload) -> None:
    session = workload.build(0, lambda model: torch.optim.Adagrad(model.parameters(), lr=0.5))
    assert isinstance(session.optimizer, torch.optim.Adagrad)
