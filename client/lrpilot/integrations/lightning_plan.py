"""How many optimizer steps a Lightning Trainer has before it, and what would keep a tuner from planning them."""

from __future__ import annotations

import logging
import math

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging, Timer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from lrpilot.errors import ConfigError

log = logging.getLogger("lrpilot")


def steps_ahead(trainer: Trainer) -> int | None:
    """The optimizer steps that the Trainer will still make; None if nothing but the user ends it.

    To be asked when training starts, from a checkpoint or not, or when an epoch does.
    """
    by_steps = math.inf if trainer.max_steps == -1 else trainer.max_steps - trainer.global_step
    n_batches = trainer.num_training_batches
    if trainer.max_epochs == -1 or n_batches == math.inf:
        return None if by_steps == math.inf else int(by_steps)
    n_epochs = trainer.max_epochs - trainer.fit_loop.epoch_progress.current.processed
    n_done, by_epochs = _batches_done(trainer), 0
    for number in range(n_epochs):
        size = present_accumulation(trainer) if number == 0 else accumulation(trainer, trainer.current_epoch + number)
        if n_done < n_batches:
            by_epochs += math.ceil(n_batches / size) - n_done // size
        n_done = 0
    return int(min(by_steps, by_epochs))


def accumulation(trainer: Trainer, epoch: int) -> int:
    """How many micro-batches make a step in an epoch."""
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            size: int = callback.get_accumulate_grad_batches(epoch)
            return size
    return int(trainer.accumulate_grad_batches)


def present_accumulation(trainer: Trainer) -> int:
    """How many micro-batches make a step in the epoch that begins, or goes on."""
    if _goes_on(trainer):  # Lightning does not call the hook that would change it.
        return int(trainer.accumulate_grad_batches)
    return accumulation(trainer, trainer.current_epoch)


def next_accumulation(trainer: Trainer) -> int:
    """How many micro-batches make the step that follows on a batch."""
    if trainer.fit_loop.epoch_loop._num_ready_batches_reached():
        return accumulation(trainer, trainer.current_epoch + 1)
    return int(trainer.accumulate_grad_batches)


def _goes_on(trainer: Trainer) -> bool:
    """Whether a checkpoint was loaded that lies within an epoch."""
    return bool(trainer.fit_loop.restarted_mid_epoch or trainer.fit_loop.restarted_on_epoch_end)


def _batches_done(trainer: Trainer) -> int:
    """The batches of the epoch that begins, or goes on; found as Lightning's loop finds them when it is reset."""
    loop = trainer.fit_loop.epoch_loop
    if not loop.restarting:
        return 0
    n_done = int(loop.batch_progress.current.completed)
    if not loop.restarted_on_train_batch_end:
        return n_done
    return n_done + 1 if n_done + 1 < trainer.num_training_batches else 0


def refuse_what_cannot_be_tuned(trainer: Trainer, module: LightningModule) -> None:
    """Raises: ConfigError: something else sets the LR too, or the steps are not Lightning's."""
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


def warn_of_an_early_end(trainer: Trainer, n_steps: int | None) -> None:
    """Says so if the Trainer may end before a tuner whose budget the user gave has made its steps."""
    ahead = steps_ahead(trainer)
    if n_steps is not None and ahead is not None and ahead < n_steps:
        log.warning(
            "lrpilot: total_steps leaves %d steps, and the Trainer makes %d: where it ends first, the LR is not at its "
            "end; leave total_steps out, or raise max_epochs or max_steps",
            n_steps,
            ahead,
        )


def warn_of_a_spent_budget(n_steps: int) -> None:
    """Says that a second fit has nothing to do."""
    log.warning(
        "lrpilot: nothing is left to train: the Trainer's fits before have made the %d steps that it was told to, "
        "search included; raise max_epochs or max_steps",
        n_steps,
    )


def warn_of_a_moved_end(planned: int | None, end: int | None) -> None:
    """Says that the Trainer ends at another step than it was to when training started."""
    log.warning(
        "lrpilot: the Trainer ends at step %s now, and the LR is planned for %s: max_epochs, the number of batches or "
        "accumulate_grad_batches has changed in mid-fit; give TunerCallback(total_steps=...)",
        end,
        planned,
    )


def warn_of_a_longer_plan(n_steps: int, ahead: int) -> None:
    """Says that the Trainer ends before a run that was extended."""
    log.warning(
        "lrpilot: the plan has %d steps left, and the Trainer makes %d: where it ends first, the LR is not at its end; "
        "raise trainer.fit_loop.max_epochs or epoch_loop.max_steps",
        n_steps,
        ahead,
    )


def warn_of_max_time(trainer: Trainer) -> None:
    """Says that a time ends the run where the LR is planned in steps."""
    if any(isinstance(callback, Timer) and callback._duration is not None for callback in trainer.callbacks):
        log.warning(
            "lrpilot: the Trainer's max_time may end the run before the LR is at its end, which is planned in steps; "
            "give TunerCallback the time, as total_time_s in seconds"
        )
