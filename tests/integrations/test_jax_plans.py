"""Plans that change in a functional training loop, and in one of Accelerate's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from accelerate import Accelerator
from lrpilot.integrations.accelerate import tuner as accelerated_tuner
from lrpilot.integrations.jax import Tuner
from torch import nn

from tests.support.jobs.kept_jobs import KeptJobs
from tuner_server.core.job.machine import Status

OPTIONS: dict[str, Any] = {
    "lr_bounds": (1e-3, 0.3),
    "policy_options": {"probe_steps": 5, "refinements": 0, "max_candidates": 4},
}
TOTAL = 600
optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.05, momentum=0.9)


def data() -> list[tuple[Any, Any]]:
    fixed = np.random.default_rng(0)
    inputs = fixed.normal(size=(20, 8, 3)).astype(np.float32)
    return [(x, x.sum(axis=1)) for x in inputs]


@jax.jit  # type: ignore[untyped-decorator]  # its types are not read
def train_step(state: Any, batch: Any) -> Any:
    params, opt_state = state
    inputs, targets = batch

    def objective(weights: Any) -> Any:
        return jnp.mean((inputs @ weights - targets) ** 2)

    loss, gradients = jax.value_and_grad(objective)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss


def test_a_functional_state_is_extended_searched_anew_and_annealed_for_a_while() -> None:
    jobs, params = KeptJobs(), jnp.zeros(3)
    tuner = Tuner((params, optimizer.init(params)), transport=jobs, total_steps=TOTAL, donates=False, **OPTIONS)
    loader, n_steps = data(), 0

    def train(n: int | None) -> None:
        nonlocal n_steps
        for made, batch in enumerate(tuner.batches(loader), start=1):
            tuner.state, loss = train_step(tuner.state, batch)
            tuner.step(loss)
            n_steps += 1
            if made == n:
                break

    train(200)
    tuner.extend(100)
    train(50)
    tuner.replan("other data")
    while tuner.searching:
        train(1)
    train(30)
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(tuner.state)]
    tuner.anneal(20)
    train(None)
    assert tuner.finished
    tuner.undo_annealing()
    after = [np.asarray(leaf) for leaf in jax.tree.leaves(tuner.state)]
    lr = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a.shape == () and a.dtype == np.float32)
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        if i != lr:
            np.testing.assert_array_equal(a, b)
    train(None)
    assert n_steps == TOTAL + 100 == jobs.state.run_steps
    assert jobs.state.status is Status.FINISHED


def test_a_saved_accelerator_goes_on_in_the_plan_that_changed(tmp_path: Path) -> None:
    jobs = KeptJobs()

    def begun() -> tuple[Accelerator, Any, Any, Any]:
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=True)
        model = nn.Linear(3, 1)
        prepared = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.05))
        return (
            accelerator,
            *prepared,
            accelerated_tuner(accelerator, *prepared, transport=jobs, total_steps=TOTAL, **OPTIONS),
        )

    def train(run: tuple[Accelerator, Any, Any, Any], n: int | None) -> int:
        accelerator, model, optimizer, tuner = run
        made = 0
        for made, (inputs, targets) in enumerate(tuner.batches(loader), start=1):
            loss = (model(torch.from_numpy(inputs))[:, 0] - torch.from_numpy(targets)).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            tuner.step(loss)
            if made == n:
                break
        return made

    loader = data()
    first = begun()
    train(first, 300)
    first[-1].extend(77)
    train(first, 50)
    first[0].save_state(str(tmp_path))
    second = begun()
    second[0].load_state(str(tmp_path))
    assert train(second, None) == TOTAL + 77 - 350
    assert jobs.state.status is Status.FINISHED
