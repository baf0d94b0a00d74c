"""The first updates of a fresh optimizer of the user's kind; what the user's own optimizer has is not touched."""

from __future__ import annotations

import copy
import itertools
import random
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from lrpilot import rng
from lrpilot.backends.torch.first_updates import AT, LONGEST_WAIT_S, PATIENCE_S, first_updates
from torch import nn, optim
from torch.optim import optimizer as optimizers
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (optim.SGD(weights(), lr=0.3), [1.0] * len(AT)),
        (optim.SGD(weights(), lr=0.3, momentum=0.9, weight_decay=0.1), [(1 - 0.9**k) / 0.1 for k in AT]),
        (optim.SGD(weights(), lr=0.3, momentum=0.9, maximize=True), [(1 - 0.9**k) / 0.1 for k in AT]),
        (optim.Adam(weights(), lr=0.3), [1.0] * len(AT)),
        (optim.AdamW(weights(), lr=0.3, betas=(0.95, 0.99), fused=True), [1.0] * len(AT)),
        (optim.RMSprop(weights(), lr=0.3), [(1 - 0.99**k) ** -0.5 for k in AT]),
        (optim.Adagrad(weights(), lr=0.3), [k**-0.5 for k in AT]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_updates_have_the_sizes_that_the_optimizer_is_known_for(
    optimizer: optim.Optimizer, expected: list[float]
) -> None:
    assert first_updates(optimizer) == pytest.approx(expected, rel=1e-4)


class Needy(optim.SGD):
    """Can't be made without something of its user's."""

    def __init__(self, params: Any, teacher: nn.Module) -> None:
        self.teacher = teacher
        super().__init__(params, lr=0.1)


class Lazy(optim.SGD):
    """Moves nothing."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes no update."""


class Sprinter(optim.SGD):
    """Doubles its steps without end."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes a longer update than ever."""
        self.param_groups[0]["momentum"] = 2.0
        super().step(closure)


class Believer(optim.Optimizer):
    """Divides by how much a gradient differs from its mean, as AdaBelief does."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes an update."""
        for weight in self.param_groups[0]["params"]:
            state = self.state[weight]
            mean = state["mean"] = 0.9 * state.get("mean", 0.0) + 0.1 * weight.grad
            variance = state["variance"] = 0.999 * state.get("variance", 0.0) + 0.001 * (weight.grad - mean) ** 2
            weight -= self.param_groups[0]["lr"] * mean / (variance.sqrt() + 1e-8)


class Only(optim.SGD):
    """There is one in a process, which is given again."""

    found: Any = None

    def __new__(cls, *_: Any, **__: Any) -> Any:
        cls.found = cls.found or super().__new__(cls)
        return cls.found


class Scaled(optim.Optimizer):
    """Moves a weight in proportion to its norm, as LARS and LAMB do."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes an update."""
        for weight in self.param_groups[0]["params"]:
            trust = weight.norm() / weight.grad.norm() if weight.norm() else 1.0
            weight -= self.param_groups[0]["lr"] * trust * weight.grad


class Talker(optim.SGD):
    """Draws, prints and warns at every step."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes an update."""
        print("a step", random.random(), np.random.random(), torch.rand(1).item())
        warnings.warn("a step", stacklevel=2)
        super().step(closure)


class Slow(optim.SGD):
    """Takes a second a step, by a clock of the test's."""

    clock = 0.0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes an update."""
        Slow.clock += 1.0
        super().step(closure)


@pytest.mark.parametrize(
    "optimizer",
    [
        Needy(weights(), nn.Linear(2, 2)),
        Lazy(weights()),
        Sprinter(weights()),
        Believer(weights()),
        optim.Rprop(weights()),
        optim.LBFGS(weights()),
    ],
    ids=lambda o: type(o).__name__,
)
def test_of_one_that_can_not_be_tried_nothing_is_known(optimizer: optim.Optimizer) -> None:
    assert first_updates(optimizer) == ()


def test_neither_the_users_optimizer_nor_random_state_is_touched() -> None:
    optimizer = optim.SGD(weights(), lr=0.1, momentum=0.9)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3, 2)
    optimizer.step()
    before, state = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    first_updates(optimizer)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert torch.equal(after["state"][0]["momentum_buffer"], before["state"][0]["momentum_buffer"])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_class_that_gives_its_only_object_again_is_left_alone() -> None:
    weight = weights()
    optimizer = Only(weight, lr=0.1)
    assert first_updates(optimizer) == ()
    assert optimizer.param_groups[0]["params"][0] is weight[0]


def test_updates_in_proportion_to_the_weight_do_not_begin_at_zero() -> None:
    for optimizer in (Scaled(weights()), optim.Adafactor(weights(), lr=0.1)):
        assert first_updates(optimizer) == pytest.approx([1.0] * len(AT), rel=0.1)


def test_hooks_for_all_optimizers_do_not_hear_of_it_and_stay() -> None:
    optimizer, heard = optim.SGD(weights(), lr=0.1), list[optim.Optimizer]()
    handles = [
        register_optimizer_step_pre_hook(lambda called, *_: heard.append(called)),
        register_optimizer_step_post_hook(lambda called, *_: heard.append(called)),
    ]
    try:
        assert first_updates(optimizer)
        assert heard == []
        optimizer.step()
        assert heard == [optimizer, optimizer]
    finally:
        for handle in handles:
            handle.remove()


def test_many_threads_at_once_leave_the_process_as_they_found_it() -> None:
    """Each has the same answer, whatever the others put back meanwhile."""

    def heard(*_: object) -> None:
        """A hook of the user's for all optimizers."""

    handle = register_optimizer_step_post_hook(heard)
    try:
        before = (sys.stdout, warnings.filters[:], dict(optimizers._global_optimizer_post_hooks))
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(first_updates, [Talker(weights()) for _ in range(16)]))
        assert (sys.stdout, warnings.filters[:], dict(optimizers._global_optimizer_post_hooks)) == before
        assert torch._dynamo.eval_frame._stance.stance == "default"
        assert len(set(found)) == 1
    finally:
        handle.remove()


def test_what_one_says_and_draws_is_kept_back(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = Talker(weights(), lr=0.1)
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    assert first_updates(optimizer) == pytest.approx([1.0] * len(AT))
    assert capsys.readouterr().out == ""
    assert random.getstate() == states[0]
    assert rng.same(np.random.get_state(legacy=False), states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize(("clock", "limit"), [("thread_time", PATIENCE_S), ("monotonic", LONGEST_WAIT_S)])
def test_a_slow_one_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, clock: str, limit: float) -> None:
    """Whether it computes, or waits for something."""
    Slow.clock = 0.0
    monkeypatch.setattr(f"lrpilot.backends.torch.first_updates.time.{clock}", lambda: Slow.clock)
    assert first_updates(Slow(weights(), lr=0.1)) == ()
    assert Slow.clock <= limit + 1


def test_a_busy_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times as long by the clock as one may compute, while others have the processor."""
    ticks = itertools.count(step=5 * PATIENCE_S / AT[-1])
    monkeypatch.setattr("lrpilot.backends.torch.first_updates.time.monotonic", lambda: next(ticks))
    assert first_updates(optim.SGD(weights(), lr=0.1)) == pytest.approx([1.0] * len(AT))


def test_the_device_on_which_tensors_are_made_does_not_matter() -> None:
    optimizer = optim.Adam(weights(), lr=0.1)
    with torch.device("meta"):
        assert first_updates(optimizer) == pytest.approx([1.0] * len(AT))


class Compiled(optim.SGD):
    """Has a compiled function in its steps, as implementations of Muon do."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self._doubled = torch.compile(lambda gradient: 2.0 * gradient, backend=compiled_for_nobody)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes an update."""
        for weight in self.param_groups[0]["params"]:
            weight -= self.param_groups[0]["lr"] * self._doubled(weight.grad)


def compiled_for_nobody(*_: Any) -> Any:
    """A backend of torch.compile."""
    raise AssertionError("the toy was compiled for")


def test_nothing_is_compiled_for_it() -> None:
    assert first_updates(Compiled(weights())) == pytest.approx([2.0] * len(AT))
