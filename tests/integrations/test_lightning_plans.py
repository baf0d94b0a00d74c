"""Plans that change in the middle of a Lightning fit, by whatever hook: extensions, new searches, annealings."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lrpilot.integrations.lightning import TunerCallback
from lrpilot.run.observer import Observer, TunedRun
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.jobs.kept_jobs import KeptJobs
from tests.support.training.same_bits import assert_same
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import ChangeKind, PlanChange

pytestmark = [
    # Lightning's advice about workers and intervals; and its own uses of what its libraries deprecate.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]
N_BATCHES = 10
SEARCHED: dict[str, Any] = {"policy_options": {"probe_steps": 5, "refinements": 0, "max_candidates": 4}}


class Net(LightningModule):  # type: ignore[misc]  # Lightning's types are not read
    """Counts the steps that stay."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        loss: torch.Tensor = (self.layer(inputs) - targets).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class At(Callback):  # type: ignore[misc]  # Lightning's types are not read
    """Does something once, in a hook, at a step of the Trainer's."""

    def __init__(self, hook: str, step: int, act: Callable[[Trainer], None]) -> None:
        self._step, self._act, self.done = step, act, False
        setattr(self, hook, self._maybe)

    def _maybe(self, trainer: Trainer, *_: Any) -> None:
        if not self.done and trainer.global_step >= self._step:
            self.done = True
            self._act(trainer)


def fit(
    jobs: KeptJobs, at: Callable[[TunerCallback], list[Callback]], **limits: Any
) -> tuple[Trainer, TunerCallback, Net]:
    callback = TunerCallback(transport=jobs, lr_bounds=(1e-3, 0.3), **limits.pop("tuner", {}))
    first, *rest = at(callback)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[first, callback, *rest],
        **limits,
    )
    inputs = torch.randn(4 * N_BATCHES, 4, generator=torch.Generator().manual_seed(0))
    net = Net()
    trainer.fit(net, DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4))
    return trainer, callback, net


def assert_whole(jobs: KeptJobs, trainer: Trainer, callback: TunerCallback) -> None:
    """The Trainer counts what was committed, also where it was rolled back; all steps of the plan were made."""
    tuner = callback.tuner
    assert tuner.committed_step == jobs.state.committed_steps
    assert trainer.global_step == tuner.committed_step + jobs.state.given_back_steps
    assert tuner.search_steps == jobs.state.search_steps
    assert tuner.finished
    assert jobs.state.status is Status.FINISHED


HOOKS = ["on_train_batch_start", "on_train_batch_end", "on_train_epoch_start", "on_before_zero_grad"]


@pytest.mark.parametrize("place", [0, 1], ids=["before the tuner", "after the tuner"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_run_whose_data_change_is_searched_in_mid_fit(hook: str, place: int) -> None:
    jobs = KeptJobs()
    idle = At("on_train_end", 0, lambda trainer: None)

    def at(callback: TunerCallback) -> list[Callback]:
        replan = At(hook, 300, lambda trainer: callback.tuner.replan("other data"))
        return [replan, idle] if place == 0 else [idle, replan]

    trainer, callback, _ = fit(jobs, at, max_epochs=100, tuner=SEARCHED)
    assert_whole(jobs, trainer, callback)
    assert callback.tuner.committed_step + callback.tuner.search_steps == 1000
    [change] = [entry.directive.change for entry in jobs.history if entry.directive.change]
    assert (change.kind, change.reason) == (ChangeKind.REPLAN, "other data")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_run_is_extended_with_the_trainer(hook: str) -> None:
    """By the program itself, which tells both."""
    jobs = KeptJobs()

    def extend(callback: TunerCallback, trainer: Trainer) -> None:
        trainer.fit_loop.max_epochs = 30
        callback.tuner.extend(100)

    at = lambda callback: [At(hook, 55, lambda trainer: extend(callback, trainer))]  # noqa: E731
    trainer, callback, _ = fit(jobs, at, max_epochs=20)
    assert_whole(jobs, trainer, callback)
    assert trainer.global_step == jobs.state.total_steps == 300


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
def test_a_trainer_that_is_given_more_to_do_takes_the_plan_along(limit: str, caplog: pytest.LogCaptureFixture) -> None:
    jobs = KeptJobs()

    def more(trainer: Trainer) -> None:
        loop = trainer.fit_loop if limit == "max_epochs" else trainer.fit_loop.epoch_loop
        setattr(loop, limit, 30 if limit == "max_epochs" else 300)

    at = lambda callback: [At("on_train_epoch_end", 60, more)]  # noqa: E731
    limits = {"max_epochs": 20} if limit == "max_epochs" else {"max_steps": 200, "max_epochs": -1}
    with caplog.at_level(logging.WARNING, "lrpilot"):
        trainer, callback, _ = fit(jobs, at, **limits)
    assert_whole(jobs, trainer, callback)
    assert trainer.global_step == jobs.state.total_steps == 300
    assert "the Trainer ends at" not in caplog.text


def test_a_plan_that_is_longer_than_the_trainer_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    jobs = KeptJobs()
    ask = lambda trainer: jobs.request(PlanChange(kind=ChangeKind.EXTEND, total_steps=300))  # noqa: E731
    with caplog.at_level(logging.WARNING, "lrpilot"):
        trainer, callback, _ = fit(jobs, lambda callback: [At("on_train_epoch_end", 60, ask)], max_epochs=20)
    assert trainer.global_step == 200
    assert callback.tuner.remaining_steps == 100
    assert caplog.text.count("the plan has") == 1
    assert "raise trainer.fit_loop.max_epochs" in caplog.text


@pytest.mark.parametrize("who", ["the program", "the server"])
def test_an_annealing_ends_the_fit(who: str) -> None:
    jobs = KeptJobs()

    def anneal(callback: TunerCallback) -> None:
        if who == "the program":
            callback.tuner.anneal(30)
        else:
            jobs.request(PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=30))

    at = lambda callback: [At("on_train_batch_end", 50, lambda trainer: anneal(callback))]  # noqa: E731
    trainer, callback, _ = fit(jobs, at, max_epochs=100)
    assert_whole(jobs, trainer, callback)
    assert 79 <= trainer.global_step <= 140


class Undoes(Observer):
    """Keeps the annealed model, and goes on from before."""

    def __init__(self) -> None:
        self.before: list[Any] = []
        self.annealed: list[Any] = []
        self.after: list[Any] = []
        self.callback: TunerCallback
        self.net: Net

    def began(self, run: TunedRun, directive: pb.Directive) -> None:
        if directive.change.kind == pb.PLAN_CHANGE_KIND_ANNEAL:
            self.before.append(copy.deepcopy(self.net.state_dict()))

    def finished(self, run: TunedRun) -> None:
        if not self.annealed:
            self.annealed.append(copy.deepcopy(self.net.state_dict()))
            self.callback.tuner.undo_annealing()
            self.after.append(copy.deepcopy(self.net.state_dict()))


def test_an_annealed_model_is_taken_on_the_way() -> None:
    jobs, undoes = KeptJobs(), Undoes()

    def anneal(callback: TunerCallback, trainer: Trainer) -> None:
        undoes.callback, undoes.net = callback, trainer.lightning_module
        callback.tuner.anneal(30)

    at = lambda callback: [At("on_train_batch_start", 50, lambda trainer: anneal(callback, trainer))]  # noqa: E731
    trainer, callback, _ = fit(jobs, at, max_epochs=20, tuner={"observers": [undoes]})
    assert not torch.equal(undoes.annealed[0]["layer.weight"], undoes.before[0]["layer.weight"])
    assert_same(undoes.after, undoes.before)
    assert callback.tuner.finished
    assert jobs.state.total_steps == 200
    assert callback.tuner.committed_step == 170
    assert trainer.global_step == 200, "the Trainer counts the annealing too"
