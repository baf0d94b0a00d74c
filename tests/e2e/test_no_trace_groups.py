"""Parameter groups that a loop adds in mid-run, and modules that are compiled or wrapped."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lrpilot.tuner import Tuner
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel

from tests.support.training.no_trace import (
    Bits,
    Loop,
    assert_no_trace,
    batches,
    differences,
    loop,
    network,
    seed,
)
from tests.support.training.scripted_directives import ResumableScript, probe, training

# --- groups -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Growing:
    """A run that unfreezes a layer, as a group of its own, after so many committed steps, or in a probe."""

    script: list[Any]
    grow_at: int = 2

    def __post_init__(self) -> None:
        seed()
        self.model = network()
        self.model[0].requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model[4].parameters(), lr=0.02)
        total_steps = sum(directive.n_steps for directive in self.script)
        self.tuner = Tuner(self.model, self.optimizer, transport=ResumableScript(self.script), total_steps=total_steps)
        self.base = loop(self.model, self.optimizer)
        self.in_probe = False
        self.n_steps = 0
        self.diverging: Sequence[int] = ()
        self.lrs: list[list[float]] = []

    def grow(self) -> None:
        self.model[0].requires_grad_(True)
        self.optimizer.add_param_group({"params": list(self.model[0].parameters()), "lr": self.tuner.lr / 4})

    def bits(self) -> Any:
        return Bits().of([self.model.state_dict(), self.optimizer.state_dict(), torch.get_rng_state()])

    def run(self, n_steps: int | None = None) -> Growing:
        """Goes on to the end, or for so many steps."""
        for batch in self.tuner.batches(batches()):
            self.n_steps += 1
            loss = self.base.update(batch)
            self.tuner.step(loss * float("nan") if self.n_steps in self.diverging else loss)
            due = self.tuner.searching if self.in_probe else self.tuner.committed_step == self.grow_at
            if due and len(self.optimizer.param_groups) == 1:
                self.grow()
            self.lrs.append(self.tuner.get_last_lr())
            if len(self.lrs) == n_steps:
                break
        return self


def diverging() -> Growing:
    """The committed steps in which the group is added are rolled back: the last loss is no number."""
    script = [training(0.02, 4), training(0.01, 4, restore=True), probe(0.3, 3, first=True)]
    run = Growing([*script, training(0.04, 6, restore=True)])
    run.diverging = (4,)
    return run


def test_a_group_of_committed_steps_outlives_their_rollback_with_its_ratio() -> None:
    run = diverging().run()
    assert len(run.optimizer.param_groups) == 2
    assert all(lrs[1] == pytest.approx(lrs[0] / 4) for lrs in run.lrs if len(lrs) == 2)
    assert run.lrs[-2] == pytest.approx([0.04, 0.01])
    assert all(p.requires_grad for p in run.model[0].parameters())


@pytest.mark.parametrize("n_steps", [3, 4, 6, 9, 12, 15])
def test_a_checkpoint_after_that_goes_on_bit_for_bit(n_steps: int) -> None:
    whole = diverging().run()
    first = diverging().run(n_steps)
    file = io.BytesIO()
    torch.save([first.model.state_dict(), first.optimizer.state_dict(), first.tuner.state_dict()], file)
    file.seek(0)
    model, optimizer, tuner = torch.load(file, weights_only=False)

    second = diverging()
    second.n_steps = n_steps
    second.grow()
    second.model.load_state_dict(model)
    second.optimizer.load_state_dict(optimizer)
    second.tuner.load_state_dict(tuner)
    second.run()
    assert [*first.lrs, *second.lrs] == whole.lrs
    assert differences(whole.bits(), second.bits()) == []


def test_a_group_that_is_added_in_a_probe_goes_with_it(caplog: pytest.LogCaptureFixture) -> None:
    run = Growing([probe(0.3, 4, first=True), training(0.02, 4, restore=True)])
    run.in_probe = True
    run.run()
    assert len(run.optimizer.param_groups) == 1
    assert not any(p.requires_grad for p in run.model[0].parameters())
    assert "went with it" in caplog.text


# --- compiled and wrapped modules -------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Keeps a plain attribute, and lists of modules and tensors, as it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.others = [nn.Linear(1, 1)]
        self.seen = torch.zeros(1)
        self.table: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        self.seen = self.seen + y.detach().mean()
        self.table["last"] = y.detach()
        out: torch.Tensor = self.others[0](y) + 0.1 * self.seen
        return out


@pytest.mark.slow
@pytest.mark.parametrize("how", ["wrapped", "in place", "inner"])
def test_a_compiled_module_leaves_no_trace_and_is_not_compiled_again(how: str) -> None:
    counters: list[CompileCounter] = []

    def make() -> Loop:
        torch._dynamo.reset()
        counter = CompileCounter()
        counters.append(counter)
        model: Any = Counting()
        if how == "wrapped":
            model = torch.compile(model, backend=counter)
        elif how == "in place":
            model.compile(backend=counter)
        elif how == "inner":
            model.body = torch.compile(model.body, backend=counter)
        return loop(model)

    assert_no_trace(make)
    plain, probed = counters
    assert 0 < probed.frame_count <= plain.frame_count


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A world of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("views", [True, False])
def test_a_module_under_ddp_leaves_no_trace(views: bool) -> None:
    def make() -> Loop:
        model: Any = DistributedDataParallel(Counting(), gradient_as_bucket_view=views, find_unused_parameters=True)
        return loop(model)

    assert_no_trace(make)
