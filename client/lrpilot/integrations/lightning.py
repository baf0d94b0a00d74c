"""Lightning: a callback that tunes the learning rate of a `Trainer.fit`.

Committed steps are made by Lightning's own loop. A search runs between two of them: the same loop's training step, on
batches of an iterator of its own, while everything that counts, logs or listens is set aside. So Lightning's counters,
logs, callbacks and place in the data know nothing of it.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsFloat, Unpack

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.loops import _EvaluationLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torchmetrics import Metric

from lrpilot.driver import Driver
from lrpilot.errors import ConfigError
from lrpilot.group_lrs import assign
from lrpilot.job_options import JobOptions
from lrpilot.observer import Observer
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb

Update = list[tuple[Any, int]]
"""The micro-batches of one optimizer step, each with its index in the epoch."""


class TunerCallback(Callback):
    """Tunes the LR of a Trainer's run, for modules with automatic optimization and no LR scheduler.

    The Trainer makes as many optimizer steps as it is told to, search included, and then stops. Its `global_step` and
    all its other counters leave the search out.
    """

    def __init__(
        self,
        *,
        validate: Callable[[], SupportsFloat] | str | None = None,
        register: Mapping[str, Any] | None = None,
        **job: Unpack[JobOptions],
    ) -> None:
        """Keeps the options; the job is opened when training starts.

        Args:
            validate: gives the validation loss; or the name of a metric that the validation steps log, for which the
                Trainer's validation is run, unseen by callbacks and loggers.
            register: what else changes as the model trains. The model, the optimizer, the precision plugin's scaler
                and the average of a `WeightAveraging` callback are known.
            **job: as for `lrpilot.Tuner`; `total_steps` is by default what the Trainer makes of `max_steps` and
                `max_epochs`.
        """
        self._validate = validate
        self._register = dict(register or {})
        self._job = job
        self._tuner: Tuner | None = None
        self._search: _Search
        self._loaded: dict[str, Any] = {}
        self._final: dict[str, Any] = {}
        self._base_lrs: list[float] = []
        self._minimums: tuple[Any, Any] = (None, None)
        self._loss = _StepLoss()
        self._global_step = 0

    @property
    def tuner(self) -> Tuner:
        """The tuner of the present or last fit. Raises: RuntimeError: training has not started."""
        if self._tuner is None:
            raise RuntimeError("the tuner is made when training starts")
        return self._tuner

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the LRs that `configure_optimizers` set: a checkpoint brings those of its moment.

        Raises:
            ConfigError: something else sets the LR too, or the steps are not Lightning's.
        """
        _refuse_what_cannot_be_tuned(trainer, pl_module)
        self._base_lrs = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the job, or goes on with that of the checkpoint, and runs the search that is due.

        Raises:
            ConfigError: an argument can't be accepted.
            RefusedError: the server doesn't accept the job; the message names the field.
            ServerError: the server isn't there, and `strict` is set.
        """
        if self._tuner is not None:
            self._tuner.close()
        _set_lrs(trainer.optimizers[0], self._base_lrs)
        self._search = _Search(trainer)
        job: JobOptions = {"total_steps": _planned_steps(trainer), **self._job}
        job["observers"] = [*job.get("observers", ()), self._search]
        validate = self._validate
        if isinstance(validate, str):
            validate = functools.partial(_validation_metric, trainer, validate)
        register = {**_registered(trainer), **self._register}
        self._tuner = Tuner(pl_module, trainer.optimizers, validate=validate, register=register, **job)
        loaded, self._loaded, self._final = self._loaded, {}, {}
        if loaded:
            self._tuner.load_state_dict(loaded)
            if trainer.is_last_batch and not trainer.fit_loop.restarting:
                # Training goes on with a new epoch. Its iterator draws a seed from the random state, and was made
                # before that was back.
                iter(trainer.fit_loop._data_fetcher)
        loop = trainer.fit_loop
        self._minimums = loop.min_epochs, loop.epoch_loop.min_steps
        self._global_step = trainer.global_step
        self._go_on(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells the tuner of an optimizer step, if the batch made one, and runs the search that is due."""
        self._loss.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step != self._global_step:
            self._global_step = trainer.global_step
            self.tuner.step(self._loss.take())
            self._go_on(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the Trainer its minimums back."""
        trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = self._minimums

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ends the tuning. A budget that is not spent can still be, from a checkpoint that is saved later."""
        if stage == "fit" and self._tuner is not None:
            self._final = self._tuner.state_dict()
            self._tuner.close()

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state, for Lightning's checkpoint; empty before training."""
        return self._loaded or self._final or (self._tuner.state_dict() if self._tuner is not None else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state for `on_train_start`: model and optimizer have to be loaded first."""
        self._loaded = state_dict

    def _go_on(self, trainer: Trainer) -> None:
        self._search.run(self.tuner)
        if self.tuner.finished:
            trainer.should_stop = True
            # Only with these met does Lightning stop.
            trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None


class _StepLoss(Callback):
    """The loss of an optimizer step: the mean over its micro-batches."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []
        self._last = torch.tensor(math.nan)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds a micro-batch, whose loss Lightning has divided by their number."""
        loss = outputs.get("loss") if outputs else None
        if loss is not None:
            n = trainer.accumulate_grad_batches
            self._parts.append(loss if n == 1 else loss * n)

    def take(self) -> torch.Tensor:
        """The loss, and begins the next step. A step that `training_step` skips repeats the last loss."""
        if self._parts:
            self._last = self._parts[0] if len(self._parts) == 1 else torch.stack(self._parts).mean()
            self._parts.clear()
        return self._last


class _Search(Observer):
    """Runs Lightning's training step where nobody counts it."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._loss = _StepLoss()
        self._aside = contextlib.ExitStack()
        self._running = False

    def run(self, tuner: Tuner) -> None:
        """Runs the search that is due, if one is."""
        if not tuner.searching:
            return
        self._running = True
        try:
            with self._aside:
                self._set_aside()
                tuner.search(_Updates(self._trainer), self._update)
        finally:
            self._running = False

    def began(self, driver: Driver, directive: pb.Directive) -> None:
        """Every probe counts from where the search began."""
        if self._running and driver.searching:
            self._aside.close()
            self._set_aside()

    def _set_aside(self) -> None:
        self._aside.enter_context(_replaced(_stand_ins(self._trainer, [self._loss])))

    def _update(self, update: Update) -> torch.Tensor:
        """One optimizer step; its loss."""
        loop = self._trainer.fit_loop.epoch_loop
        for i, (batch, batch_idx) in enumerate(update, start=1):
            loop.batch_progress.current.ready = batch_idx  # The loop goes on from there.
            with contextlib.suppress(StopIteration):  # `on_train_batch_start` skips the rest of the epoch.
                loop.advance(_Fetched(batch, done=i == len(update)))
        return self._loss.take()


@dataclasses.dataclass(frozen=True, slots=True)
class _Fetched:
    """One batch, for a loop that asks for the next one. Where it is the last one, an optimizer step is made."""

    batch: Any
    done: bool

    def __next__(self) -> tuple[Any, int, int]:
        return self.batch, 0, 0


class _Updates:
    """The training data from the start of an epoch, in updates: those that Lightning's loop would make of it."""

    def __init__(self, trainer: Trainer) -> None:
        loader = trainer.fit_loop._combined_loader
        self._loader = CombinedLoader(loader.iterables, loader._mode)
        self._loader.flattened = list(map(_twin, loader.flattened))
        self._loader.limits = loader.limits
        self._trainer = trainer

    def __iter__(self) -> Iterator[Update]:
        batches = ((batch, batch_idx) for batch, batch_idx, _ in self._loader)
        while update := list(itertools.islice(batches, self._trainer.accumulate_grad_batches)):
            yield update


def _twin(loader: Any) -> Any:
    """The same loader with an iterator of its own: persistent workers serve but one."""
    twin = copy.copy(loader)
    if hasattr(twin, "_iterator"):
        twin._iterator = None
    return twin


KEPT_BY_HAND = (bool, int, float, str, list, dict, set, collections.deque)
"""Types of a module's attributes that are counters and collections."""
StandIn = tuple[Any, str, Any]
"""An object, the name of an attribute, and the value that it has for a while."""


@contextlib.contextmanager
def _replaced(stand_ins: Sequence[StandIn]) -> Iterator[None]:
    """Gives attributes other values."""
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in stand_ins]
    for owner, name, value in stand_ins:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in originals:
            setattr(owner, name, value)


def _stand_ins(trainer: Trainer, callbacks: list[Callback]) -> list[StandIn]:
    """For what counts, logs or listens."""
    loop, connector, module = trainer.fit_loop.epoch_loop, trainer._logger_connector, trainer.lightning_module
    optimization = loop.automatic_optimization
    return [
        (trainer, "callbacks", [*callbacks, *map(_mute, (c for c in trainer.callbacks if isinstance(c, ProgressBar)))]),
        (trainer, "loggers", [DummyLogger() for _ in trainer.loggers]),
        (trainer, "profiler", PassThroughProfiler()),
        (loop, "batch_progress", copy.deepcopy(loop.batch_progress)),
        (loop, "_results", _ResultCollection(training=True)),
        (loop, "_restarting", False),
        (optimization, "optim_progress", copy.deepcopy(optimization.optim_progress)),
        *((connector, name, copy.copy(value)) for name, value in vars(connector).items() if name != "trainer"),
        *_kept_by_hand(module),
        *(stand_in for each in module.modules() if isinstance(each, Metric) for stand_in in _accumulated(each)),
    ]


def _mute(progress_bar: ProgressBar) -> ProgressBar:
    """The progress bar, deaf to hooks: its drawing thread goes on and asks the Trainer for it."""
    mute: ProgressBar = object.__new__(type(progress_bar))  # Its own way of being copied leaves the drawing out.
    vars(mute).update(vars(progress_bar))
    for hook in dir(Callback):
        if hook.startswith("on_"):
            setattr(mute, hook, lambda *args, **kwargs: None)
    return mute


def _kept_by_hand(module: LightningModule) -> Iterator[StandIn]:
    """The module's public counters and lists, such as outputs that it collects over an epoch."""
    for name, value in vars(module).items():
        if isinstance(value, KEPT_BY_HAND) and not name.startswith("_"):
            yield module, name, copy.copy(value)


def _accumulated(metric: Metric) -> Iterator[StandIn]:
    """What a metric has gathered so far."""
    for name, value in metric._copy_state_dict().items():
        yield metric, name, value
    for name in ("_update_count", "_computed", "_forward_cache"):
        yield metric, name, getattr(metric, name)


def _validation_metric(trainer: Trainer, name: str) -> float:
    """What Lightning's validation gives for a metric, seen by nobody. Raises: LookupError: there is no such metric."""
    loop = trainer.fit_loop.epoch_loop
    loop.val_loop.setup_data()
    unseen = _EvaluationLoop(
        trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=loop.val_loop.inference_mode
    )
    unseen._combined_loader, unseen._max_batches = loop.val_loop._combined_loader, loop.val_loop._max_batches
    last_time = getattr(trainer, "_last_val_time", None)
    stand_ins = [(loop, "val_loop", unseen), (trainer.state, "stage", RunningStage.VALIDATING)]
    with _replaced([*_stand_ins(trainer, []), *stand_ins]):
        trainer._logger_connector.reset_metrics()
        unseen.run()
        metrics = dict(trainer.callback_metrics)
    trainer._last_val_time = last_time
    if name not in metrics:
        raise LookupError(f"validation logs no {name!r}, only {sorted(metrics)}")
    return float(metrics[name])


def _refuse_what_cannot_be_tuned(trainer: Trainer, module: LightningModule) -> None:
    """Raises: ConfigError."""
    if not module.automatic_optimization:
        raise ConfigError(
            "lightning: the module optimizes by hand; use lrpilot.Tuner in its training_step, or automatic optimization"
        )
    if trainer.lr_scheduler_configs:
        raise ConfigError(
            "lightning: configure_optimizers returns an LR scheduler, and the LR is the tuner's; "
            "return the optimizer alone"
        )
    if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):
        raise ConfigError(
            "lightning: StochasticWeightAveraging sets the LR too; average by the WeightAveraging callback"
        )
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise ConfigError("lightning: a training_step that takes dataloader_iter can't repeat its batches; take batch")


def _planned_steps(trainer: Trainer) -> int | None:
    """The optimizer steps that the Trainer would make; None if nothing but the user ends it."""
    n_steps = trainer.estimated_stepping_batches
    return int(n_steps) if 0 < n_steps < math.inf else None


def _registered(trainer: Trainer) -> dict[str, Any]:
    """What changes in training besides model and optimizer, as far as Lightning has it."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    averages = [callback._average_model for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
    return {
        **({"lightning.scaler": scaler} if scaler is not None else {}),
        **{f"lightning.average.{i}": average for i, average in enumerate(averages)},
    }


def _set_lrs(optimizer: torch.optim.Optimizer, lrs: Sequence[float]) -> None:
    # A callback that unfreezes layers may have added groups since.
    for group, lr in zip(optimizer.param_groups, lrs, strict=False):
        assign(group, lr)
