"""What a driver needs of a framework: learning rates, losses, and a state that can be put back.

A `Backend` holds one training run. The training loop is the user's: it makes the updates. A driver
(`lrpilot.run.driver`) carries out directives around them, and calls the backend in this order. What stands in brackets
is not always called:

```text
made ──▶ between two directives ◀─────────────────────── flush ───────────────────────┐
          │                                                                           │
          ├─ [restore] [take] begin set_lr [validate] ──▶ within a directive ─────────┤
          │                                                ▲                          │
          │                                                └─ the loop's update, append,
          │                                                   [diverged] [validate] [set_lr]
          └─ finish ──▶ over ─ close ──▶ closed
```

`restore` is only called after `take`, and `validate` only where there is a validation. `take_round`, in a federation,
comes right after `restore`. `lrs`, `peek` and `state_dict`
may be called at any time until the end, and change nothing. `load_state_dict` is called before the first update of a
run that goes on from a checkpoint, and `begin` with the losses that were not yet reported follows it. `finish` and
`close` may come at any time, and again.

What these calls promise is tested for every framework by tests/contract/test_backend.py. How to add one is told in
docs/extending/bring-a-framework.md.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrpilot.errors import ConfigError

if TYPE_CHECKING:
    from lrpilot.backends.weight_average import WeightAverage

HOST_NOISE = 1e-5
"""The loss noise of a CPU: its kernels add in an order that may depend on where an array lies."""
DEVICE_NOISE = 2e-3
"""The loss noise of a GPU: its kernels may add in any order, in half precision too."""


class Backend(abc.ABC):
    """One training run in a framework's hands.

    LRs are those of the framework's optimizers, and all are at least 0. A group is what has an LR of its own. A loss is
    that of one update, rounded to float32, because that is what goes over the wire.
    """

    # What the run is like.

    @property
    @abc.abstractmethod
    def base_lrs(self) -> list[float]:
        """The LR of every group as the user set it; the same throughout the run.

        The first one is above 0. It is what is tuned; the others keep their ratio to it.
        """

    @property
    @abc.abstractmethod
    def has_validation(self) -> bool:
        """Whether `validate` can be asked for a loss; the same throughout the run."""

    @property
    def loss_noise(self) -> float:
        """The relative difference that rounding makes between two evaluations of one loss, at most.

        Two probes of a search whose first losses differ by more did not begin alike: something was not put back, and
        the search ends.
        """
        return HOST_NOISE

    @property
    def loss_precedes_updates(self) -> bool:
        """Whether the loss of a step is computed before all of its updates, so that it does not depend on its LR.

        The first losses of probes are only compared if it is.
        """
        return True

    @property
    def first_updates(self) -> Sequence[float]:
        """By how much the updates 1, 2, 4, 8, ... of a fresh optimizer of this kind move a weight, in units of the LR.

        The weight's gradient is always one. Empty: not known. A search by few steps from fresh state makes up for them.
        """
        return ()

    @property
    def steps_between_looks(self) -> int:
        """After how many steps `diverged` is asked at the earliest; the same throughout the run.

        More than one where a look costs a step something, as one that ranks meet for. A short probe then goes on for
        so many steps less one, at most, after a divergence could have been seen.
        """
        return 1

    def suspects(self) -> list[str]:
        """Names of what the training may change and `restore` can't put back, as the user knows it; may be empty.

        They are named to the user where the first losses of probes differ.
        """
        return []

    # LRs and state.

    @abc.abstractmethod
    def lrs(self) -> list[float]:
        """The LR of every group, now, in the order of `base_lrs`. May wait for the device."""

    @abc.abstractmethod
    def set_lr(self, lr: float) -> None:
        """Gives the first group this LR, and every other one its share of it, for the updates that come.

        It is called between updates, often after every one of them, so it should wait for no device. An LR of 0 is
        allowed, and the ratios survive it.
        """

    def scale_betas(self, batch_factor: float, *, only_check: bool = False) -> None:
        """Scales Adam's betas and eps to a batch `batch_factor` times as large (`lrpilot.schedules.scaled_adam`).

        It is called between updates, before a snapshot is taken. They are part of what `take` remembers.

        Args:
            batch_factor: the new batch size over the old one.
            only_check: nothing is scaled; what could not be is refused all the same.

        Raises:
            ConfigError: the optimizer has none, or they can't be scaled so far.
        """
        raise ConfigError("scale_betas: the betas of this framework's optimizers can't be scaled; leave it out")

    @abc.abstractmethod
    def take(self, data: Sequence[object] = ()) -> None:
        """Remembers the present in memory: the snapshot, which takes the place of the one before.

        The present is all that an update changes (weights, statistics, the optimizer's state, LRs) and the global
        random state (`lrpilot.rng.RandomState`). The position in the data is not the backend's business.

        Args:
            data: objects of the data loader that the loop may change, such as a sampler's weights. They are restored
                with a probe, and stay as they are when committed steps are rolled back, because these go on in the
                data. A backend that can't follow arbitrary objects leaves them alone.

        Raises:
            Exception: what the framework raises where there is no room. The snapshot before should then still be there.
        """

    @abc.abstractmethod
    def restore(self, *, committed: bool = False) -> None:
        """Goes back to the snapshot, as often as one likes, bit for bit. LRs go back too.

        Args:
            committed: whether the steps that are rolled back were to stay, so that a change of structure that the loop
                made in them (a layer unfrozen, a group added) will not be made again and has to survive.

        Raises:
            RuntimeError: nothing was taken, or something can't be put back; all else is.
        """

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any] | None:
        """The snapshot for a checkpoint, as plain values and arrays; None if there is nothing to remember.

        It does not hold the present: model and optimizer are the user's to save.
        """

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remembers the snapshot that another backend's `state_dict` gave. The present stays as it is.

        Raises:
            ConfigError: the state is of another model or another optimizer.
        """

    def hold_apart(self, apart: bool) -> None:  # noqa: B027 - most have one replica
        """Has this replica of a model updated by itself from now on, or all replicas alike again.

        Apart, an update skipped for a loss that is no number counts like any other (`append`), since it may be skipped
        on one replica alone. A backend is asked for this only where it was made for it.
        """

    def trained(self) -> Any:
        """What this replica trains, as it is: weights, statistics and the optimizer's state. See `hold_apart`."""
        return None

    def load_trained(self, state: Any) -> None:  # noqa: B027 - most have one replica
        """Has this replica train what another one's `trained` gave."""

    # Validation.

    @abc.abstractmethod
    def validate(self) -> float | None:
        """The validation loss, and no trace of having asked; None if it is not finite, or the user's function raised.

        No trace: modes, metrics and random state are as before, also where the function raised.
        """

    # Losses.

    @abc.abstractmethod
    def begin(self, n_steps: int, limit: float = math.inf, earlier: Iterable[float] = ()) -> None:
        """Begins to collect the losses of a directive, and forgets those of the one before.

        Args:
            n_steps: how many losses come between two calls of `flush`, at most, in steps.
            limit: losses above it, so many in a row as `lrpilot.wire.divergence` says, are a divergence.
            earlier: losses of this directive from before a checkpoint. They come first in `peek` and `flush`, and count
                in a row above the limit, but show no divergence by themselves.
        """

    @abc.abstractmethod
    def append(self, loss: Any) -> bool:
        """Adds the loss of the update that was just made, with no device synchronisation.

        Args:
            loss: a scalar of the framework or an array of one element, on its device, or a number. It may be NaN or
                infinite.

        Returns:
            Whether there was an update. Where the framework skipped it the loss is not added, and no step is counted.

        Raises:
            ValueError: the loss is not one number; nothing is added.
        """

    @abc.abstractmethod
    def diverged(self) -> bool:
        """Whether a divergence has been seen since `begin` or `flush`; the losses stay.

        A divergence is a loss that is not finite, or several in a row above the limit (`lrpilot.wire.divergence`). So
        as not to wait for a device, the answer may be for the losses before the previous call.
        """

    def forget_skipped(self) -> list[int]:
        """Takes steps out of losses and measures that were none, since the device itself has skipped their updates.

        Returns:
            Which they were, counted from the first of the losses that `peek` gives. May wait for the device.
        """
        return []

    def settled(self) -> list[float]:
        """The losses as `peek` gives them, but for the last ones where a device would be waited for.

        How many they are depends on the steps, and on those at which this or `diverged` was called, and on nothing
        else: ranks that call it alike have as many.
        """
        return self.peek()

    @abc.abstractmethod
    def peek(self) -> list[float]:
        """The losses since `begin` or `flush`, oldest first, rounded to float32. May wait for the device."""

    @abc.abstractmethod
    def flush(self) -> list[float]:
        """The losses as `peek` gives them, which are then forgotten; what was seen of a divergence is too."""

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be measured at every step besides the loss, by the names that policies ask for.

        Over several ranks their quadratic mean is taken, as is right for norms, or the mean or the maximum, where
        `lrpilot.backends.measures` lists them as sums or as maxima. A rank that holds a part of something gives the
        value that the whole would have if the others' parts were like its own.
        """
        return ()

    def measure(self, n_steps: int, earlier: Mapping[str, Sequence[float]]) -> None:  # noqa: B027 - most can't
        """From now on takes some measures, and no others, at every step whose loss is added.

        Args:
            n_steps: how many steps come between two calls of `flush_measures`.
            earlier: the measures, by name, each with its values for the losses that `begin` was given.
        """

    def peek_measures(self) -> dict[str, list[float]]:
        """The values since `measure` or `flush_measures` by name, oldest first; what can't be measured is missing."""
        return {}

    def flush_measures(self, n_steps: int) -> dict[str, list[float]]:
        """The measures as `peek_measures` gives them, of the last `n_steps` steps, which are then forgotten.

        A step without a value has NaN.
        """
        return {}

    def take_round(self, factor: float, momentum: float) -> None:  # noqa: B027 - most are in no federation
        """Takes the last global update of a federation on: called between `restore` and `take`, where that is due.

        Args:
            factor: of the global update.
            momentum: of the sum of those before it (`RoundStep` of the proto).
        """

    # The end.

    @property
    def average(self) -> WeightAverage | None:
        """An average of the weights, to end with; None: the backend can keep none. The same throughout the run."""
        return None

    def finish(self) -> None:  # noqa: B027 - most have nothing to do
        """The budget is spent: no update will follow that is the tuner's, unless `begin` is called. May be repeated."""

    @abc.abstractmethod
    def close(self) -> None:
        """Lets go of snapshot and average, and of whatever watches the run, which stays as it is. May be repeated."""
