"""Hugging Face Accelerate: a tuner for a loop of your own over prepared objects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat, Unpack

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import nn

from lrpilot.errors import ConfigError
from lrpilot.integrations import rank_files
from lrpilot.run.explicit_options import with_explicit_options
from lrpilot.run.options import JobOptions
from lrpilot.tuner import Tuner

log = logging.getLogger("lrpilot")

_OTHER_KINDS = {
    DistributedType.DEEPSPEED: "what DeepSpeed trains, whose engine keeps weights and optimizer to itself,",
    DistributedType.MEGATRON_LM: "what Megatron-LM trains, whose engine keeps weights and optimizer to itself,",
    DistributedType.XLA: "what PyTorch/XLA trains, whose tensors are not in memory until a step is run,",
}


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

    In several processes (DDP, FSDP2) call it on every one of them, with the same arguments, and give `step` the
    process's own loss.

    Args:
        accelerator: that of the training.
        model: as `accelerator.prepare` gave it.
        optimizer: as `accelerator.prepare` gave it.
        validate: see `lrpilot.Tuner`.
        register: see `lrpilot.Tuner`.
        logits: see `lrpilot.Tuner`.
        **job: see `lrpilot.Tuner`.

    Raises:
        ConfigError: an argument can't be accepted; the processes share the training in another way than DDP and FSDP2;
            or gradients are accumulated and synchronised at the end of the data, which a replayed batch does not have.
        RefusedError: the server finds fault with an argument, which the message names; or with `strict` it refuses.
        UnavailableError: the server isn't there, and `strict` is set.
    """
    refuse_other_parallelism(accelerator)
    if accelerator.num_processes > 1 and not accelerator.even_batches:
        raise ConfigError(
            "accelerator: with even_batches=False an epoch has more batches on some processes than on others, and all "
            "must make the same steps; leave it True, or let the DataLoader drop_last"
        )
    if accelerator.gradient_accumulation_steps > 1 and accelerator.gradient_state.sync_with_dataloader:
        raise ConfigError(
            "accelerator: pass gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=..., "
            "sync_with_dataloader=False); a probe replays batches and can't tell the end of the data"
        )
    _warn_of_schedulers(accelerator, optimizer)
    registered = with_scaler(accelerator, register or {})
    made = Tuner(model, unwrapped(optimizer), validate=validate, register=registered, logits=logits, **job)
    saved = accelerator._custom_objects
    saved[:] = [each for each in saved if not _has_ended(each)]
    accelerator.register_for_checkpointing(made if accelerator.num_processes == 1 else _Ranked(made, accelerator))
    return made


def refuse_other_parallelism(accelerator: Accelerator) -> None:
    """Refuses what a rank's snapshot and a mean over the ranks are not enough for.

    Raises:
        ConfigError: the processes are neither replicas (DDP) nor sharded by FSDP2.
    """
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ConfigError("accelerator: FSDP1 keeps parameters in flat tensors of its own; set fsdp_version=2")
    if kind in _OTHER_KINDS:
        raise ConfigError(f"accelerator: {_OTHER_KINDS[kind]} can't be tuned; use DDP, or FSDP with fsdp_version=2")
    parallelism = getattr(accelerator, "parallelism_config", None)
    for name in ("tp", "cp", "sp"):
        if getattr(parallelism, f"{name}_enabled", False):
            raise ConfigError(
                f"accelerator: {name}_size of the parallelism_config must be 1 for a tuner; use dp_replicate_size and "
                "dp_shard_size (DDP, FSDP2)"
            )


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


class _Ranked:
    """The tuner of one of several processes, as the accelerator saves and loads it: in a file of each process.

    Accelerate writes a registered object of the first process alone, and tells it no directory; its hooks do.
    """

    def __init__(self, tuner: Tuner, accelerator: Accelerator) -> None:
        """Has the accelerator tell where it saves and loads."""
        self.tuner = tuner
        self._rank, self._size = accelerator.process_index, accelerator.num_processes
        self._directory = ""
        accelerator.register_save_state_pre_hook(lambda models, weights, directory: self._note(directory))
        accelerator.register_load_state_pre_hook(lambda models, directory: self._note(directory))

    def state_dict(self) -> dict[str, Any]:
        """Writes this process's file; what Accelerate keeps is how many there are."""
        rank_files.write(self._directory, self._rank, self._size, self.tuner.state_dict())
        return {"processes": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Reads this process's file. Raises: ConfigError: it was saved by another number of processes."""
        if state.get("processes") != self._size:
            raise ConfigError(
                f"accelerator: the state was saved by {state.get('processes', 1)} processes, and these are "
                f"{self._size}; go on with as many"
            )
        own = rank_files.read(self._directory, self._rank, self._size)
        assert own is not None
        self.tuner.load_state_dict(own)

    def _note(self, directory: str) -> None:
        self._directory = directory


def _has_ended(registered: object) -> bool:
    """Whether this is a tuner that is of no use any more."""
    tuner = registered.tuner if isinstance(registered, _Ranked) else registered
    return isinstance(tuner, Tuner) and (tuner.finished or tuner.closed)
