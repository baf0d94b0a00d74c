"""PyTorch: a module and its optimizers."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

import torch
from torch import nn

from lrpilot.backends.base import DEVICE_NOISE, HOST_NOISE, Backend
from lrpilot.backends.torch.asynchronous import runs_ahead
from lrpilot.backends.torch.betas import scale_betas
from lrpilot.backends.torch.evaluation_mode import evaluating, has_modes
from lrpilot.backends.torch.first_updates import first_updates
from lrpilot.backends.torch.group_lrs import GroupLrs
from lrpilot.backends.torch.losses import AHEAD, LossBuffer
from lrpilot.backends.torch.measures.collector import MeasureCollector
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.backends.torch.rollback.state_paths import stuck_paths
from lrpilot.backends.torch.updates import Updates
from lrpilot.backends.torch.weight_average import TorchWeightAverage
from lrpilot.backends.validator import Validator

if TYPE_CHECKING:
    from lrpilot.backends.torch.communication import Joining
    from lrpilot.backends.torch.replicas import Replicas


class TorchBackend(Backend):
    """A model, the optimizers that are stepped together, and whatever else changes as it trains."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        validate: Callable[[], SupportsFloat] | None,
        register: Mapping[str, Any],
        placement: str | os.PathLike[str] = "auto",
        replicas: Replicas | None = None,
        logits: Sequence[nn.Module] = (),
        joining: Joining | None = None,
    ) -> None:
        """Has the run watched.

        Args:
            model: what is trained.
            optimizers: that are stepped together.
            validate: gives the validation loss; None: there is none.
            register: what else changes, by name.
            placement: where the snapshot lives.
            replicas: of the model, if the ranks may update them apart.
            logits: the model's modules whose outputs are logits, if they are to be measured.
            joining: whether ranks may end at different steps; None: this process trains alone.

        Raises:
            ConfigError: no LR to tune, no room for the snapshot, or `validate` does not work.
        """
        self._replicas = replicas
        self._joining = joining
        self._apart = False
        self._groups = GroupLrs(optimizers)
        self._optimizers = optimizers
        self._single = len(optimizers) == 1
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._on_device = any(runs_ahead(each.device) for group in groups for each in group["params"])
        self._snapshot = Snapshot(model, optimizers, register, placement)
        self._losses = LossBuffer()
        unchanged = functools.partial(evaluating, self._snapshot, optimizers)
        self._validator = Validator(validate, unchanged) if validate is not None else None
        scaled = any(isinstance(each, torch.amp.GradScaler) for each in register.values())
        self._updates = Updates(optimizers, scaled=scaled)
        self._collector = MeasureCollector(optimizers, logits)
        self._measures = False
        modules = [model, *(each for each in register.values() if isinstance(each, nn.Module))]
        self._average = None if any(map(has_modes, optimizers)) else TorchWeightAverage(modules, optimizers)
        # Of several ranks one alone may see such a loss, and all must count alike.
        self._skips = scaled or _has_ranks()

    @property
    def base_lrs(self) -> list[float]:
        """The LRs of all groups of all optimizers, in order."""
        return self._groups.base_lrs

    @property
    def has_validation(self) -> bool:
        """Whether the user gave a function."""
        return self._validator is not None

    @property
    def loss_noise(self) -> float:
        """How far two losses of the same step may differ, by the device that the losses are on."""
        return HOST_NOISE if self._losses.device.type == "cpu" else DEVICE_NOISE

    @property
    def loss_precedes_updates(self) -> bool:
        """False with several optimizers: one loss may be from after another's update, as a generator's is."""
        return self._single

    @property
    def steps_between_looks(self) -> int:
        """As many as answers are old, on a device: each look has it make copies."""
        return AHEAD if self._on_device else 1

    @property
    def first_updates(self) -> tuple[float, ...]:
        """Those of the optimizer; none where there are several."""
        return first_updates(self._optimizers[0]) if self._single else ()

    def suspects(self) -> list[str]:
        """Iterators and objects of C extensions that model, optimizers and registered objects refer to."""
        with self._collector.unhooked():
            return stuck_paths(self._snapshot.roots)

    def lrs(self) -> list[float]:
        """The LRs of all groups of all optimizers, in order."""
        return self._groups.get()

    def set_lr(self, lr: float) -> None:
        """Sets all LRs, in place where an LR is a tensor."""
        self._groups.set(lr)

    def scale_betas(self, batch_factor: float, *, only_check: bool = False) -> None:
        """Scales those of all groups that have them."""
        scale_betas(self._optimizers, batch_factor, only_check=only_check)

    def take(self, data: Sequence[object] = ()) -> None:
        """See `Snapshot.take`."""
        with self._collector.unhooked():
            self._snapshot.take(data)

    def restore(self, *, committed: bool = False) -> None:
        """See `Snapshot.restore`."""
        with self._collector.unhooked():
            self._snapshot.restore(committed=committed)
        self._collector.part()

    def hold_apart(self, apart: bool) -> None:
        """See `Replicas.hold_apart`."""
        assert self._replicas is not None
        self._replicas.hold_apart(apart)
        self._apart = apart

    def trained(self) -> Any:
        """See `Replicas.state_dict`."""
        return None if self._replicas is None else self._replicas.state_dict()

    def load_trained(self, state: Any) -> None:
        """See `Replicas.load_state_dict`."""
        assert self._replicas is not None
        self._replicas.load_state_dict(state)

    def validate(self) -> float | None:
        """The user's function, called so that training doesn't notice, and no measure does."""
        assert self._validator is not None
        with self._collector.unhooked():
            return self._validator.loss()

    def begin(self, n_steps: int, limit: float = math.inf, earlier: Iterable[float] = ()) -> None:
        """See `LossBuffer.begin`. After `finish` it watches the optimizers again."""
        self._updates.watch()
        self._losses.begin(n_steps, limit, earlier)

    def append(self, loss: torch.Tensor | SupportsFloat) -> bool:
        """Keeps the loss on its device; false if there was no update, as where a GradScaler skips one.

        A loop that leaves out updates whose loss is not finite has its step counted, so that its probe diverges.

        Raises:
            ConfigError: the loop is within DDP's `join`, so that ranks may end at different steps.
        """
        if self._joining is not None:
            self._joining.refuse()
        alone = self._apart or not self._skips
        if not self._updates.took_place() and not (alone and not _is_finite(loss)):
            self._updates.say_idle()
            self._collector.skip()
            return False
        self._losses.append(loss, self._updates.overflow)
        if self._measures:
            self._collector.append()
        if self._average is not None:
            self._average.count()
        return True

    def diverged(self) -> bool:
        """See `LossBuffer.check`."""
        return self._losses.check()

    def forget_skipped(self) -> list[int]:
        """See `LossBuffer.forget_skipped`."""
        skipped = self._losses.forget_skipped()
        self._collector.forget(skipped)
        return skipped

    def settled(self) -> list[float]:
        """See `LossBuffer.settled`."""
        return self._losses.settled()

    def peek(self) -> list[float]:
        """Synchronises once."""
        return self._losses.peek()

    def flush(self) -> list[float]:
        """Synchronises once."""
        return self._losses.flush()

    @property
    def measures(self) -> tuple[str, ...]:
        """What `lrpilot.backends.measures` lists, as far as the optimizers have it, and logits if there are any."""
        return self._collector.names

    def measure(self, n_steps: int, earlier: Mapping[str, Sequence[float]]) -> None:
        """See `MeasureCollector.begin`."""
        self._measures = bool(earlier)
        if self._measures:
            self._collector.begin(n_steps, earlier)
        else:
            self._collector.end()

    def peek_measures(self) -> dict[str, list[float]]:
        """Synchronises once."""
        return self._collector.peek()

    def flush_measures(self, n_steps: int) -> dict[str, list[float]]:
        """Synchronises once."""
        return self._collector.flush(n_steps)

    def state_dict(self) -> dict[str, Any] | None:
        """The snapshot (`Snapshot.state_dict`), and the groups' LRs, which are there before the first one."""
        with self._collector.unhooked():
            return {"snapshot": self._snapshot.state_dict(), "groups": self._groups.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Snapshot.load_state_dict`."""
        self._groups.load_state_dict(state["groups"])
        with self._collector.unhooked():
            self._snapshot.load_state_dict(state["snapshot"])

    @property
    def average(self) -> TorchWeightAverage | None:
        """An average of what is trained; None: an optimizer trains at other weights than it evaluates, by itself."""
        return self._average

    def finish(self) -> None:
        """Watches the optimizers no longer, unless the run goes on."""
        self._collector.end()
        self._updates.pause()

    def close(self) -> None:
        """The snapshot goes with its last user."""
        self.finish()
        if self._average is not None:
            self._average.end()
        self._updates.close()


def _is_finite(loss: torch.Tensor | SupportsFloat) -> bool:
    """Whether a loss is a number; waits for the device."""
    return bool(loss.isfinite().all()) if isinstance(loss, torch.Tensor) else math.isfinite(loss)


def _has_ranks() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
