"""A run that is resumed with other arguments: to another end it is planned anew, else refused; no LR ever jumps."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from lrpilot.errors import ConfigError
from lrpilot.tuner import Tuner
from torch import nn

from tests.support.jobs.kept_jobs import KeptJobs
from tuner_server.core.job.machine import Status

BOUNDS = (1e-4, 1e-1)


class Run:
    """A linear regression by AdamW, of `total_steps`."""

    def __init__(self, total_steps: int | None, jobs: KeptJobs | None = None, **options: Any) -> None:
        torch.manual_seed(0)
        self.data = [(x, x.sum(1, keepdim=True).tanh()) for x in torch.randn(40, 16, 8)]
        self.model = nn.Linear(8, 1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.jobs = jobs or KeptJobs()
        self.options: dict[str, Any] = {"lr_bounds": BOUNDS, "total_steps": total_steps, **options}
        self.tuner = Tuner(self.model, self.optimizer, transport=self.jobs, **self.options)

    def train(self, n_steps: int | None = None) -> list[float]:
        """The LRs of so many steps, or of all that are left."""
        lrs = []
        for x, y in self.tuner.batches(self.data):
            lrs.append(float(self.optimizer.param_groups[0]["lr"]))
            loss = nn.functional.mse_loss(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.optimizer.step()
            self.tuner.step(loss)
            if len(lrs) == n_steps:
                break
        return lrs

    def checkpoint(self) -> dict[str, Any]:
        states = self.model.state_dict(), self.optimizer.state_dict(), self.tuner.state_dict()
        return dict(zip(("model", "optimizer", "tuner"), copy.deepcopy(states), strict=True))

    def load(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.tuner.load_state_dict(checkpoint["tuner"])


class LoadedFirst(Run):
    """A run whose tuner is made when model and optimizer are loaded already."""

    def load(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.tuner = Tuner(self.model, self.optimizer, transport=self.jobs, **self.options)
        self.tuner.load_state_dict(checkpoint["tuner"])


def jump(lrs: list[float]) -> float:
    """The largest step upwards, as a part of the highest LR."""
    return max((after - before) / max(lrs) for before, after in itertools.pairwise(lrs))


@pytest.mark.parametrize(
    ("after", "total_steps"), [(600, 2400), (1000, 2400), (1200, 2400), (1200, 1201), (700, 900), (600, 600)]
)
def test_another_budget_is_planned_anew(after: int, total_steps: int) -> None:
    first = Run(1200)
    last = first.train(after)[-1]
    peak = max(segment.profile.lr(segment.profile.warmup) for segment in first.tuner.schedule.segments)
    second = Run(total_steps, first.jobs)
    second.load(first.checkpoint())
    lrs = second.train()
    assert len(lrs) == total_steps - after
    assert second.tuner.committed_step + second.tuner.search_steps == total_steps
    assert second.tuner.search_steps == first.tuner.search_steps
    if not lrs:
        return
    assert lrs[0] == pytest.approx(last, abs=0.05 * peak)
    assert lrs[-1] <= 0.01 * peak
    if len(lrs) > 1:
        assert jump([last, *lrs]) < 0.05
    assert max(lrs) <= peak
    # What the server knows is the whole run.
    assert second.jobs.state.status is Status.FINISHED
    assert second.jobs.state.committed_steps == second.tuner.committed_step
    assert second.jobs.state.search_steps == second.tuner.search_steps
    assert len(second.tuner.schedule.losses) == second.tuner.committed_step


def test_a_run_that_is_far_below_its_new_line_rises_to_it_again() -> None:
    first = Run(1200)
    first.train()
    peak = max(segment.profile.lr(segment.profile.warmup) for segment in first.tuner.schedule.segments)
    second = Run(2400, first.jobs)
    second.load(first.checkpoint())
    lrs = second.train()
    assert max(lrs) == pytest.approx(peak * 1200 / 2190, rel=0.05)
    assert lrs.index(max(lrs)) == pytest.approx(60, abs=5)


def test_a_search_that_is_open_goes_on_and_the_run_to_its_new_end() -> None:
    first = Run(1200)
    first.train(70)
    assert first.tuner.searching
    second = Run(2400, first.jobs)
    second.load(first.checkpoint())
    assert len(second.train()) == 2400 - 70
    assert second.tuner.committed_step + second.tuner.search_steps == 2400
    assert second.jobs.state.search_steps == second.tuner.search_steps
    assert second.jobs.state.status is Status.FINISHED


def test_fewer_steps_than_were_made_are_refused_and_nothing_has_changed() -> None:
    first = Run(1200)
    first.train(900)
    second = Run(700, first.jobs)
    with pytest.raises(ConfigError, match="total_steps: 700, but the run of the checkpoint has made 900 steps already"):
        second.load(first.checkpoint())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": 3}, "seed: 3, but the run of the checkpoint was begun with 0"),
        (
            {"lr_bounds": (1e-3, 1.0)},
            "lr_bounds: 0.001 to 1, but the run of the checkpoint was begun with 0.0001 to 0.1",
        ),
        ({"policy": "autolrs"}, "policy: 'autolrs', but the run of the checkpoint was begun with none"),
        ({"policy_options": {"refinements": 1}}, "policy_options: {'refinements': 1.0}, but"),
        ({"validate": lambda: 1.0}, "validate: given, but the run of the checkpoint was begun with none"),
        ({"total_steps": None}, "total_steps: none, but the run of the checkpoint was begun with 1200"),
    ],
)
def test_other_arguments_are_refused(options: dict[str, Any], sentence: str) -> None:
    first = Run(1200)
    first.train(300)
    second = Run(**{"total_steps": 1200, "jobs": first.jobs, **options})
    with pytest.raises(ConfigError) as refusal:
        second.load(first.checkpoint())
    assert sentence in str(refusal.value)
    assert "resume with that" in str(refusal.value) or "give that" in str(refusal.value)


def test_a_run_that_was_planned_anew_can_be_resumed_again() -> None:
    first = Run(1200)
    first.train(600)
    second = Run(2400, first.jobs)
    second.load(first.checkpoint())
    second.train(500)
    checkpoint, expected = second.checkpoint(), second.train()
    third = Run(2400, first.jobs)
    third.load(checkpoint)
    assert third.train() == expected
    assert torch.equal(third.model.weight, second.model.weight)


def test_steps_beyond_the_first_plan_are_kept_when_the_run_is_resumed_with_its_first_arguments() -> None:
    first = Run(1200)
    first.train(600)
    first.tuner.extend(300)
    first.train(100)
    second = Run(1200, first.jobs)
    second.load(first.checkpoint())
    assert len(second.train()) == 800
    assert first.jobs.state.total_steps == 1500


@pytest.mark.parametrize("n_steps", [45, 300])
def test_the_base_is_that_of_the_run_whatever_lr_the_optimizer_was_loaded_with(n_steps: int) -> None:
    """The checkpoint is from a probe, whose LR is above the one that was set, or from committed steps."""
    run = Run(600)
    lrs = run.train(n_steps)
    checkpoint = run.checkpoint()
    lrs += run.train()
    resumed = LoadedFirst(600, run.jobs)
    resumed.load(checkpoint)
    assert resumed.train() == lrs[n_steps:]
    assert resumed.tuner.schedule == run.tuner.schedule
    assert resumed.tuner.schedule.base_lrs == (1e-3,)
