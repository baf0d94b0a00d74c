"""PyTorch, for one client of a federation: after so many steps its weights are averaged with the others'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import torch
from torch import nn

from lrpilot.backends.measures import LOCAL_MEASURES, ROUND_MEASURES
from lrpilot.backends.torch.backend import TorchBackend
from lrpilot.backends.torch.federation.global_updates import Average, GlobalUpdates
from lrpilot.backends.torch.federation.local_updates import LocalUpdates, read


class FederatedBackend(TorchBackend):
    """A model and its optimizers that train in rounds of local steps.

    The round ends with its last step, in `append`, whatever becomes of the tuning: without a server the mean is taken
    on as it is, which is plain federated averaging. A rollback leads to the beginning of the round, which may be
    another one than that of the snapshot: what the clients have agreed on stays.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        average: Average,
        local_steps: int,
        **arguments: Any,
    ) -> None:
        """Begins the first round.

        Args:
            model: what is trained.
            optimizers: that are stepped together.
            average: the federation's transport.
            local_steps: of a round.
            **arguments: the others of `TorchBackend`.

        Raises:
            ConfigError: as `TorchBackend`.
        """
        super().__init__(model, optimizers, **arguments)
        seen: dict[int, torch.Tensor] = {}
        for optimizer in optimizers:
            seen |= {id(each): each for group in optimizer.param_groups for each in group["params"]}
        self._parameters = list(seen.values())
        buffers = [each for each in model.buffers() if each.is_floating_point()]
        self._rounds = GlobalUpdates(self._parameters, buffers, average)
        self._local_steps = local_steps
        self._done = 0  # local steps of this round
        self._local: LocalUpdates | None = None
        self._federated: dict[str, list[torch.Tensor | float]] = {}

    @property
    def n_rounds(self) -> int:
        """Rounds that have ended."""
        return self._rounds.n_rounds

    @property
    def factor(self) -> float:
        """What the last global update was taken on with."""
        return self._rounds.factor

    @property
    def measures(self) -> tuple[str, ...]:
        """Those of every run, and those of a federation."""
        return (*super().measures, *ROUND_MEASURES, *LOCAL_MEASURES)

    def append(self, loss: torch.Tensor | SupportsFloat) -> bool:
        """Adds a local step; after the last one of a round waits for the other clients.

        Raises:
            Exception: what the average raises.
        """
        if not super().append(loss):
            return False
        if self._done == 0:
            self._rounds.begin()
        self._done += 1
        values: dict[str, torch.Tensor | float] = {}
        if self._local is not None:
            values |= self._local.add(self._done, self._rounds.update)
        if self._done == self._local_steps:
            values |= self._rounds.end()
            self._done = 0
            self._begin_round()
        for name, series in self._federated.items():
            series.append(values.get(name, math.nan))
        return True

    def take_round(self, factor: float, momentum: float) -> None:
        """See `GlobalUpdates.take`."""
        self._rounds.take(factor, momentum)
        self._begin_round()

    def restore(self, *, committed: bool = False) -> None:
        """Goes back as any backend does, but to the weights that the present round began with."""
        try:
            super().restore(committed=committed)
        finally:
            self._rounds.go_back()
            self._done = 0
            self._begin_round()

    def measure(self, n_steps: int, earlier: Mapping[str, Sequence[float]]) -> None:
        """Has what the federation tells measured, too."""
        own = {name: values for name, values in earlier.items() if name in (*ROUND_MEASURES, *LOCAL_MEASURES)}
        super().measure(n_steps, {name: values for name, values in earlier.items() if name not in own})
        self._federated = {name: list(values) for name, values in own.items()}
        wanted = any(name in LOCAL_MEASURES for name in own)
        if wanted and self._local is None:
            self._local = LocalUpdates(self._parameters)
        elif not wanted:
            self._local = None

    def peek_measures(self) -> dict[str, list[float]]:
        """Synchronises once for each of the federation's."""
        return super().peek_measures() | {name: read(values) for name, values in self._federated.items() if values}

    def flush_measures(self, n_steps: int) -> dict[str, list[float]]:
        """Synchronises once for each of the federation's."""
        found = super().flush_measures(n_steps)
        for name, values in self._federated.items():
            known = read(values[-n_steps:]) if values and n_steps else []
            found[name] = [math.nan] * (n_steps - len(known)) + known
            values.clear()
        return found

    def state_dict(self) -> dict[str, Any] | None:
        """The rounds are part of it: the weights of the round's beginning, the last update, and the sum before it."""
        state = super().state_dict()
        assert state is not None
        return state | {"rounds": self._rounds.state_dict(), "local_steps_done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on in the middle of a round."""
        super().load_state_dict(state)
        self._rounds.load_state_dict(state["rounds"])
        self._done = state["local_steps_done"]
        self._begin_round()

    def _begin_round(self) -> None:
        if self._local is not None:
            self._local.begin_round()
