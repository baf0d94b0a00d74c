"""The uniform mean of a probe's weights, judged without disturbing the probe."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from benchmarks.quality.workloads import Batch, Session

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class MeanOfWeights:
    """A running mean of the weights of a session's model; it holds a copy of them, and the batches that it has seen."""

    def __init__(self, session: Session) -> None:
        """Nothing is averaged yet."""
        self._session = session
        self._model = copy.deepcopy(session.model)
        self._batches: list[Batch] = []

    def add(self, batch: Batch) -> None:
        """Takes in the weights as they are after a step on `batch`."""
        self._batches.append(batch)
        with torch.no_grad():
            for mean, value in zip(self._model.parameters(), self._session.model.parameters(), strict=True):
                mean.lerp_(value, 1 / len(self._batches))

    def validate(self) -> float:
        """The mean's validation loss; batch normalisation has the statistics of the batches seen."""
        norms = [module for module in self._model.modules() if isinstance(module, _NORMS)]
        session = replace(self._session, model=self._model)
        if norms:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative mean
            self._model.train()
            with torch.no_grad():
                for batch in self._batches:
                    session.loss(batch)
        return session.validate()
