"""Hugging Face Transformers: a Trainer whose learning rate is tuned.

Committed steps are made by the Trainer's own loop. A search runs between two of them, in a loop of its own over a
loader of its own, and is rolled back: the Trainer's counters, logs, callbacks and place in the data know nothing of it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, SupportsFloat

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import has_length

from lrpilot.backends.torch.group_lrs import INITIAL, GroupLrs, assign
from lrpilot.backends.torch.rollback.modes import modes_kept
from lrpilot.errors import ConfigError
from lrpilot.integrations import rank_files
from lrpilot.integrations.accelerate import refuse_other_parallelism, unwrapped, with_scaler
from lrpilot.rng import preserved
from lrpilot.run.options import JobOptions
from lrpilot.tuner import Tuner

UNSCHEDULED = ("linear", "constant")
"""Values of `lr_scheduler_type` that are let pass: the first is the default, which can't be told from a wish."""

Update = tuple[list[Any], torch.Tensor | int | None]
"""The micro-batches of one optimizer step, and how many items they hold, if the model's loss wants to know."""

log = logging.getLogger("lrpilot")


class TunerOptions(JobOptions, total=False):
    """The options of a `TunerTrainer`: those of every tuner, but for `total_steps`, and these."""

    validate: Callable[[], SupportsFloat] | Literal["eval"]
    register: Mapping[str, Any]
    logits: nn.Module | Sequence[nn.Module]


class TunerTrainer(Trainer):
    """A Trainer whose LR is tuned; it also turns a subclass of Trainer into one: `class Mine(TunerTrainer, Theirs)`.

    It makes as many optimizer steps as the arguments say (`max_steps`, or the epochs' steps), search included.
    `state.global_step` and `state.max_steps` count without the search. In several processes (DDP, FSDP2) every one
    makes its own, with the same arguments.

    The plan may change in mid-training, by `tuner.extend`, `replan`, `anneal` and `undo_annealing` from any hook of a
    callback: after the optimizer step that is being made. The Trainer's loop ends with its last epoch all the same; to
    train on after that, resume from a checkpoint with more `max_steps` or `num_train_epochs`.

    Attributes:
        tuner: of the present or last `train()`; None before the first.
    """

    tuner: Tuner | None
    lr_scheduler: LRScheduler | None

    def __init__(self, *args: Any, lrpilot: TunerOptions | None = None, **kwargs: Any) -> None:
        """Makes the Trainer; the job is opened by `train()`.

        Args:
            *args: the Trainer's.
            lrpilot: options of `lrpilot.Tuner`, by name. `validate` may also be "eval": the loss on `eval_dataset`.
            **kwargs: the Trainer's.

        Raises:
            ConfigError: something else is to set the LR too, or the processes share the training in another way than
                DDP and FSDP2.
        """
        self.tuner = None
        super().__init__(*args, **kwargs)
        self._options: dict[str, Any] = {**(lrpilot or {})}
        self._loss: torch.Tensor | None = None
        self._base_lrs: list[float] = []
        self._n_steps = 0
        self._before = 0
        self._said_long = False
        self._refuse_what_cannot_be_tuned()
        self.add_callback(_Steps(self))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as the Trainer does. The tuner ends with it, however it ends.

        From a checkpoint without a tuner a new job tunes the steps that are left.

        Raises:
            ConfigError: an option can't be accepted, something else sets the LR too, or the checkpoint leaves no steps.
            RefusedError: the server finds fault with an argument, which the message names; or with `strict` it refuses.
        """
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.tuner is not None:
                self.tuner.close()

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """A scheduler that leaves the LR to the tuner, and the LRs that the user set. The job is opened later.

        Raises:
            ConfigError: there is a scheduler.
        """
        if self.lr_scheduler is not None:
            raise ConfigError("lr_scheduler: there is one, and the LR is the tuner's; leave it None")
        if self.tuner is not None:  # Of an earlier call of train(), or of a batch size that did not fit into memory.
            self.tuner.close()
        self.tuner = None
        optimizer = optimizer or self.optimizer
        self._base_lrs = GroupLrs([unwrapped(optimizer)]).base_lrs
        self._set_base_lrs(optimizer)
        scheduler = self.lr_scheduler = TunedLR(optimizer)
        self._created_lr_scheduler = True
        self._n_steps = num_training_steps
        return scheduler

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Makes the Trainer's step, and remembers the loss for the tuner: the sum over an update's calls."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self._loss = loss if self._loss is None else self._loss + loss
        return loss

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        assert self.tuner is not None
        state = {"tuner": self.tuner.state_dict(), "before": self._before}
        rank_files.write(output_dir, self.args.process_index, self.args.world_size, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        saved = rank_files.read(checkpoint, self.args.process_index, self.args.world_size)
        self._set_base_lrs(self.optimizer)
        if saved is None:
            self._open(before=self.state.global_step)
            log.info("lrpilot: %s has no tuner; a new job tunes the steps that are left", checkpoint)
            return
        with preserved():  # The Trainer sets the random state itself, and later.
            self._open(before=saved["before"]).load_state_dict(saved["tuner"])
        assert self.tuner is not None
        if self.tuner.finished:  # The Trainer's loop would make one step before it asks.
            raise ConfigError(
                f"resume_from_checkpoint: the run in {checkpoint} is over, its steps are spent; raise max_steps or "
                "num_train_epochs"
            )

    def _open(self, before: int = 0) -> Tuner:
        """Opens the job of the steps that are left after so many. Raises: ConfigError: none are."""
        if self._n_steps <= before:
            raise ConfigError(
                f"max_steps: {self._n_steps} in all, and the checkpoint has made {before}; raise max_steps or "
                "num_train_epochs"
            )
        options = dict(self._options)
        if options.get("validate") == "eval":
            options["validate"] = self._eval_loss
        options["register"] = with_scaler(self.accelerator, options.get("register", {}))
        self._before = before
        self.tuner = Tuner(self.model, unwrapped(self.optimizer), total_steps=self._n_steps - before, **options)
        self.tuner.hold_changes()
        self._updates = _Updates(self)
        return self.tuner

    def _set_base_lrs(self, optimizer: torch.optim.Optimizer) -> None:
        for group, lr in zip(optimizer.param_groups, self._base_lrs, strict=True):
            assign(group, lr)
            if INITIAL in group:  # as the last scheduler left it
                group[INITIAL] = lr

    def _begin(self, state: TrainerState) -> None:
        """Before the first step. Raises: ConfigError: something else sets the LR too."""
        if not isinstance(self.lr_scheduler, TunedLR):
            raise ConfigError("create_scheduler: it makes a scheduler, and the LR is the tuner's; leave it as it is")
        if self.tuner is None:
            self._open()
        self._loss = None
        self._search(state)

    def _begin_epoch(self, state: TrainerState) -> None:
        """Before the first step of an epoch: a callback may have set the LR, and the plan may have become too long."""
        assert self.tuner is not None
        self.tuner.keep_lr()
        remaining, per_epoch = self.tuner.remaining_steps, self._updates.per_epoch
        if remaining is None or per_epoch is None or self._said_long:
            return
        ahead = (state.num_train_epochs - int(state.epoch or 0)) * per_epoch
        if ahead < remaining:
            self._said_long = True
            log.warning(
                "lrpilot: the plan has %d steps left, and the Trainer's epochs make %d: where they end first, the LR "
                "is not at its end; resume from a checkpoint with more max_steps or num_train_epochs",
                remaining,
                ahead,
            )

    def _end_step(self, state: TrainerState, control: TrainerControl) -> None:
        """After an optimizer step of the Trainer's, when gradients have been cleared."""
        assert self.tuner is not None
        at_its_end = state.global_step >= state.max_steps
        self.tuner.step(self._take_loss())
        self._search(state)
        if self.tuner.finished:
            control.should_training_stop = True
        elif at_its_end:  # as the Trainer has seen it, before the plan changed
            control.should_training_stop = False

    def _search(self, state: TrainerState) -> None:
        """Runs the search that is due, if one is."""
        tuner = self.tuner
        assert tuner is not None
        tuner.make_changes()
        if tuner.searching:
            with _dataloaders_preserved(self.accelerator):
                tuner.search(self._updates, self._update)
        assert tuner.remaining_steps is not None
        # The Trainer ends where the budget does, with the evaluation and the checkpoint that are due at its end.
        state.max_steps = state.global_step + tuner.remaining_steps

    def _update(self, update: Update) -> torch.Tensor:
        """An optimizer step as in the Trainer's loop, without what the loop counts and tells; its loss."""
        batches, num_items = update
        model = self.model_wrapped
        self.current_gradient_accumulation_steps = len(batches)
        for i, inputs in enumerate(batches, start=1):
            last = i == len(batches)
            self.accelerator.gradient_state._set_sync_gradients(last)
            each = self.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False)
            with contextlib.nullcontext() if last or each else self.accelerator.no_sync(model=model):
                self.training_step(model, inputs, num_items)
        if self.args.max_grad_norm > 0:
            self._clip_grad_norm(model)
        self.optimizer.step()
        model.zero_grad()
        return self._take_loss()

    def _take_loss(self) -> torch.Tensor:
        loss, self._loss = self._loss, None
        assert loss is not None
        return loss

    def _eval_loss(self) -> float:
        """The mean loss over the examples of `eval_dataset`, as `evaluate` has it, with no log and no callback."""
        total, n_examples = torch.zeros((), device=self.args.device), 0
        with modes_kept(self.model_wrapped):  # The tuner has only the model inside.
            self.model.eval()
            for inputs in self.get_eval_dataloader():
                loss, _, _ = self.prediction_step(self.model_wrapped, inputs, prediction_loss_only=True)
                # Of all processes, and without the examples that fill up the last batch.
                losses = self.accelerator.gather_for_metrics(loss.repeat(find_batch_size(inputs)))
                total += losses.sum()
                n_examples += len(losses)
        return total.item() / n_examples

    def _refuse_what_cannot_be_tuned(self) -> None:
        args, options = self.args, self._options
        if self.lr_scheduler is not None:
            raise ConfigError("optimizers: pass (optimizer, None); the LR is the tuner's")
        if args.lr_scheduler_type not in UNSCHEDULED or args.warmup_steps:
            raise ConfigError("lr_scheduler_type, warmup_steps: leave them out; the tuner sets the LR, and warms up")
        if "total_steps" in options:
            raise ConfigError("lrpilot: total_steps is the Trainer's max_steps, or its epochs' steps")
        if "total_time_s" in options:
            raise ConfigError("lrpilot: total_time_s: the Trainer ends after max_steps, or its epochs; leave it out")
        if options.get("validate") == "eval" and options.get("mode") == "max":
            raise ConfigError('lrpilot: mode="max", and validate="eval" is a loss; leave mode out, or give a function')
        if options.get("validate") == "eval" and (self.eval_dataset is None or isinstance(self.eval_dataset, dict)):
            raise ConfigError('lrpilot: validate="eval" needs one eval_dataset')
        refuse_other_parallelism(self.accelerator)
        if args.world_size > 1 and not self.accelerator.even_batches:
            raise ConfigError("accelerator_config: even_batches must be True; all processes make the same steps")
        if (
            getattr(self, "is_distributed_loading_by_transformers", False)
            or (getattr(self.model, "tp_size", None) or 1) > 1
        ):
            raise ConfigError(
                "model: from_pretrained has spread it over the processes (tensor parallelism); load it whole, and "
                "use DDP or fsdp=True"
            )


class TunedLR(LRScheduler):
    """A scheduler that leaves the LR alone; `get_last_lr` tells what the optimizer has."""

    def get_lr(self) -> list[float | torch.Tensor]:
        """The LRs as they are; the base LRs when the scheduler is made, also where a run before has left others."""
        return self.base_lrs if self.last_epoch == 0 else self.get_last_lr()

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """The LR of every group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]


class _Steps(TrainerCallback):
    """Tells a trainer where its loop is."""

    def __init__(self, trainer: TunerTrainer) -> None:
        self._trainer = trainer
        self._epoch_begins = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._begin(state)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._epoch_begins = True

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._epoch_begins:
            self._epoch_begins = False
            self._trainer._begin_epoch(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._trainer._end_step(state, control)


class _Updates:
    """The training data from its start, in updates: those that the Trainer's loop would make of it."""

    def __init__(self, trainer: TunerTrainer) -> None:
        self._trainer = trainer

    @functools.cached_property
    def _loader(self) -> Any:
        """Made once: persistent workers live as long as it does."""
        with preserved():
            return self._trainer.get_train_dataloader()

    @property
    def per_epoch(self) -> int | None:
        """The updates of an epoch; None: its data are a stream."""
        if not has_length(self._loader):
            return None
        n: int = -(-len(self._loader) // self._trainer.args.gradient_accumulation_steps)
        return n

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self._loader, "set_epoch"):
            self._loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[Update]:
        trainer, batches = self._trainer, iter(self._loader)
        n = trainer.args.gradient_accumulation_steps
        while (update := trainer.get_batch_samples(batches, n, trainer.args.device))[0]:
            yield update


@contextlib.contextmanager
def _dataloaders_preserved(accelerator: Any) -> Iterator[None]:
    """Accelerate's note of the loaders that are being iterated over: one that was left midway would stay in it."""
    state = accelerator.gradient_state
    references = state.dataloader_references
    try:
        yield
    finally:
        state.dataloader_references = references
