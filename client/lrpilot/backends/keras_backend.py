"""Keras 3: a compiled model, inside and outside of `fit`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsFloat

import keras

# Where Keras keeps the seeds of `keras.random`; there is no public way to them.
from keras.src.backend.common import global_state

from lrpilot.backends.host_backend import HostBackend
from lrpilot.backends.validator import Validator
from lrpilot.errors import ConfigError
from lrpilot.rng import RandomState

LR_TOLERANCE = 1e-6
"""The relative difference below which two LRs are one: Keras keeps float32."""

log = logging.getLogger("lrpilot")


class LossTracker(keras.metrics.Mean):  # type: ignore[misc]  # Keras' types are not read
    """Keras' running mean of the loss, that also knows the last loss.

    It is updated inside the compiled step; the mean alone would give the loss of a batch only up to rounding.
    """

    def __init__(self) -> None:
        super().__init__(name="loss")
        self.last = self.add_variable(
            shape=(), initializer=keras.initializers.Constant(-math.inf), dtype=self.dtype, name="last"
        )

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Adds the loss of a batch."""
        super().update_state(values, sample_weight)
        self.last.assign(keras.ops.mean(values))


class KerasBackend(HostBackend):
    """The variables of a model and its optimizer, and the random state.

    During `fit` on JAX the values are not in the variables: the loop keeps them to itself, lets look at them in
    `model._jax_state`, and has the compiled step donate them. Whoever sets a variable must have the loop put its values
    into the variables first, and it takes them from there for its next step.
    """

    def __init__(self, model: Any, validate: Callable[[], SupportsFloat] | None) -> None:
        """Raises: ConfigError: the model can't be tuned, or `validate` does not work."""
        self._model = model
        self._optimizer = _tunable(model)
        self._lr = self._optimizer.learning_rate
        self._lr_place = _place(self._lr, self._optimizer.variables)
        self._memory = _MEMORIES.setdefault(self._optimizer, _Memory())
        self._base_lr = self._memory.base_of(self.lrs()[0])
        if not (math.isfinite(self._base_lr) and self._base_lr > 0):
            raise ConfigError(f"optimizer: its learning rate must be positive, not {self._base_lr}")
        if not isinstance(model._loss_tracker, LossTracker):
            # Past Keras' own tracking of attributes, which would list it as one more metric of the user's.
            object.__setattr__(model, "_loss_tracker", LossTracker())
            model.make_train_function(force=True)
        self._tracker = model._loss_tracker
        self._loss_place = _place(self._tracker.last, model.metrics_variables)
        self._seen_a_loss = False
        self._taken: tuple[_Values, RandomState] | None = None
        super().__init__(Validator(validate, self.untouched) if validate is not None else None)

    @property
    def base_lrs(self) -> list[float]:
        """Keras' optimizers have one LR."""
        return [self._base_lr]

    @property
    def steps_before(self) -> int:
        """Steps that the optimizer made, and no tuner of this process."""
        return 0 if self._memory.known else int(to_numpy(self._optimizer.iterations))

    def lrs(self) -> list[float]:
        """The one LR. Waits for the device."""
        lr, live = self._optimizer.learning_rate, self._live()
        if lr is self._lr and live is not None:
            lr = live["optimizer_variables"][self._lr_place]
        return [float(to_numpy(lr))]

    def set_lr(self, lr: float) -> None:
        """Sets the LR in place; the compiled step reads it."""
        self._sync()
        self._lr.assign(lr)
        self._memory.left_at = lr

    def last_loss(self) -> Any:
        """The loss of the step that was just made, on its device.

        Raises:
            ConfigError: the model's training step doesn't say.
        """
        live = self._live()
        loss = self._tracker.last if live is None else live["metrics_variables"][self._loss_place]
        loss = _copied(loss)
        if not self._seen_a_loss:
            if float(loss) == -math.inf:
                raise ConfigError(
                    "model: its train_step doesn't update Keras' loss tracker, so there is no loss to go by; one of "
                    "your own needs self._loss_tracker.update_state(loss, sample_weight=batch_size)"
                )
            self._seen_a_loss = True
        return loss

    def train_on(self, batch: Sequence[Any]) -> Any:
        """Makes a training step outside of `fit`; its loss."""
        self._model.train_on_batch(*batch)
        return self.last_loss()

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """At the end, metrics and all that isn't trained are as at the beginning. Inside, variables hold their values.

        That is what `model.evaluate` and `model.train_on_batch` change of a running `fit`.
        """
        self._sync()
        trained = {id(variable) for variable in self._model.trainable_variables}
        others = [variable for variable in self._model.variables if id(variable) not in trained]
        before = _Values([*others, *self._model.metrics_variables])
        modules = list(self._model.modules()) if keras.config.backend() == "torch" else []
        modes = [module.training for module in modules]
        try:
            yield
        finally:
            self._sync()
            before.put_back()
            for module, training in zip(modules, modes, strict=True):
                module.training = training

    def take(self, data: Sequence[object] = ()) -> None:
        """Copies every variable: weights, statistics, seeds, and the optimizer's, its count of steps among them."""
        self._sync()
        seeds = global_state.get_global_attribute("global_seed_generator")
        variables = [*self._model.variables, *self._optimizer.variables, *([seeds.state] if seeds else [])]
        self._taken = _Values(variables), RandomState.capture()

    def restore(self, *, committed: bool = False) -> None:
        """Assigns what was copied."""
        if self._taken is None:
            raise RuntimeError("snapshot: restore() before take()")
        self._sync()
        values, random_state = self._taken
        values.put_back()
        random_state.restore()

    def state_dict(self) -> dict[str, Any] | None:
        """The copies as NumPy arrays."""
        if self._taken is None:
            return None
        values, random_state = self._taken
        return {"values": values.to_numpy(), "random_state": random_state.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remembers what another one remembered. Raises: ConfigError: that was of another model."""
        self.take()
        assert self._taken is not None
        values, _ = self._taken
        values.from_numpy(state["values"])
        self._taken = values, RandomState.from_state_dict(state["random_state"])

    def close(self) -> None:
        """Lets go of the copies."""
        self._taken = None

    def _live(self) -> dict[str, list[Any]] | None:
        """Where the values are while they are not in the variables."""
        state: dict[str, list[Any]] | None = getattr(self._model, "_jax_state", None)
        return None if state is None or self._model._jax_state_synced else state

    def _sync(self) -> None:
        """Has values in the variables, and a running loop take them from there."""
        if keras.config.backend() == "jax":
            self._model.jax_state_sync()


@dataclasses.dataclass(slots=True)
class _Memory:
    """What the last tuner of an optimizer began with, and where it left the LR."""

    base_lr: float | None = None
    left_at: float | None = None

    @property
    def known(self) -> bool:
        """Whether a tuner has had the optimizer."""
        return self.left_at is not None

    def base_of(self, lr: float) -> float:
        """The LR that the user set, of an optimizer whose LR is `lr` now; it is remembered."""
        left = self.left_at is not None and math.isclose(lr, self.left_at, rel_tol=LR_TOLERANCE)
        if self.base_lr is None or not left:
            self.base_lr = lr
        elif not math.isclose(lr, self.base_lr, rel_tol=LR_TOLERANCE):
            log.info("lrpilot: the LR of %.3g is what the last run left; this one starts from %.3g", lr, self.base_lr)
        return self.base_lr


_MEMORIES: weakref.WeakKeyDictionary[Any, _Memory] = weakref.WeakKeyDictionary()


class _Values:
    """Copies of variables' values."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self._variables = variables
        self._copies = [_copied(variable) for variable in variables]

    def put_back(self) -> None:
        """Gives the variables their values back, as often as one likes."""
        for variable, copy in zip(self._variables, self._copies, strict=True):
            # A copy again: on JAX the variable would take the very array, and the next step donate it.
            variable.assign(_copied(copy))

    def to_numpy(self) -> list[Any]:
        """The copies."""
        return [to_numpy(copy) for copy in self._copies]

    def from_numpy(self, arrays: Sequence[Any]) -> None:
        """Takes these for the copies."""
        if [array.shape for array in arrays] != [tuple(copy.shape) for copy in self._copies]:
            raise ConfigError("state: it is of a model or an optimizer with other variables")
        self._copies = [
            keras.ops.convert_to_tensor(array, variable.dtype)
            for array, variable in zip(arrays, self._variables, strict=True)
        ]


def to_numpy(value: Any) -> Any:
    """The value of a variable or a tensor."""
    # Of a variable alone, Keras would read it in a way that NumPy has deprecated.
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value))


def _copied(value: Any) -> Any:
    return keras.ops.copy(keras.ops.stop_gradient(keras.ops.convert_to_tensor(value)))


def _tunable(model: Any) -> Any:
    """The optimizer of a model. Raises: ConfigError: it can't be tuned."""
    optimizer = model.optimizer
    if not isinstance(optimizer.learning_rate, keras.Variable):
        raise ConfigError("optimizer: its learning rate is a schedule; give it a number, which is the base LR")
    if getattr(optimizer, "inner_optimizer", optimizer).gradient_accumulation_steps:
        raise ConfigError("optimizer: gradient_accumulation_steps is not supported: a batch must be a step")
    if model.steps_per_execution != 1:
        raise ConfigError("model: steps_per_execution must be 1, because the LR may change with every step")
    return optimizer


def _place(variable: Any, variables: Sequence[Any]) -> int:
    return next(place for place, each in enumerate(variables) if each is variable)
