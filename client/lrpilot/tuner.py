"""The hook in a PyTorch training loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat, Unpack

import torch
from torch import nn

from lrpilot.backends.torch.arguments import checked, checked_group, checked_logits, checked_register, own
from lrpilot.backends.torch.backend import TorchBackend
from lrpilot.backends.validator import minimised
from lrpilot.distributed.ranks import Ranks, number_of, say_if_alone
from lrpilot.run.argument_check import checked as checked_arguments
from lrpilot.run.driver import Driver
from lrpilot.run.explicit_options import with_explicit_options
from lrpilot.run.options import TIMEOUT_S, JobOptions
from lrpilot.session.session import MOST_WAITS
from lrpilot.transport.embedded_server import START_TIMEOUT_S

if TYPE_CHECKING:  # Builds of PyTorch without torch.distributed have no such name.
    from torch.distributed import ProcessGroup


class Tuner(Driver):
    """Tunes the learning rate of a training loop.

    Draw batches from `batches()` and call `step(loss)` after every `optimizer.step()`. Between two reports it works
    alone: no network, no device synchronisation.
    """

    @with_explicit_options
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        validate: Callable[[], SupportsFloat] | None = None,
        register: Mapping[str, Any] | None = None,
        snapshot: str | os.PathLike[str] = "auto",
        process_group: ProcessGroup | None = None,
        population: bool = False,
        logits: nn.Module | Sequence[nn.Module] | None = None,
        **job: Unpack[JobOptions],
    ) -> None:
        """Opens a job and sets the LR of the first step.

        Args:
            model: what is trained.
            optimizer: one, or several that are stepped together. Their LRs are the base: what is tuned is that of the
                first group of the first one; all others keep their ratios to it.
            validate: gives the validation loss, or with `mode="max"` a metric that is the better the higher it is;
                called seldom, and once at once, to see that it works. It may use random numbers and switch the model to
                evaluation: both are put back.
            register: what else changes as the model trains, and can't be reached from model and optimizer: a
                GradScaler, an average of the weights, a metric, a generator of random numbers, a dict or a
                `types.SimpleNamespace` of the loop's own variables.
            snapshot: where the rollback state lives: "device", "host" (pinned for CUDA), "disk", a directory on it, or
                "auto": the first of these that has room. The choice and the size are logged.
            process_group: the ranks that train this model together; None: all there are, if `torch.distributed` is
                initialised. Every rank makes its tuner with the same arguments; see docs/training-loops/distributed.md.
            population: whether the ranks try different candidates at the same time, each on a rank's batches, so that a
                search takes less time; for DistributedDataParallel. See docs/training-loops/distributed.md.
            logits: the module of the model whose output is the logits (its last layer, or attention scores), or several
                of them. Their size can then be measured, as the early warning "output_logit" asks for. See
                docs/methods/stability.md.
            **job: server, credentials, total_steps, epochs, steps_per_epoch, total_time_s, stop_when, mode, lr_bounds,
                policy, policy_options, name, family, seed, record, timeout_s, strict, adopt, observers, progress,
                transport; see `lrpilot.run.options.JobOptions`.

        Raises:
            ConfigError: an argument can't be accepted.
            RefusedError: the server finds fault with an argument, which the message names; or with `strict` it refuses.
            UnavailableError: the server isn't there, and `strict` is set.
        """
        optimizers = checked(model, optimizer)
        with_logits = checked_logits(model, logits)
        registered = checked_register(register)
        n_ranks = number_of(checked_group(process_group))
        replicas = joining = None
        if number_of(None) > 1:
            from lrpilot.backends.torch.communication import Joining, kept_by_communication, refuse_other_ranks

            if process_group is None:
                refuse_other_ranks(model, n_ranks)
            registered = {**kept_by_communication(model, optimizers), **registered}
            joining = Joining(model, optimizers)
        say_if_alone()
        if population and n_ranks > 1:
            from lrpilot.backends.torch.replicas import Replicas

            replicas = Replicas(model, optimizers, registered, n_ranks)
        backend = TorchBackend(
            model,
            optimizers,
            minimised(validate, job.get("mode")),
            registered,
            snapshot,
            replicas,
            with_logits,
            joining,
        )
        # The longest that rank 0 waits for its server, and the other ranks for rank 0.
        timeout_s = checked_arguments(timeout_s=job.get("timeout_s", TIMEOUT_S))["timeout_s"]
        patience_s = START_TIMEOUT_S + MOST_WAITS * timeout_s
        super().__init__(backend, ranks=Ranks.of(process_group, patience_s), population=population, **job)
        own(optimizers, self)
