"""Lightning: a callback that tunes the learning rate of a `Trainer.fit`.

Committed steps are made by Lightning's own loop. A search runs between two of them, within one hook of the callback.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat, Unpack

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from lrpilot.backends.torch.group_lrs import INITIAL, GroupLrs, assign
from lrpilot.distributed.ranks import number_of
from lrpilot.integrations import lightning_plan, lightning_ranks
from lrpilot.integrations.lightning_search import Search, StepLoss, ValidationMetric
from lrpilot.run.explicit_options import with_explicit_options
from lrpilot.run.options import JobOptions
from lrpilot.tuner import Tuner


class TunerCallback(Callback):
    """Tunes the LR of a Trainer's run, for modules with automatic optimization and no LR scheduler.

    The Trainer makes as many optimizer steps as it is told to, search included, and then stops. Its `global_step` and
    all its other counters leave the search out. A run that goes on from a checkpoint without a tuner, and a second
    `fit`, have the steps that are left as their budget. In several processes (DDP, FSDP2) every one has its own.

    The plan may change in mid-fit, by `tuner.extend`, `replan`, `anneal` and `undo_annealing` from any hook: after the
    optimizer step that is being made. Raise `trainer.fit_loop.max_epochs` or `epoch_loop.max_steps` before an epoch,
    and the run is extended with it.
    """

    @with_explicit_options
    def __init__(
        self,
        *,
        validate: Callable[[], SupportsFloat] | str | None = None,
        register: Mapping[str, Any] | None = None,
        logits: nn.Module | Sequence[nn.Module] | None = None,
        **job: Unpack[JobOptions],
    ) -> None:
        """Keeps the options; the job is opened when training starts.

        Args:
            validate: gives the validation loss; or the name of a metric that the validation steps log, for which the
                Trainer's validation is run, unseen by callbacks and loggers.
            register: what else changes as the model trains. The model, the optimizer, the precision plugin's scaler
                and the average of a `WeightAveraging` callback are known.
            logits: as for `lrpilot.Tuner`: modules of the LightningModule.
            **job: as for `lrpilot.Tuner`; `total_steps` is by default what the Trainer makes of `max_steps` and
                `max_epochs`, less what was made before.
        """
        self._validate = validate
        self._register = dict(register or {})
        self._logits = logits
        self._job = job
        self._tuner: Tuner | None = None
        self._search: Search
        self._loaded: dict[str, Any] = {}
        self._final: dict[str, Any] = {}
        self._base_lrs: list[float] = []
        self._minimums: tuple[Any, Any] = (None, None)
        self._loss = StepLoss()
        self._global_step = 0
        self._end: int | None = None
        self._planned: int | None = None
        self._before = 0
        self._replicas = True
        self._failed = False
        self._trainer: Callable[[], object] = _nobody

    @property
    def tuner(self) -> Tuner:
        """The tuner of the present or last fit. Raises: RuntimeError: training has not started."""
        if self._tuner is None:
            raise RuntimeError(
                "the tuner is made when training starts; with ddp_spawn, ddp_fork or ddp_notebook it stays in the "
                "processes that Lightning has started, and `lrpilot show` tells of its job"
            )
        return self._tuner

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets what a fit before has loaded and not used, since it had no steps to make."""
        if stage == "fit":
            self._final, self._loaded = self._loaded or self._final, {}
            self._failed = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the LRs that `configure_optimizers` set: a checkpoint brings those of its moment.

        Raises:
            ConfigError: something else sets the LR too, or the steps are not Lightning's.
        """
        lightning_plan.refuse_what_cannot_be_tuned(trainer, pl_module)
        lightning_ranks.refuse_other_strategies(trainer.strategy)
        self._replicas = lightning_ranks.are_replicas(trainer.strategy)
        self._base_lrs = self._loaded.get("base_lrs") or GroupLrs(trainer.optimizers).base_lrs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the job, or goes on with that of the checkpoint, and runs the search that is due.

        Raises:
            ConfigError: an argument can't be accepted.
            RefusedError: the server finds fault with an argument, which the message names; or with `strict` it refuses.
            ServerError: the server isn't there, and `strict` is set.
        """
        self._end_tuning()
        loop = trainer.fit_loop
        self._minimums = loop.min_epochs, loop.epoch_loop.min_steps
        self._global_step = trainer.global_step
        loaded, self._loaded, self._final = self._loaded, {}, {}
        before = loaded["before"] if loaded else self._steps_before(trainer)
        ahead = lightning_plan.steps_ahead(trainer)
        self._end = None if ahead is None else trainer.global_step + ahead
        total_steps = None if self._end is None else self._end - before
        if total_steps is not None and total_steps <= 0 and not loaded:
            lightning_plan.warn_of_a_spent_budget(before)
            _stop(trainer)
            return
        self._before = before
        self._open(trainer, pl_module, total_steps)
        if loaded:
            self._go_on_from(loaded, trainer)
        if self._job.get("total_steps") is not None:
            lightning_plan.warn_of_an_early_end(trainer, self.tuner.remaining_steps)
        elif self._follows_trainer:
            lightning_plan.warn_of_max_time(trainer)
        self._planned = self.tuner.total_steps
        self._go_on(trainer, lightning_plan.present_accumulation(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Extends a run whose Trainer was given more to do, and says, once, where the Trainer ends before the run."""
        ahead = lightning_plan.steps_ahead(trainer)
        end = None if ahead is None else trainer.global_step + ahead
        if self._end not in (None, end) and self._follows_trainer:
            self._follow_end(end)
        total_steps, remaining = self.tuner.total_steps, self.tuner.remaining_steps
        if total_steps != self._planned and remaining is not None and ahead is not None and ahead < remaining:
            lightning_plan.warn_of_a_longer_plan(remaining, ahead)
            self._planned = total_steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the LR again, if a hook has changed it as the epoch began, and that of groups which one has added."""
        if batch_idx == 0:
            self.tuner.keep_lr()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells the tuner of an optimizer step, if the batch made one, and runs the search that is due."""
        self._loss.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step != self._global_step:
            self._global_step = trainer.global_step
            self.tuner.step(self._loss.take())
            self._go_on(trainer, lightning_plan.next_accumulation(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the Trainer its minimums back."""
        trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = self._minimums

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the tuning: an open probe is rolled back, so that the model is left as its last committed step left it.

        Raises:
            ServerError: what was committed can't be reported, and `strict` is set.
        """
        self._end_tuning()
        self._failed = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ends the tuning. A budget that is not spent can still be, from a checkpoint that is saved later."""
        if stage == "fit":
            self._end_tuning()

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state, for Lightning's checkpoint; empty before training, and if an exception ended a search.

        Collective, as saving a checkpoint is: rank 0 has the state of all ranks, for it writes the file. After an
        exception the others may be anywhere, and nobody is waited for: several processes save none then.
        """
        if self._failed and number_of(None) > 1:
            return {}
        state = self._loaded or self._final
        if not state and self._tuner is not None and not self._tuner.closed:
            state = self._state(self._tuner)
        return lightning_ranks.of_all_ranks(state, replicas=self._replicas)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state for `on_train_start`: model and optimizer have to be loaded first.

        Raises:
            ConfigError: another number of processes has saved it.
        """
        self._loaded = lightning_ranks.of_own_rank(state_dict)

    @property
    def _follows_trainer(self) -> bool:
        """Whether the run ends where the Trainer does, as nothing else was asked for."""
        return self._job.get("total_steps") is None and self._job.get("total_time_s") is None

    def _open(self, trainer: Trainer, module: LightningModule, total_steps: int | None) -> None:
        """Makes the tuner, at the LRs that the user set."""
        _set_lrs(trainer.optimizers[0], self._base_lrs)
        self._search = Search(trainer)
        job: JobOptions = {"total_steps": total_steps if self._follows_trainer else None, **self._job}
        job["observers"] = [*job.get("observers", ()), self._search]
        validate = self._validate
        if isinstance(validate, str):
            validate = ValidationMetric(trainer, validate)
        register = {**_registered(trainer), **self._register}
        self._tuner = Tuner(
            module, trainer.optimizers, validate=validate, register=register, logits=self._logits, **job
        )
        self._tuner.hold_changes()
        self._trainer = weakref.ref(trainer)

    def _go_on_from(self, loaded: dict[str, Any], trainer: Trainer) -> None:
        self.tuner.load_state_dict(loaded["tuner"])
        if trainer.is_last_batch and not trainer.fit_loop.restarting:
            # Training goes on with a new epoch. Its iterator draws a seed from the random state, and was made
            # before that was back.
            iter(trainer.fit_loop._data_fetcher)

    def _follow_end(self, end: int | None) -> None:
        """The Trainer ends at another step than it was to."""
        planned, self._end = self._end, end
        total_steps = self.tuner.total_steps
        if end is None or planned is None or end < planned or total_steps is None:
            lightning_plan.warn_of_a_moved_end(planned, end)
            self._end = None
            return
        further = end - self._before - total_steps
        if further > 0:  # the program may have extended the run itself
            self.tuner.extend(further)

    def _go_on(self, trainer: Trainer, accumulation: int) -> None:
        self.tuner.make_changes()
        self._search.run(self.tuner, accumulation)
        if self.tuner.finished:
            _stop(trainer)

    def _steps_before(self, trainer: Trainer) -> int:
        """What is spent of the Trainer's steps: those that it counts, and the searches of its earlier fits."""
        if self._tuner is None or trainer.fit_loop.is_resuming or self._trainer() != trainer:
            return int(trainer.global_step)
        spent = self._before + self._tuner.committed_step + self._tuner.search_steps
        return max(spent, int(trainer.global_step))

    def _end_tuning(self) -> None:
        tuner = self._tuner
        if tuner is not None and not tuner.closed:
            self._final = {} if tuner.searching else self._state(tuner)
            tuner.close()

    def _state(self, tuner: Tuner) -> dict[str, Any]:
        return {"tuner": tuner.state_dict(), "before": self._before, "base_lrs": self._base_lrs}


def _nobody() -> None:
    """The Trainer of no fit yet; a function that `ddp_spawn` can send to its processes."""


def _stop(trainer: Trainer) -> None:
    trainer.should_stop = True
    # Only with these met does Lightning stop.
    trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None


def _registered(trainer: Trainer) -> dict[str, Any]:
    """What changes in training besides model and optimizer, as far as Lightning has it."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    averages = [callback._average_model for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
    return {
        **({"lightning.scaler": scaler} if scaler is not None else {}),
        **{f"lightning.average.{i}": average for i, average in enumerate(averages)},
    }


def _set_lrs(optimizer: torch.optim.Optimizer, lrs: Sequence[float]) -> None:
    """Gives the groups these LRs. Those that a callback has added since keep their ratio to the first."""
    groups = optimizer.param_groups
    present = float(groups[0]["lr"])
    for number, group in enumerate(groups):
        ratio = float(group["lr"]) / present if present else 1.0
        lr = lrs[number] if number < len(lrs) else lrs[0] * ratio
        assign(group, lr)
        if INITIAL in group:  # as a scheduler left it, of the run that made the checkpoint
            group[INITIAL] = lr
