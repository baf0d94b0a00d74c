"""Mechanic, which learns a factor on the updates of any optimizer under any schedule."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.quality.vectors import gradients, norm

_BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
_EPS = 1e-8
_FIRST_LARGEST = 1e-6


class Mechanic:
    """Scales the summed updates of an optimizer (Cutkosky, Defazio & Mehta 2023, arXiv 2306.00144, algorithm 1).

    Notation: delta, the sum of the optimizer's own updates; s, the factors of six learners, one a decay rate. The
    weights are reference + sum(s) * delta. Constants, and what the paper leaves open, are those of the authors'
    package `mechanic-pytorch` 0.0.1.
    """

    def __init__(self, optimizer: Optimizer, *, s_init: float = 1e-8, s_decay: float = 0.01) -> None:
        """Acts at every step of `optimizer` from now on.

        Args:
            optimizer: Of any kind; its LR may follow a schedule.
            s_init: The factor that all learners together begin with.
            s_decay: Pull of the weights towards the reference.
        """
        self._parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self._reference = [parameter.detach().clone() for parameter in self._parameters]
        self._delta = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._before = self._reference
        self._s_init = s_init
        self._s_decay = s_decay
        self._betas = torch.tensor(_BETAS)
        self._s = torch.zeros(len(_BETAS))
        self._largest = torch.full_like(self._s, _FIRST_LARGEST)
        self._squares = torch.zeros_like(self._s)
        self._reward = torch.zeros_like(self._s)
        optimizer.register_step_pre_hook(lambda *_: self._remember())
        optimizer.register_step_post_hook(lambda *_: self._rescale())

    @property
    def factor(self) -> float:
        """The factor on the optimizer's updates."""
        return float(self._s.sum())

    def _remember(self) -> None:
        self._before = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def _rescale(self) -> None:
        self._learn(self._gain())
        factor = self.factor
        for parameter, before, delta, reference in zip(
            self._parameters, self._before, self._delta, self._reference, strict=True
        ):
            delta.add_(parameter - before)
            parameter.copy_(reference + factor * delta)

    def _gain(self) -> float:
        """The inner product of delta and the gradient, with the decay's part (h in the paper)."""
        slopes = gradients(self._parameters)
        decay = self._s_decay * self.factor * norm(slopes) / (norm(self._parameters) + _EPS)
        return sum(
            float(torch.sum(delta * (slope + decay * parameter)))
            for delta, slope, parameter in zip(self._delta, slopes, self._parameters, strict=True)
        )

    def _learn(self, gain: float) -> None:
        self._largest = torch.maximum(self._betas * self._largest, torch.full_like(self._largest, abs(gain)))
        self._squares = self._betas**2 * self._squares + gain**2
        self._reward = (self._betas * self._reward - self._s * gain).clamp(min=0)
        wealth = self._largest * self._s_init / len(_BETAS) + self._reward
        self._s = wealth / (self._squares.sqrt() + _EPS)
