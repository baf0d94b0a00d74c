"""JAX and Optax: the hook in a functional training loop, and a saved schedule as one of Optax's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, SupportsFloat, TypeVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from lrpilot.backends.jax_backend import JaxBackend
from lrpilot.backends.validator import minimised
from lrpilot.run.driver import Driver
from lrpilot.run.explicit_options import with_explicit_options
from lrpilot.run.options import JobOptions
from lrpilot.schedule.schedule import Schedule

State = TypeVar("State")


class Tuner(Driver, Generic[State]):
    """Tunes the learning rate of a functional training loop.

    The tuner holds the training state: a step takes `tuner.state` and puts back what comes out, and `step(loss)`
    follows. What it does to the state in between is all there is to it: another LR, or an earlier state after a probe.

        optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=0.001)
        with Tuner((params, optimizer.init(params)), total_steps=2000) as tuner:
            for batch in tuner.batches(loader):
                tuner.state, loss = train_step(tuner.state, batch)
                tuner.step(loss)
    """

    @with_explicit_options
    def __init__(
        self,
        state: State,
        *,
        validate: Callable[[State], SupportsFloat] | None = None,
        donates: bool = True,
        **job: Unpack[JobOptions],
    ) -> None:
        """Opens a job and sets the LR of the first step.

        Args:
            state: a pytree of all that the step changes: parameters, optimizer state, random keys, batch statistics.
                The optimizer is made with `optax.inject_hyperparams`; its LR is the base. Of several, in a chain or in
                `optax.partition`, the first is tuned, in the order of the state's leaves; others keep their ratios.
            validate: gives the validation loss of a state, or with `mode="max"` a metric; called seldom, and once at
                once, to see that it works.
            donates: whether the step donates the buffers of its state (`donate_argnums`). Snapshots are copies then;
                without, they are references and cost nothing but memory.
            **job: server, credentials, total_steps, epochs, steps_per_epoch, total_time_s, stop_when, mode, lr_bounds,
                policy, policy_options, name, family, seed, record, timeout_s, strict, adopt, observers, progress,
                transport; see `lrpilot.run.options.JobOptions`.

        Raises:
            ConfigError: an argument can't be accepted.
            RefusedError: the server finds fault with an argument, which the message names; or with `strict` it refuses.
            UnavailableError: the server isn't there, and `strict` is set.
        """
        self._jax = JaxBackend(state, minimised(validate, job.get("mode")), donates)
        super().__init__(self._jax, **job)

    @property
    def state(self) -> State:
        """The training state that the next step takes."""
        return self._jax.state

    @state.setter
    def state(self, state: State) -> None:
        self._jax.state = state


class ReplaySchedule:
    """A schedule as one of Optax's: `optax.adamw(learning_rate=ReplaySchedule(schedule))` needs no server.

    It works inside `jax.jit`. The LR of every step, rounded to float32, is a constant there: 4 bytes a step.
    """

    def __init__(self, schedule: Schedule) -> None:
        """Raises: ScheduleError: the schedule has no steps."""
        self._schedule = schedule
        self._lrs = np.asarray(schedule.lrs(), np.float32)

    def __repr__(self) -> str:
        """What is replayed."""
        return f"<ReplaySchedule of {self._schedule!r}>"

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """The LR of a step; past the end the last one holds."""
        return jnp.asarray(self._lrs)[jnp.clip(step, 0, len(self._lrs) - 1)]
