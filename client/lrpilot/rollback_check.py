"""Whether a training loop can be rolled back: it is run twice from one state, and must do the same twice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from lrpilot.arguments import whole
from lrpilot.backends.torch.arguments import checked, checked_register
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.backends.torch.rollback.state_paths import fingerprints, stuck_paths
from lrpilot.data.replay import BatchBuffer
from lrpilot.errors import ConfigError

SHOWN = 10
"""The most differences that are listed; the first ones say most."""

Batch = TypeVar("Batch")


@dataclasses.dataclass(frozen=True, slots=True)
class RollbackCheck:
    """What `check_rollback` found. Its string says it in sentences."""

    losses: tuple[tuple[float, ...], tuple[float, ...]]
    """Those of every step, in the first run and in the second."""
    differences: tuple[str, ...]
    """Names of what was not the same at the end of both runs, such as "model.body.0.weight"."""
    left: tuple[str, ...]
    """Names of what was not as before when all had been put back."""
    stuck: tuple[str, ...]
    """Names of what may change and can't be put back, such as "model.counter (count)"; it need not matter."""

    @property
    def ok(self) -> bool:
        """Whether both runs were the same, bit for bit."""
        return self.first_different_loss is None and not self.differences and not self.left

    @property
    def first_different_loss(self) -> int | None:
        """The step whose loss was another one the second time, from 0; None: all were the same."""
        pairs = enumerate(zip(*self.losses, strict=True))
        return next((i for i, (a, b) in pairs if a != b and not (math.isnan(a) and math.isnan(b))), None)

    def __str__(self) -> str:
        n_steps = len(self.losses[0])
        if self.ok:
            return f"rollback: {n_steps} steps came out the same twice, bit for bit, from one state"
        lines = [f"rollback: {n_steps} steps from one state did not come out the same twice"]
        if (step := self.first_different_loss) is not None:
            before = "before any update" if step == 0 else f"after {step} of them"
            first, second = self.losses[0][step], self.losses[1][step]
            lines.append(f"The losses differ from step {step} on, {before}: {first:.9g}, and then {second:.9g}.")
            if math.isclose(first, second, rel_tol=1e-5):
                lines.append("So little may be the device's own: see torch.use_deterministic_algorithms.")
        if self.left:
            lines.append(f"Not put back: {_listed(self.left)}.")
        if self.differences:
            lines.append(f"Not the same at the end: {_listed(self.differences)}.")
        if self.stuck:
            lines.append(f"These can't be put back, and may be the cause: {_listed(self.stuck)}.")
        lines.append(
            "What is reached neither from the model nor from the optimizer (variables of the loop, of a class or of a "
            "closure) is put back if it is held by an object in register=."
        )
        return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_rollback(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    loader: Iterable[Batch],
    train_step: Callable[[Batch], Any],
    *,
    register: Mapping[str, Any] | None = None,
    n_steps: int = 3,
) -> RollbackCheck:
    """Runs a few steps twice from one state, as a search does, and compares losses and state bit for bit.

    Everything that a tuner can put back is as it was afterwards.

    Args:
        model: what is trained.
        optimizer: one, or several that are stepped together.
        loader: the training data; anything that can be iterated anew for every epoch.
        train_step: one step of the training loop on a batch, with its `optimizer.step()`; gives the loss.
        register: what is given to the tuner under this name.
        n_steps: how many steps are run, each time.

    Raises:
        ConfigError: an argument can't be accepted, something can't be put back, or `train_step` returns no loss.
        ValueError: the loader is empty.
    """
    n_steps = whole("n_steps", n_steps, "a whole number of steps from 1 on, as 3")
    snapshot = Snapshot(model, checked(model, optimizer), checked_register(register))
    batches = BatchBuffer(loader)
    snapshot.take()
    batches.mark()
    begin = fingerprints(snapshot.roots)
    losses, ends = [], []
    for _ in range(2):
        losses.append(tuple(_number(train_step(batches.draw())) for _ in range(n_steps)))
        ends.append(fingerprints(snapshot.roots))
        snapshot.restore()
        batches.rewind()
    left, differences = _different(begin, fingerprints(snapshot.roots)), _different(*ends)
    return RollbackCheck((losses[0], losses[1]), differences, left, tuple(stuck_paths(snapshot.roots)))


def _number(loss: Any) -> float:
    try:
        return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"train_step: it returned a {type(loss).__name__}; return the loss, one number") from error


def _different(first: dict[str, Any], second: dict[str, Any]) -> tuple[str, ...]:
    return tuple(path for path in first | second if first.get(path, "") != second.get(path, ""))
