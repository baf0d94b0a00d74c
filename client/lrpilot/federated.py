"""Federated averaging under the tuner: each client is a job of its own, and what the clients agree on is theirs.

A client trains for some local steps, averages its weights with the others', and goes on. How the average travels (a
process group, a framework for federated learning, secure aggregation) is the user's business. LRPilot's is how far the
agreed update is taken on, or at which LR the clients train: FedHyper (Wang, Wang, Li 2024, arXiv 2310.03156).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsFloat, TypeVar, Unpack

import torch
from torch import nn

from lrpilot.arguments import whole
from lrpilot.backends.torch.arguments import checked, checked_register, own
from lrpilot.backends.torch.federation.backend import FederatedBackend
from lrpilot.backends.validator import minimised
from lrpilot.data.replay import BatchBuffer
from lrpilot.errors import ConfigError
from lrpilot.run.driver import Driver
from lrpilot.run.explicit_options import with_explicit_options
from lrpilot.run.options import JobOptions
from lrpilot.v1 import tuner_pb2 as pb

POLICY = "fedhyper"
Batch = TypeVar("Batch")


class Client(Driver):
    """Tunes one client of a federation, in a loop like that of `lrpilot.Tuner`.

    The last `step` of a round waits for the other clients. All have to make the same rounds, with the same options.
    """

    @with_explicit_options
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        average: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]],
        local_steps: int,
        rounds: int | None = None,
        validate: Callable[[], SupportsFloat] | None = None,
        register: Mapping[str, Any] | None = None,
        snapshot: str | os.PathLike[str] = "auto",
        **job: Unpack[JobOptions],
    ) -> None:
        """Opens a job and sets the LR of the first step.

        All clients begin with the same weights: give them those of one before.

        Args:
            model: what is trained. Its parameters and its floating-point buffers are averaged.
            optimizer: as that of `lrpilot.Tuner`; its state stays with the client.
            average: takes what this client has changed in a round, a list of tensors, and gives their mean over the
                clients in the same order. It is called by all clients after the same number of rounds, and what it
                raises comes out of `step`.
            local_steps: steps of a round.
            rounds: how many there are; None: until you stop.
            validate: gives the validation loss.
            register: what else changes as the model trains.
            snapshot: where the rollback state lives.
            **job: as with `lrpilot.Tuner`, but for `total_steps`, `total_time_s` and `policy`. `policy_options` are
                those of policy fedhyper (docs/policies.md). Give the clients of a federation one family.

        Raises:
            ConfigError: an argument can't be accepted.
            RefusedError: the server finds fault with an argument, which the message names; or with `strict` it refuses.
            UnavailableError: the server isn't there, and `strict` is set.
        """
        for name in ("total_steps", "total_time_s"):
            if job.get(name) is not None:
                raise ConfigError(f"{name}: a federation ends after `rounds`, which all clients share; give that")
        if job.get("policy") not in (None, POLICY):
            raise ConfigError(f"policy: {job.get('policy')!r} knows no rounds; leave it out, it is {POLICY!r}")
        for name, value in (("local_steps", local_steps), ("rounds", rounds)):
            if value is not None:
                whole(name, value, f"a whole number of {name.replace('_', ' ')} from 1 on")
        optimizers = checked(model, optimizer)
        backend = FederatedBackend(
            model,
            optimizers,
            average=average,
            local_steps=local_steps,
            validate=minimised(validate, job.get("mode")),
            register=checked_register(register),
            placement=snapshot,
        )
        self._rounds = rounds
        if rounds is not None:
            self._way_on = "all rounds are over"
        options = {**(job.get("policy_options") or {}), "local_steps": local_steps}
        super().__init__(backend, **(job | {"policy": POLICY, "policy_options": options}))
        self._client = backend
        own(optimizers, self)

    @property
    def round(self) -> int:
        """Rounds that have ended."""
        return self._client.n_rounds

    @property
    def factor(self) -> float:
        """What the last round's global update was taken on with; 1: as it is, which is plain federated averaging."""
        return self._client.factor

    @property
    def finished(self) -> bool:
        """Whether all rounds have ended."""
        return super().finished or (self._rounds is not None and self.round >= self._rounds)

    def _stream(self, buffer: BatchBuffer[Batch]) -> Iterator[Batch]:
        """Draws until all rounds have ended."""
        if self.finished:
            return
        for batch in super()._stream(buffer):
            yield batch
            if self.finished:
                return

    def step(self, loss: Any) -> None:
        """Takes the loss of the local step that was just made; after the last one of a round averages.

        Args:
            loss: as with `lrpilot.Tuner`.

        Raises:
            ValueError: the loss is not a scalar, or the average is none.
            Exception: what the average raises.
            ServerError: a decision can't be had, and `strict` is set.
        """
        if self.finished:
            self._say_over("step() does nothing, and the LR stays where it is")
            return
        super().step(loss)
        if self.finished:
            self._end_plan()

    def extend(self, steps: int) -> None:
        """Lets a run go on that an annealing has ended; one that ends after `rounds` stays so long.

        Args:
            steps: as with `lrpilot.Tuner`.

        Raises:
            ConfigError: as with `lrpilot.Tuner`, or `rounds` were given, which all clients share.
            ServerError: a decision can't be had, and `strict` is set.
        """
        if self._rounds is not None:
            raise ConfigError("extend: the federation ends after `rounds`, which all clients share")
        super().extend(steps)

    def _end_plan(self) -> None:
        """Says that the run is over, unless that is known: the server can't tell, as it counts no rounds.

        It comes after the answer to the last round, which says how that is taken on.
        """
        if self._finished:
            return
        total_steps, reason = self._record.steps + self._lease.done, f"all rounds are over, {self._rounds} of them"
        self._change(pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_EXTEND, total_steps=total_steps, reason=reason))
