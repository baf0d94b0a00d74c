"""Keras 3: a callback that tunes the learning rate of `fit`, and a saved schedule as one of Keras'."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsFloat, Unpack

import keras
import numpy as np

from lrpilot.backends.keras_backend import KerasBackend, to_numpy
from lrpilot.backends.validator import minimised
from lrpilot.errors import ConfigError
from lrpilot.integrations import state_bytes
from lrpilot.run.driver import Driver
from lrpilot.run.explicit_options import with_explicit_options
from lrpilot.run.options import JobOptions
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire import schedule_file

log = logging.getLogger("lrpilot")


class Tuner(Driver):
    """The tuner of one `fit`, which `TunerCallback` makes."""


class TunerCallback(keras.callbacks.Callback):
    """Tunes the learning rate of `model.fit`.

    Committed steps are those of `fit`. A search runs between two of them on batches of its own, and is rolled back:
    `fit`'s logs, History, metrics, counters and place in the data know nothing of it. When the budget is spent,
    `fit` is told to stop: it makes fewer steps than it was asked for, by those of the search.

    The plan may change in mid-fit, by `tuner.extend`, `replan`, `anneal` and `undo_annealing` from any callback: after
    the step that is being made. `fit` ends with its last epoch all the same.

    Files that Keras writes of the model while it is fitted (`ModelCheckpoint`, `BackupAndRestore`, `save`,
    `save_weights`) hold the tuner's state too; `load_weights` before `fit`, after `set_model`, restores it.

    Attributes:
        tuner: of the present or last `fit`; None before the first.
    """

    tuner: Tuner | None

    @with_explicit_options
    def __init__(
        self,
        data: Any,
        *,
        batch_size: int | None = None,
        validate: Callable[[], SupportsFloat] | None = None,
        **job: Unpack[JobOptions],
    ) -> None:
        """Keeps the arguments; the job is opened by `fit`.

        Args:
            data: what a search trains on, the training data: arrays `(x, y)` or `(x, y, sample_weight)`, or an
                iterable of such batches that starts anew every time, such as a `keras.utils.PyDataset` or a DataLoader.
            batch_size: of arrays; that of `fit`.
            validate: gives the validation loss, or with `mode="max"` a metric; called seldom, and once at once, to see
                that it works. It may call `model.evaluate`.
            **job: server, credentials, total_steps (default: what `fit` was asked for, from its `initial_epoch` on),
                stop_when, mode, lr_bounds, policy, policy_options, name, family, seed, record, timeout_s, strict,
                observers, progress, transport; see `lrpilot.run.options.JobOptions`.

        Raises:
            ConfigError: arrays without a batch size, or a batch size without arrays.
        """
        super().__init__()
        if isinstance(data, tuple) != (batch_size is not None):
            raise ConfigError("data: a tuple of arrays needs batch_size, and batches have theirs")
        self._data: Iterable[Sequence[Any]] = _batches(data, batch_size)
        self._validate = validate
        self._job = job
        self._loaded: Mapping[str, Any] | None = None
        self._keras: KerasBackend | None = None
        self._first_epoch = 0
        self._said_long = False
        self.tuner = None

    @property
    def schedule(self) -> Schedule:
        """What was found so far. Raises: ConfigError: nothing was trained."""
        return self._running.schedule

    def state_dict(self) -> dict[str, Any]:
        """All that `fit` needs to go on in a fresh process, besides the model. Take it at the end of an epoch.

        Raises:
            ConfigError: nothing was trained.
        """
        seeds = [to_numpy(seed) for seed in _seeds(self.model)]
        return {"tuner": self._running.state_dict(), "seeds": seeds, "first_epoch": self._first_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Has the next `fit` go on there; the model's weights and its optimizer are loaded by you, as ever."""
        self._loaded = state

    def set_model(self, model: Any) -> None:
        """Keras calls this; you do, before `model.load_weights` of a file that holds the tuner's state."""
        super().set_model(model)
        model.lrpilot = _Carrier(self)

    def on_train_begin(self, logs: Any = None) -> None:
        """A new `fit` is a new job."""
        self.tuner = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Opens the job before the first step, when every other callback has loaded what it loads."""
        if self.tuner is not None:
            self._warn_of_a_longer_plan(epoch)
            return
        loaded, self._loaded = self._loaded, None
        self._first_epoch = epoch if loaded is None else loaded["first_epoch"]
        self._keras = KerasBackend(self.model, minimised(self._validate, self._job.get("mode")))
        self._warn(epoch, resumed=loaded is not None)
        job = self._job.copy()
        if job.get("total_steps") is None and job.get("total_time_s") is None:
            job["total_steps"] = self._planned(self._first_epoch)
        self.tuner = Tuner(self._keras, **job)
        self.tuner.hold_changes()
        if loaded is not None:
            for seed, value in zip(_seeds(self.model), loaded["seeds"], strict=True):
                seed.assign(value)
            self.tuner.load_state_dict(loaded["tuner"])
        self._search()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Sets the LR again, if another callback has changed it as the epoch began."""
        if batch == 0:
            self._running.keep_lr()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """One step of `fit` is over."""
        assert self._keras is not None
        driver = self._running
        if not driver.finished:
            driver.step(self._keras.last_loss())
        self._search()

    def on_train_end(self, logs: Any = None) -> None:
        """Reports what is left to report."""
        if self.tuner is not None:
            self.tuner.close()
        del self.model.lrpilot

    def _planned(self, epoch: int) -> int | None:
        """The steps that `fit` was asked for from an epoch on; None: it does not know how many an epoch has."""
        n_steps = self.params.get("steps")
        return (self.params["epochs"] - epoch) * n_steps if n_steps else None

    def _warn(self, epoch: int, *, resumed: bool) -> None:
        """Says what would spoil the schedule, before the first step."""
        assert self._keras is not None
        planned, total_steps = self._planned(epoch), self._job.get("total_steps")
        if total_steps is None and planned is None and self._job.get("total_time_s") is None:
            log.warning(
                "lrpilot: fit does not know how many steps its epochs have, so that the LR has no end to decay to; "
                "give fit steps_per_epoch, or TunerCallback total_steps or total_time_s"
            )
        elif total_steps is not None and planned is not None and planned < total_steps and not resumed:
            log.warning(
                "lrpilot: total_steps is %d, and fit makes %d: where it ends first, the LR is not at its end; leave "
                "total_steps out, or give fit more epochs",
                total_steps,
                planned,
            )
            self._said_long = True
        if (n_steps := self._keras.steps_before) and not resumed:
            log.warning(
                "lrpilot: the optimizer has made %d steps before, and its LR of %.3g is taken for the one that you "
                "set; if a run has left it there, set model.optimizer.learning_rate before fit",
                n_steps,
                self._keras.base_lrs[0],
            )

    def _warn_of_a_longer_plan(self, epoch: int) -> None:
        """Says, once, that `fit` ends before a run that was extended."""
        remaining, ahead = self._running.remaining_steps, self._planned(epoch)
        if self._said_long or remaining is None or ahead is None or ahead >= remaining:
            return
        self._said_long = True
        log.warning(
            "lrpilot: the plan has %d steps left, and fit makes %d: where it ends first, the LR is not at its end; "
            "give fit more epochs",
            remaining,
            ahead,
        )

    def _search(self) -> None:
        """Runs the search that is due, if one is."""
        assert self._keras is not None
        driver = self._running
        driver.make_changes()
        if driver.searching:
            with self._keras.untouched():
                driver.search(self._data, self._keras.train_on)
        if driver.finished:
            self.model.stop_training = True

    @property
    def _running(self) -> Tuner:
        if self.tuner is None:
            raise ConfigError("lrpilot: there is no run yet; it begins with fit")
        return self.tuner


class _Carrier(keras.losses.Loss):
    """Takes the tuner's state into the files that Keras writes, and out of them.

    Keras asks every object of its own kinds among a model's attributes for what to save. A loss is the kind that
    nothing else comes of.
    """

    def __init__(self, callback: TunerCallback) -> None:
        super().__init__(name="lrpilot")
        self._callback = callback

    def save_own_variables(self, store: Any) -> None:
        """Keras is writing a file."""
        if self._callback.tuner is not None:
            store["state"] = np.frombuffer(state_bytes.dumps(self._callback.state_dict()), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Keras is reading a file, which may be of an untuned run."""
        if "state" in store.keys():  # noqa: SIM118  # not every kind of store has `in`
            self._callback.load_state_dict(state_bytes.loads(store["state"].tobytes()))


class ReplaySchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule as one of Keras': `keras.optimizers.AdamW(ReplaySchedule(schedule))` needs no server.

    It works inside a compiled step, where the LRs of all steps are a constant, and is saved with the model.
    """

    def __init__(self, schedule: Schedule) -> None:
        """Raises: ScheduleError: the schedule has no steps."""
        self._schedule = schedule
        self._lrs = np.asarray(schedule.lrs(), np.float32)

    def __call__(self, step: Any) -> Any:
        """The LR of a step; past the end the last one holds."""
        place = keras.ops.clip(keras.ops.cast(step, "int32"), 0, len(self._lrs) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self._lrs), place)

    def get_config(self) -> dict[str, Any]:
        """The schedule as text."""
        return {"schedule": schedule_file.dumps(self._schedule)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ReplaySchedule:
        """What `get_config` gave."""
        return cls(schedule_file.loads(config["schedule"], Schedule))


keras.saving.register_keras_serializable("lrpilot")(ReplaySchedule)


class _Arrays:
    """Batches of arrays in one random order, which is always the same."""

    def __init__(self, arrays: Sequence[Any], batch_size: int) -> None:
        self._arrays = [np.asarray(array) for array in arrays]
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        order = np.random.default_rng(0).permutation(len(self._arrays[0]))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            yield tuple(_as_fit_does(array[rows]) for array in self._arrays)


class _Indexed:
    """Batches of a PyDataset, which is no iterable."""

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[Sequence[Any]]:
        for place in range(self._dataset.num_batches):
            yield self._dataset[place]


def _batches(data: Any, batch_size: int | None) -> Iterable[Sequence[Any]]:
    if batch_size is not None:
        return _Arrays(data, batch_size)
    if isinstance(data, keras.utils.PyDataset):
        return _Indexed(data)
    batches: Iterable[Sequence[Any]] = data
    return batches


def _as_fit_does(array: Any) -> Any:
    """Floats in Keras' precision: another type would be another compiled step."""
    return array.astype(keras.config.floatx()) if np.issubdtype(array.dtype, np.floating) else array


def _seeds(model: Any) -> list[Any]:
    """States of a model's seed generators, which Keras does not save."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]
