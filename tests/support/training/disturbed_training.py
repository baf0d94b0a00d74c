"""A small training run that tests disturb: in their process, or in one of its own that dies and starts again."""

from __future__ import annotations

import dataclasses
import enum
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lrpilot import Schedule
from lrpilot.transport.base import Transport
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

TOTAL_STEPS = {"budget": 500, "autolrs": 300}
"""By policy; `budget` searches in no shorter run."""
TIMEOUT_S = 60.0
"""Longer than any fault that is to leave no trace."""
CHECKPOINT_EVERY = 7
"""Prime to the lengths of directives, so that checkpoints fall anywhere in them."""
POLICY_OPTIONS: dict[str, dict[str, Any]] = {
    "budget": {"probe_steps": 10, "refinements": 2, "max_candidates": 6},
    "autolrs": {"tau": 40, "tau_prime": 8, "tau_max": 80, "candidates": 3},
}


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. Two runs that a fault must not tell apart are equal, bit for bit."""

    schedule: Schedule
    """Under no job id, which is every run's own."""
    weights: dict[str, list[float]]
    n_steps: int
    """Optimizer steps that were made; those that were lost with a process, and made again, count once."""


class Training:
    """A multi-layer perceptron on shuffled, fixed data, with dropout: weights tell of every random number and batch."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(11)
        self.inputs = torch.randn(96, 8, generator=generator)
        self.targets = (self.inputs[:, 0] * self.inputs[:, 1] > 0).long()
        self.loader = DataLoader(TensorDataset(self.inputs, self.targets), batch_size=16, shuffle=True)
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.n_steps = 0

    def tuner(self, policy: str, transport: Transport, timeout_s: float = TIMEOUT_S) -> Tuner:
        """Opens its job."""
        return Tuner(
            self.model,
            self.optimizer,
            transport=transport,
            timeout_s=timeout_s,
            total_steps=TOTAL_STEPS[policy],
            lr_bounds=(1e-3, 1.0),
            policy=policy,
            policy_options=POLICY_OPTIONS[policy],
            validate=self.validate,
            seed=5,
        )

    def run(self, tuner: Tuner, after_step: Callable[[], object] = lambda: None) -> Outcome:
        """Trains to the end."""
        for inputs, targets in tuner.batches(self.loader):
            loss = functional.cross_entropy(self.model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.n_steps += 1
            tuner.step(loss)
            after_step()
        weights = {name: value.flatten().tolist() for name, value in self.model.state_dict().items()}
        return Outcome(dataclasses.replace(tuner.schedule, job_id=""), weights, self.n_steps)

    def validate(self) -> float:
        """The loss without dropout."""
        self.model.eval()
        with torch.no_grad():
            return functional.cross_entropy(self.model(self.inputs), self.targets).item()


class LastMoment(enum.Enum):
    """When a process dies."""

    AFTER_STEP = enum.auto()
    SAVING_AFTER_STEP = enum.auto()
    """With a checkpoint that is written and not yet in its place."""
    BEFORE_REPORT = enum.auto()
    AFTER_REPORT = enum.auto()
    """The answer is back, and nothing has come of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Death:
    """The moment of so many steps, or of the report on directive `number`."""

    moment: LastMoment
    number: int


class Fate:
    """Kills its process at the moment of its death, if it has one: as from outside, with nothing cleaned up."""

    def __init__(self, death: Death | None) -> None:
        self._death = death

    def meet(self, moment: LastMoment, number: int) -> None:
        if Death(moment, number) == self._death:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalTransport(GrpcTransport):
    """A connection on which its process may die."""

    def __init__(self, target: str, fate: Fate) -> None:
        super().__init__(target)
        self._fate = fate

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self._fate.meet(LastMoment.BEFORE_REPORT, request.report.directive_number)
        response = super().advance(request, timeout_s)
        self._fate.meet(LastMoment.AFTER_REPORT, request.report.directive_number)
        return response


def live(policy: str, server: str, directory: Path, death: Death | None) -> None:
    """One life of a run that has several: from its last checkpoint to its death or its end. A process's main function.

    Leaves `checkpoint.pt`, and at the end `outcome.pickle`, in the directory.
    """
    torch.set_num_threads(1)
    checkpoint, draft = directory / "checkpoint.pt", directory / "checkpoint.tmp"
    resumes = checkpoint.exists()
    # Other weights, other random numbers: all must come from the checkpoint.
    training, fate = Training(seed=99 if resumes else 0), Fate(death)
    tuner = training.tuner(policy, MortalTransport(server, fate))
    if resumes:
        state = torch.load(checkpoint, weights_only=True)
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])
        tuner.load_state_dict(state["tuner"])
        training.n_steps = state["n_steps"]

    def after_step() -> None:
        if training.n_steps % CHECKPOINT_EVERY == 0:
            state = {
                "model": training.model.state_dict(),
                "optimizer": training.optimizer.state_dict(),
                "tuner": tuner.state_dict(),
                "n_steps": training.n_steps,
            }
            torch.save(state, draft)
            fate.meet(LastMoment.SAVING_AFTER_STEP, training.n_steps)
            draft.replace(checkpoint)
        fate.meet(LastMoment.AFTER_STEP, training.n_steps)

    outcome = training.run(tuner, after_step)
    tuner.close()
    (directory / "outcome.pickle").write_bytes(pickle.dumps(outcome))
