"""What tests of all frameworks in two processes have in common: what ranks are told to do, and what they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import torch
from lrpilot import Schedule
from lrpilot.run.driver import Driver
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.distributed.tensor import DTensor

from tests.support.training.scripted_directives import directive

AUTOLRS: Final[dict[str, Any]] = {
    "policy": "autolrs",
    "policy_options": {"tau": 20, "tau_prime": 4, "candidates": 2},
    "lr_bounds": (1e-4, 1.0),
}
"""A policy with a short search in each of its short stages."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankRun:
    """What a rank's run came to."""

    state: dict[str, torch.Tensor]
    """Model, optimizer and random state as they lie on the rank."""
    lrs: list[float]
    """The LR of every step of the framework's own loop."""
    schedule: Schedule | None
    """None: the run had no tuner."""
    job_id: str


def told_of(tuner: Driver | None) -> dict[str, Any]:
    """The part of a `RankRun` that a tuner tells; a schedule without the job that it is of can be compared."""
    if tuner is None:
        return {"schedule": None, "job_id": ""}
    return {"schedule": dataclasses.replace(tuner.schedule, job_id=""), "job_id": tuner.job_id}


def state_of(model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """A copy of weights, buffers and optimizer state, of shards their part on this rank, and of the random state."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()} | {
        f"optimizer.{i}.{name}": value
        for i, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    state = {name: (v.to_local() if isinstance(v, DTensor) else v).clone() for name, v in state.items()}
    return state | {"random": torch.get_rng_state()}


def probes() -> list[bytes]:
    """Two probes, the first over an odd number of steps, with validations at its ends."""
    first = directive(pb.PHASE_PROBE, 0.5, 7, validate_at=[0, 7])
    return [each.SerializeToString() for each in (first, directive(pb.PHASE_PROBE, 1e-3, 4, restore=True))]


def committed(n_steps: int, *, restore: bool = False, validate_at: Sequence[int] = ()) -> bytes:
    """Steps that stay."""
    return directive(pb.PHASE_TRAIN, 0.02, n_steps, restore=restore, validate_at=validate_at).SerializeToString()


def assert_same(expected: RankRun, found: RankRun) -> None:
    """Two runs have ended in the same state, bit for bit."""
    assert expected.state.keys() == found.state.keys()
    for name, value in expected.state.items():
        assert torch.equal(value, found.state[name]), name


def sharded(first: RankRun, second: RankRun) -> bool:
    """Whether two ranks hold different weights."""
    return any(not torch.equal(value, second.state[name]) for name, value in first.state.items() if "weight" in name)


def assert_annealed(first: tuple[RankRun, int], second: tuple[RankRun, int], n_steps: int) -> None:
    """Two ranks, told with their search steps, have spent the budget at the same LRs, and come down to the end."""
    (outcome, searched), (other, also) = first, second
    assert searched == also
    assert outcome.lrs == other.lrs
    assert outcome.schedule == other.schedule
    assert len(outcome.lrs) == n_steps - searched
    assert outcome.lrs[-1] < 0.2 * max(outcome.lrs)
