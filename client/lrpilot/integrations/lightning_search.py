"""A search within Lightning's training loop, and what is set aside meanwhile.

The same loop's training step is run, on batches of an iterator of its own, while everything that counts, logs or
listens is set aside. So Lightning's counters, logs, callbacks and place in the data know nothing of it.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.loops import _EvaluationLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities import CombinedLoader
from torchmetrics import Metric

from lrpilot.backends.torch.rollback.modes import modes_kept
from lrpilot.run.observer import Observer, TunedRun
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb

Update = list[tuple[Any, int]]
"""The micro-batches of one optimizer step, each with its index in the epoch."""


class StepLoss(Callback):
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


class Search(Observer):
    """Runs Lightning's training step where nobody counts it."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._loss = StepLoss()
        self._aside = contextlib.ExitStack()
        self._running = False

    def run(self, tuner: Tuner, accumulation: int) -> None:
        """Runs the search that is due, if one is; its steps are of so many micro-batches."""
        if not tuner.searching:
            return
        self._running = True
        try:
            size = [(self._trainer, "accumulate_grad_batches", accumulation)]
            with _replaced(size), self._aside:
                self._set_aside()
                tuner.search(_Updates(self._trainer), self._update)
        finally:
            self._running = False

    def began(self, run: TunedRun, directive: pb.Directive) -> None:
        """Every probe counts from where the search began."""
        if self._running and run.searching:
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
        self._twins = list(map(_twin, loader.flattened))  # Here the state of their generators is looked for.
        self._loader = CombinedLoader(loader.iterables, loader._mode)
        self._loader.flattened = self._twins
        self._loader.limits = loader.limits
        self._trainer = trainer

    def __iter__(self) -> Iterator[Update]:
        batches = ((batch, batch_idx) for batch, batch_idx, _ in self._loader)
        while update := list(itertools.islice(batches, self._trainer.accumulate_grad_batches)):
            yield update


def _twin(loader: Any) -> Any:
    """A loader's copy with an iterator of its own: persistent workers serve but one."""
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
    """What takes the place of all that counts, logs or listens."""
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


class ValidationMetric:
    """What Lightning's validation gives for a metric, seen by nobody."""

    def __init__(self, trainer: Trainer, name: str) -> None:
        """Validates nothing yet."""
        self._trainer, self._name = trainer, name
        self._iterators: dict[Any, Any] = {}
        """Those of loaders with persistent workers: Lightning draws a seed for its own as it begins one."""

    def __call__(self) -> float:
        """The metric now. Raises: LookupError: there is no such metric."""
        trainer, loop = self._trainer, self._trainer.fit_loop.epoch_loop
        loop.val_loop.setup_data()
        unseen = _EvaluationLoop(
            trainer,
            TrainerFn.FITTING,
            RunningStage.VALIDATING,
            verbose=False,
            inference_mode=loop.val_loop.inference_mode,
        )
        unseen._combined_loader, unseen._max_batches = loop.val_loop._combined_loader, loop.val_loop._max_batches
        last_time = getattr(trainer, "_last_val_time", None)
        stand_ins = [(loop, "val_loop", unseen), (trainer.state, "stage", RunningStage.VALIDATING)]
        # The tuner has only the module inside of what DDP makes of it.
        with modes_kept(trainer.strategy.model), _replaced([*_stand_ins(trainer, []), *stand_ins]):
            trainer._logger_connector.reset_metrics()
            with self._own_iterators(unseen._combined_loader):
                unseen.run()
            metrics = dict(trainer.callback_metrics)
        trainer._last_val_time = last_time
        if self._name not in metrics:
            raise LookupError(f"validation logs no {self._name!r}, only {sorted(metrics)}")
        return float(metrics[self._name])

    @contextlib.contextmanager
    def _own_iterators(self, combined: CombinedLoader) -> Iterator[None]:
        """Loaders with persistent workers have iterators of the tuner's inside, which are kept for the next time."""
        loaders = [each for each in combined.flattened if getattr(each, "persistent_workers", False)]
        with _replaced([(each, "_iterator", self._iterators.get(each)) for each in loaders]):
            try:
                yield
            finally:
                self._iterators = {each: each._iterator for each in loaders}
