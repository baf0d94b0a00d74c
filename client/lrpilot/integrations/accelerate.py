"""Hugging Face Accelerate: a tuner for a loop of your own over prepared objects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat, Unpack

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from lrpilot.errors import ConfigError
from lrpilot.run.explicit_options import with_explicit_options
from lrpilot.run.options import JobOptions
from lrpilot.tuner import Tuner

log = logging.getLogger("lrpilot")


@with_explicit_options
def tuner(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    validate: Callable[[], SupportsFloat] | None = None,
    register: Mapping[str, Any] | None = None,
    logits: nn.Module | Sequence[nn.Module] | None = None,
    **job: Unpack[JobOptions],
) -> Tuner:
    """A tuner that rolls the accelerator's GradScaler back too, and is in `accelerator.save_state` and `load_state`.

    Call `step(loss)` after every `optimizer.step()` that steps: under `accelerator.accumulate`, if
    `accelerator.sync_gradients`. To go on from a state that was saved without a tuner, load it first, and make a tuner
    of the steps that are left. A tuner that has ended is no longer in what the accelerator saves.

    Args:
        accelerator: in one process.
        model: as `accelerator.prepare` gave it.
        optimizer: as `accelerator.prepare` gave it.
        validate: see `lrpilot.Tuner`.
        register: see `lrpilot.Tuner`.
        logits: see `lrpilot.Tuner`.
        **job: see `lrpilot.Tuner`.

    Raises:
        ConfigError: an argument can't be accepted; there are several processes; or gradients are accumulated and
            synchronised at the end of the data, which a replayed batch does not have.
        RefusedError: the server finds fault with an argument, which the message names; or with `strict` it refuses.
        UnavailableError: the server isn't there, and `strict` is set.
    """
    if accelerator.num_processes > 1:
        raise ConfigError("accelerator: it has several processes; a tuner works in one")
    if accelerator.gradient_accumulation_steps > 1 and accelerator.gradient_state.sync_with_dataloader:
        raise ConfigError(
            "accelerator: pass gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=..., "
            "sync_with_dataloader=False); a probe replays batches and can't tell the end of the data"
        )
    _warn_of_schedulers(accelerator, optimizer)
    registered = with_scaler(accelerator, register or {})
    made = Tuner(model, unwrapped(optimizer), validate=validate, register=registered, logits=logits, **job)
    saved = accelerator._custom_objects
    saved[:] = [each for each in saved if not (isinstance(each, Tuner) and (each.finished or each.closed))]
    accelerator.register_for_checkpointing(made)
    return made


def unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer that makes the steps: Accelerate's wrapper has no step hooks."""
    if isinstance(optimizer, AcceleratedOptimizer):
        inner: torch.optim.Optimizer = optimizer.optimizer
        return inner
    return optimizer


def with_scaler(accelerator: Accelerator, register: Mapping[str, Any]) -> dict[str, Any]:
    """What is rolled back besides model and optimizer: the accelerator's GradScaler too, if it has one."""
    scaler = accelerator.scaler
    return {**register} if scaler is None else {**register, "accelerator.scaler": scaler}


def _warn_of_schedulers(accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> None:
    """Says that a prepared scheduler is one of this optimizer."""
    for scheduler in accelerator._schedulers:
        if unwrapped(optimizer) in map(unwrapped, getattr(scheduler, "optimizers", ())):
            log.warning(
                "lrpilot: the accelerator has prepared a %s for the optimizer, and the LR is the tuner's: leave out "
                "its step()",
                type(getattr(scheduler, "scheduler", scheduler)).__name__,
            )
