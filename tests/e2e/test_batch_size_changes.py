"""Adam's betas and eps follow the batch size where the training program asks for it, and stay with the change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lrpilot.errors import ConfigError
from lrpilot.tuner import Tuner
from lrpilot.wire.outcome import Outcome
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.jobs.unsteady_jobs import UnsteadyJobs

TOTAL = 600
OPTIONS = {"probe_steps": 5, "refinements": 0, "max_candidates": 4}
SCALED = pytest.approx([0.8, 0.998, 1e-8 / 2**0.5])


class AdamRun:
    """A regression by AdamW whose batches may become larger."""

    def __init__(self, jobs: UnsteadyJobs, kind: type[torch.optim.Optimizer] = torch.optim.AdamW) -> None:
        torch.manual_seed(0)
        self.jobs = jobs
        self.inputs = torch.randn(64, 4)
        self.model = nn.Linear(4, 1)
        self.optimizer = kind(self.model.parameters(), lr=0.01)  # type: ignore[call-arg]
        self.tuner = Tuner(
            self.model, self.optimizer, transport=jobs, total_steps=TOTAL, lr_bounds=(1e-3, 0.3), policy_options=OPTIONS
        )
        self.batch_size = 8

    def train(self, n_steps: int | None = None, spike_at: int | None = None) -> None:
        """So many steps, or all that are left; the loss is not finite at one of them."""
        data = TensorDataset(self.inputs, self.inputs.sum(1, keepdim=True).tanh())
        for made, (x, y) in enumerate(self.tuner.batches(DataLoader(data, batch_size=self.batch_size)), start=1):
            loss = nn.functional.mse_loss(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.optimizer.step()
            self.tuner.step(loss * float("nan") if made == spike_at else loss)
            if made == n_steps:
                break

    def train_to_commit(self) -> None:
        """Until the search is over, and some steps more."""
        while self.tuner.searching:
            self.train(1)
        self.train(20)

    @property
    def constants(self) -> list[float]:
        """Betas and eps."""
        group = self.optimizer.param_groups[0]
        return [*group["betas"], group["eps"]]


@pytest.fixture
def run() -> Iterator[AdamRun]:
    started = AdamRun(UnsteadyJobs())
    yield started
    started.tuner.close()


def test_betas_and_lr_follow_on_request(run: AdamRun) -> None:
    run.train_to_commit()
    run.tuner.replan(batch_size=16, scale_betas=True)
    assert run.constants == SCALED
    run.batch_size = 16
    run.train()
    assert run.constants == SCALED
    before, after = run.tuner.schedule.segments
    assert after.profile.start_lr == pytest.approx(max(map(before.profile.lr, range(before.n_steps))) * 2**0.5)


def test_they_stay_where_they_are_not_asked_for(run: AdamRun) -> None:
    run.train_to_commit()
    run.tuner.replan(batch_size=16)
    run.train(50)
    assert run.constants == [0.9, 0.999, 1e-8]


def test_in_a_search_they_follow_when_it_is_over(run: AdamRun) -> None:
    run.train(7)
    run.tuner.replan(batch_size=16, scale_betas=True)
    seen: list[Any] = []
    while run.tuner.searching:
        seen.append(run.constants)
        run.train(1)
    old = seen.count([0.9, 0.999, 1e-8])
    assert 5 < old < len(seen), "the search that follows is one with the new batches"
    assert all(constants == SCALED for constants in seen[old:])
    assert run.constants == SCALED


def test_a_rollback_to_the_change_keeps_them_and_so_does_a_checkpoint(run: AdamRun) -> None:
    run.train_to_commit()
    run.tuner.replan(batch_size=16, scale_betas=True)
    run.train(60, spike_at=30)
    assert Outcome.DIVERGED in {entry.report.outcome for entry in run.jobs.history if entry.report is not None}
    assert run.constants == SCALED
    saved = copy.deepcopy({"o": run.optimizer.state_dict(), "m": run.model.state_dict(), "t": run.tuner.state_dict()})
    other = AdamRun(UnsteadyJobs())
    other.model.load_state_dict(saved["m"])
    other.optimizer.load_state_dict(saved["o"])
    other.tuner.load_state_dict(saved["t"])
    assert other.constants == SCALED
    other.train(5)
    assert other.constants == SCALED
    other.tuner.close()


def test_a_checkpoint_in_a_search_remembers_what_was_asked_for() -> None:
    jobs = UnsteadyJobs()
    run = AdamRun(jobs)
    run.train(7)
    run.tuner.replan(batch_size=16, scale_betas=True)
    saved = copy.deepcopy({"o": run.optimizer.state_dict(), "m": run.model.state_dict(), "t": run.tuner.state_dict()})
    other = AdamRun(jobs)
    other.model.load_state_dict(saved["m"])
    other.optimizer.load_state_dict(saved["o"])
    other.tuner.load_state_dict(saved["t"])
    other.train_to_commit()
    assert other.constants == SCALED


def test_what_cannot_be_is_refused_and_nothing_is_changed(run: AdamRun) -> None:
    run.train_to_commit()
    with pytest.raises(ConfigError, match=r"beta1 = 0.9.*less than 10"):
        run.tuner.replan(batch_size=80, scale_betas=True)
    with pytest.raises(ConfigError, match="give the new batch_size"):
        run.tuner.replan(scale_betas=True)
    assert run.constants == [0.9, 0.999, 1e-8]
    run.tuner.replan(batch_size=16, scale_betas=True)
    assert run.constants == SCALED, "the refused batch size is not the old one"


@pytest.mark.parametrize(("kind", "words"), [(torch.optim.SGD, "no optimizer has betas"), (torch.optim.Adamax, "")])
def test_other_optimizers(kind: type[torch.optim.Optimizer], words: str) -> None:
    run = AdamRun(UnsteadyJobs(), kind)
    run.train_to_commit()
    if not words:
        run.tuner.replan(batch_size=16, scale_betas=True)
        assert run.constants == SCALED
        return
    with pytest.raises(ConfigError, match=words):
        run.tuner.replan(batch_size=16, scale_betas=True)


def test_changes_that_are_too_much_together_leave_the_betas(run: AdamRun, caplog: pytest.LogCaptureFixture) -> None:
    run.train(7)
    for batch_size in (32, 128):
        run.tuner.replan(batch_size=batch_size, scale_betas=True)
    run.train_to_commit()
    assert run.constants == pytest.approx([0.6, 0.996, 5e-9])
    assert "Adam's betas stay" in caplog.text
