"""The optimizers that find their own LR, on a quadratic whose steps were computed apart from this code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from dadaptation import DAdaptAdam, DAdaptSGD
from prodigyopt import Prodigy
from schedulefree import SGDScheduleFree
from torch import nn

from benchmarks.quality.averages import PolynomialAverage
from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.dog import DoG, DoWG
from benchmarks.quality.mechanic import Mechanic
from benchmarks.quality.workloads import WORKLOADS

DISTANCES = json.loads((Path(__file__).parents[2] / "data/methods/dog.json").read_text())
CURVATURE = torch.tensor(DISTANCES["c"], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def weights() -> nn.Parameter:
    return nn.Parameter(torch.tensor(DISTANCES["x0"], dtype=torch.float64))


def _step(weights: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    weights.grad = CURVATURE * weights.detach()
    optimizer.step()


@pytest.mark.parametrize(("kind", "vectors"), [(DoG, "dog_lr_at"), (DoWG, "dowg_lr_at")])
def test_the_lr_of_dog_and_dowg_follows_their_vectors(kind: type[DoG], vectors: str, weights: nn.Parameter) -> None:
    optimizer = kind([weights], start=DISTANCES["r_eps"] / (1 + float(weights.detach().norm())))
    expected = {int(step): lr for step, lr in DISTANCES[vectors].items()}
    for step in range(1, max(expected) + 1):
        _step(weights, optimizer)
        if step in expected:
            assert optimizer.step_size == pytest.approx(expected[step], rel=1e-6)


def test_dog_adds_its_weight_decay_to_the_gradient(weights: nn.Parameter) -> None:
    optimizer = DoG([weights], start=0.1, weight_decay=0.5)
    weights.grad = torch.zeros_like(weights)
    before = weights.detach().clone()
    optimizer.step()
    assert torch.allclose(weights.detach(), before * (1 - 0.5 * optimizer.step_size))
    assert optimizer.step_size > 0


# Weights and factor after so many steps, by the authors' package mechanic-pytorch 0.0.1 with s_init 1e-3. At step 60
# its own two ways to keep delta differ by a third.
_SGD = {
    1: (1.98037037, -3.99018518, 0.09814816),
    5: (1.38207876, -3.68380143, 0.24241722),
    20: (-0.53226677, -0.92336352, 0.33433092),
    40: (0.06901504, 0.43647011, 0.31137943),
}
_ADAM = {
    5: (1.99868357, -3.99868357, 0.26328760),
    20: (1.44355815, -3.44222067, 27.9523239),
    40: (-0.52398160, -0.80741028, 92.2163391),
}


@pytest.mark.parametrize("base", ["sgd", "adam"])
def test_mechanic_does_what_its_authors_package_does(base: str, weights: nn.Parameter) -> None:
    optimizer: torch.optim.Optimizer
    if base == "sgd":
        optimizer, expected = torch.optim.SGD([weights], lr=0.1, momentum=0.9), _SGD
    else:
        optimizer, expected = torch.optim.Adam([weights], lr=1e-3), _ADAM
    mechanic = Mechanic(optimizer, s_init=1e-3)
    for step in range(1, 41):
        _step(weights, optimizer)
        if step in expected:
            assert (*weights.tolist(), mechanic.factor) == pytest.approx(expected[step], rel=1e-4)


def test_the_average_is_in_place_only_while_it_is_asked_for() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    weight = next(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    average = PolynomialAverage(model, optimizer, gamma=1.0)
    for value in (1.0, 2.0, 6.0):
        weight.grad = weight.detach() - value
        optimizer.step()
    with average.in_place():
        # Shares of 2 / 2, 2 / 3 and 2 / 4.
        assert weight.item() == pytest.approx(0.5 * (1 / 3 * 1.0 + 2 / 3 * 2.0) + 0.5 * 6.0)
    assert weight.item() == pytest.approx(6.0)


def test_schedule_free_trains_at_the_lr_that_budget_commits() -> None:
    workload = WORKLOADS["finetune"]
    curve = CONTESTANTS["schedule_free, our LR"].run(workload, None, 600, 0)
    budget = CONTESTANTS["budget"].run(workload, None, 600, 0)
    assert (curve.peak_lr, curve.search_steps) == (budget.peak_lr, budget.search_steps)
    assert curve.search_steps > 0
    assert curve.val_steps[-1] == 600
    assert curve.final_val_loss < curve.val_losses[0]


@pytest.mark.parametrize("name", ["dying", "density"])
def test_a_users_lr_is_the_one_that_the_optimizer_carries(name: str) -> None:
    workload = WORKLOADS[name]
    lr = workload.build(0).optimizer.param_groups[0]["lr"]
    own, given = CONTESTANTS["linear, user's LR"], CONTESTANTS["linear"]
    assert own.run(workload, None, 80, 0).val_losses == given.run(workload, lr, 80, 0).val_losses


@pytest.mark.parametrize("name", ["greedy_lr", "dog", "mechanic", "schedule_free, our LR", "linear, user's LR"])
def test_batch_normalisation_and_momentum_are_no_obstacle(name: str) -> None:
    curve = CONTESTANTS[name].run(WORKLOADS["noisylabels"], None, 80, 0)
    assert not curve.diverged
    assert math.isfinite(curve.final_val_loss)
    assert curve.val_steps[-1] == 80


def _after(n_steps: int, optimizer: torch.optim.Optimizer, weights: nn.Parameter, solution: torch.Tensor) -> float:
    """The distance of all elements from the solution, summed, after so many steps down that sum."""
    for _ in range(n_steps):
        weights.grad = torch.sign(weights.detach() - solution)
        optimizer.step()
    return float((weights.detach() - solution).abs().sum())


@pytest.mark.parametrize("distance", [0.01, 100.0])
@pytest.mark.parametrize("kind", [DAdaptSGD, DAdaptAdam, Prodigy])
def test_the_estimated_distance_is_about_the_true_one_over_decades(
    kind: type[DAdaptSGD | DAdaptAdam | Prodigy], distance: float
) -> None:
    """What both papers promise on convex functions, whose solution lies at a distance that nobody tells."""
    weights = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = kind([weights], lr=1.0)
    _after(500, optimizer, weights, torch.tensor([0.5, -0.5, 0.5, 0.5]) * distance)
    assert distance / 8 < float(optimizer.param_groups[0]["d"]) < 2 * distance


@pytest.mark.parametrize("distance", [0.01, 100.0])
@pytest.mark.parametrize("kind", [DoG, DoWG])
def test_dog_and_dowg_reach_a_solution_at_any_distance_and_go_little_further(kind: type[DoG], distance: float) -> None:
    weights = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    left = _after(1000, kind([weights]), weights, torch.tensor([0.5, -0.5, 0.5, 0.5]) * distance)
    assert left < 0.1 * 2 * distance


@pytest.mark.parametrize("lr", [1e-4, 1.0, 100.0])
def test_mechanic_makes_any_lr_of_six_decades_do(lr: float) -> None:
    """Its claim is that the base LR need not be tuned."""
    weights = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = torch.optim.SGD([weights], lr=lr)
    mechanic = Mechanic(optimizer)
    assert _after(1000, optimizer, weights, torch.tensor([0.5, -0.5, 0.5, 0.5])) < 0.05 * 2
    assert 1e-3 < mechanic.factor * lr < 1e-2


def test_schedule_free_evaluates_at_the_mean_of_its_iterates() -> None:
    """Equation 4 of Defazio et al. 2024 with equal LRs: x is the mean of all z."""
    weights = nn.Parameter(torch.tensor(DISTANCES["x0"], dtype=torch.float64))
    optimizer = SGDScheduleFree([weights], lr=0.3)
    optimizer.train()
    iterates = []
    for _ in range(7):
        _step(weights, optimizer)
        iterates.append(optimizer.state[weights]["z"].clone())
    optimizer.eval()
    assert torch.allclose(weights.detach(), torch.stack(iterates).mean(0))
