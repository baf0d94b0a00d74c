"""Plans that change in the middle of a tuned Trainer's training, by whatever hook of a callback."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lrpilot.integrations.transformers import TunerTrainer
from lrpilot.run.observer import Observer, TunedRun
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from tests.support.jobs.kept_jobs import KeptJobs
from tests.support.training.same_bits import assert_same
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import ChangeKind, PlanChange

SEARCHED: dict[str, Any] = {"probe_steps": 5, "refinements": 0, "max_candidates": 4}


class Regressor(nn.Module):
    main_input_name = "x"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(x) - labels).square().mean()}


class At(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Does something once, in a hook, at a step of the Trainer's."""

    def __init__(self, hook: str, step: int, act: Callable[[], None]) -> None:
        self._step, self._act, self.done = step, act, False
        setattr(self, hook, self._maybe)

    def _maybe(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.done and state.global_step >= self._step:
            self.done = True
            self._act()


def trainer(path: Path, jobs: KeptJobs, *, observers: tuple[Observer, ...] = (), **limits: Any) -> TunerTrainer:
    inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    args = TrainingArguments(
        output_dir=str(path),
        per_device_train_batch_size=4,
        learning_rate=0.03,
        logging_strategy="no",
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **limits,
    )
    options: Any = {"transport": jobs, "lr_bounds": (1e-3, 0.3), "policy_options": SEARCHED, "observers": observers}
    data = [{"x": x, "labels": x.sum(dim=0, keepdim=True)} for x in inputs]
    return TunerTrainer(model=Regressor(), args=args, train_dataset=data, lrpilot=options)


def tuner_of(made: TunerTrainer) -> Tuner:
    """The present one."""
    assert made.tuner is not None
    return made.tuner


def assert_whole(jobs: KeptJobs, made: TunerTrainer) -> None:
    """The Trainer counts what was committed, also where it was rolled back; all steps of the plan were made."""
    tuner = tuner_of(made)
    assert tuner.committed_step == jobs.state.committed_steps
    assert made.state.global_step == tuner.committed_step + jobs.state.given_back_steps
    assert tuner.search_steps == jobs.state.search_steps
    assert tuner.finished
    assert jobs.state.status is Status.FINISHED


@pytest.mark.parametrize("hook", ["on_step_begin", "on_step_end", "on_pre_optimizer_step", "on_epoch_begin"])
def test_a_run_whose_data_change_is_searched_in_mid_training(tmp_path: Path, hook: str) -> None:
    jobs = KeptJobs()
    made = trainer(tmp_path, jobs, max_steps=700)
    made.add_callback(At(hook, 300, lambda: tuner_of(made).replan("other data")))
    made.train()
    assert_whole(jobs, made)
    assert jobs.state.run_steps == 700
    [change] = [entry.directive.change for entry in jobs.history if entry.directive.change]
    assert (change.kind, change.reason) == (ChangeKind.REPLAN, "other data")


def test_a_run_is_annealed_and_ends_there(tmp_path: Path) -> None:
    jobs = KeptJobs()
    made = trainer(tmp_path, jobs, max_steps=400)
    made.add_callback(At("on_step_end", 100, lambda: tuner_of(made).anneal(25)))
    made.train()
    assert_whole(jobs, made)
    assert made.state.global_step in (125, 126)


def test_an_extension_ends_with_the_last_epoch_at_the_latest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By as much as the last epoch has left it takes effect whole; a longer one is said to be cut off."""
    jobs = KeptJobs()
    made = trainer(tmp_path, jobs, max_steps=35)
    made.add_callback(At("on_step_end", 15, lambda: jobs.request(PlanChange(kind=ChangeKind.EXTEND, total_steps=40))))
    with caplog.at_level(logging.WARNING, "lrpilot"):
        made.train()
        assert_whole(jobs, made)
        assert made.state.global_step == 40
        assert "the plan has" not in caplog.text
        made.args.max_steps = 35
        made.add_callback(At("on_step_end", 15, lambda: tuner_of(made).extend(40)))
        made.train()
    assert made.state.global_step == 40
    assert caplog.text.count("the plan has") == 1


class Undoes(Observer):
    """Keeps the annealed model, and goes on from before."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.made: TunerTrainer

    def began(self, run: TunedRun, directive: pb.Directive) -> None:
        if directive.change.kind == pb.PLAN_CHANGE_KIND_ANNEAL:
            self.states.append(copy.deepcopy(self.made.model.state_dict()))

    def finished(self, run: TunedRun) -> None:
        if len(self.states) == 1:
            self.states.append(copy.deepcopy(self.made.model.state_dict()))
            tuner_of(self.made).undo_annealing()
            self.states.append(copy.deepcopy(self.made.model.state_dict()))


def test_an_annealed_model_is_taken_on_the_way(tmp_path: Path) -> None:
    jobs, undoes = KeptJobs(), Undoes()
    made = undoes.made = trainer(tmp_path, jobs, observers=(undoes,), max_steps=200)
    made.add_callback(At("on_step_end", 50, lambda: tuner_of(made).anneal(30)))
    made.train()
    before, annealed, after = undoes.states
    assert_same(after, before)
    assert not torch.equal(annealed["layer.weight"], before["layer.weight"])
    assert jobs.state.committed_steps == 170
    assert jobs.state.status is Status.FINISHED
