"""The hook in a PyTorch training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import SupportsFloat, Unpack

import torch
from torch import nn

from lrpilot.backends.torch_backend import TorchBackend
from lrpilot.driver import Driver, JobOptions
from lrpilot.snapshot import Stateful


class Tuner(Driver):
    """Tunes the learning rate of a training loop.

    Draw batches from `batches()` and call `step(loss)` after every `optimizer.step()`. Between two reports it works
    alone: no network, no device synchronisation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        validate: Callable[[], SupportsFloat] | None = None,
        register: Mapping[str, Stateful] | None = None,
        **job: Unpack[JobOptions],
    ) -> None:
        """Opens a job and sets the LR of the first step.

        Args:
            model: what is trained.
            optimizer: one, or several that are stepped together. Their LRs are the base: what is tuned is that of the
                first group of the first one; all others keep their ratios to it.
            validate: gives the validation loss; called seldom, and once at once, to see that it works. It may use
                random numbers and switch the model to evaluation: both are put back.
            register: what else changes as the model trains: a GradScaler, an average of the weights, a scheduler.
            **job: server, total_steps, lr_bounds, policy, policy_options, name, family, seed, timeout_s, strict,
                observers, transport; see `lrpilot.driver.Driver`.

        Raises:
            ConfigError: an argument can't be accepted.
            RefusedError: the server doesn't accept the job; the message names the field.
            UnavailableError: the server isn't there, and `strict` is set.
        """
        optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        super().__init__(TorchBackend(model, optimizers, validate, dict(register or {})), **job)
