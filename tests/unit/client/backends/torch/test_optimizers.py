"""A probe leaves no trace in any optimizer of torch.optim and of a large collection.

A run with probes, which a tuner rolls back, and then some committed steps is compared bit for bit with a plain run of
as many steps at the same LRs on the same batches: weights, everything in the optimizer, random state.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import lrpilot
import pytest
import torch
import torch.distributed as dist
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.training.every_optimizer import CLASSES, MEMBERS, Run, Style
from tests.support.training.scripted_directives import ResumableScript, probe, training

# That is how second derivatives are had.
pytestmark = pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")

N_COMMITTED = 11
WILD = 1e3
"""Times the LR that the optimizer was made with."""

UNTUNABLE = {
    "A2Grad": "has no LR to tune",
    "AliG": "has no LR to tune",  # it computes one from the loss
    "DeMo": "You need to install `einops`",
}
"""Optimizers that no tuner can drive here, and what they or the tuner say."""
RAISING = {
    "LoRARite": "linalg.eigh",
    "SPlus": "linalg.eigh",
    "Shampoo": "linalg.svd",
}
"""Optimizers that raise by themselves in a step whose loss is not a number, in probes as elsewhere, and where.

Others that decompose a matrix now and then do so too, but not in every step.
"""
CASES = [
    pytest.param(name, style, id=f"{name} {style.__name__}")
    for name, member in MEMBERS.items()
    for style in member.styles
    if name not in UNTUNABLE
]


@pytest.fixture
def process_group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """A world of this process alone, for the optimizer that wants one."""
    if "Distributed" not in request.node.name:
        yield
        return
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def script(lr: float, wilder: float) -> list[pb.Directive]:
    """Probes before there is any state, and again in the middle of training."""
    return [
        probe(lr * WILD, 4, first=True),
        probe(wilder, 4),
        training(lr, 5, restore=True),
        probe(lr * WILD, 4, first=True),
        probe(wilder, 4),
        training(lr / 2, 20, restore=True),
    ]


class Tuned(Run):
    """A run with probes, by a tuner."""

    def __init__(self, name: str, style: Style, *, diverges: bool) -> None:
        super().__init__(MEMBERS[name], style)
        lr = float(self.tuned.param_groups[0].get("lr", 1.0))
        self.diverging_lr = lr * WILD * 1e3 if diverges else None
        self.transport = ResumableScript(script(lr, self.diverging_lr or lr * WILD * 2))
        self.lrs: list[list[float]] = []
        """Those of committed steps, and of the next one."""
        register = {} if self.tuned is self.optimizer else {"outer": self.optimizer}
        self.tuner = lrpilot.Tuner(self.net, self.tuned, transport=self.transport, total_steps=100, register=register)

    def train(self, after: Callable[[], None] = lambda: None) -> Tuned:
        """Goes on to the last committed step; calls `after` after every step."""
        tuner, begun = self.tuner, False
        for batch in tuner.batches(self.batches):
            diverging = tuner.lr == self.diverging_lr
            self.factor = float("nan") if diverging and begun else 1.0
            begun = diverging  # the first loss of a probe is that of the state it begins in
            if not tuner.searching:
                self.lrs.append(tuner.get_last_lr())
            tuner.step(self.update(batch))
            after()
            if tuner.committed_step == N_COMMITTED:
                break
        self.lrs.append(tuner.get_last_lr())
        return self


def plain(name: str, style: Style, lrs: Sequence[Sequence[float]]) -> Run:
    """Steps without a tuner."""
    run = Run(MEMBERS[name], style)
    for i, step_lrs in enumerate(lrs):
        for group, lr in zip(run.tuned.param_groups, step_lrs, strict=True):
            group["lr"] = lr
        if i < len(lrs) - 1:
            run.update(run.batches[i % len(run.batches)])
    return run


def different(first: dict[str, bytes], second: dict[str, bytes]) -> list[str]:
    """Where two states are not the same."""
    return [path for path in first | second if first.get(path) != second.get(path)]


def test_every_optimizer_is_a_member() -> None:
    assert set(MEMBERS) == set(CLASSES)
    assert set(UNTUNABLE) | set(RAISING) < set(CLASSES)


@pytest.mark.slow
@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(("name", "style"), CASES)
def test_a_probe_leaves_no_trace(name: str, style: Style) -> None:
    diverges = name not in RAISING
    probed = Tuned(name, style, diverges=diverges).train()
    assert len(probed.lrs) == N_COMMITTED + 1
    outcomes = [report.outcome for report in probed.transport.reports]
    assert outcomes[1:5:3] == [pb.OUTCOME_DIVERGED if diverges else pb.OUTCOME_COMPLETED] * 2
    assert different(probed.state(), plain(name, style, probed.lrs).state()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(("name", "style"), CASES)
def test_the_lr_that_is_set_is_the_one_that_steps_are_made_at(name: str, style: Style) -> None:
    n_groups = len(Run(MEMBERS[name], style).tuned.param_groups)
    slow, fast = (plain(name, style, [[lr] * n_groups] * 13) for lr in (1e-4, 1e-3))
    assert [path for path in different(slow.state(), fast.state()) if path.startswith("net")]


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTUNABLE)
def test_what_can_not_be_tuned_says_why(name: str) -> None:
    with pytest.raises((lrpilot.ConfigError, ImportError), match=UNTUNABLE[name]):
        Tuned(name, MEMBERS[name].styles[0], diverges=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", RAISING)
def test_what_raises_in_a_diverged_probe_would_raise_without_one(name: str) -> None:
    probed = Tuned(name, MEMBERS[name].styles[0], diverges=True)
    with pytest.raises(RuntimeError, match=RAISING[name]):
        probed.train()
    alone = Run(MEMBERS[name], MEMBERS[name].styles[0])
    alone.factor = float("nan")
    with pytest.raises(RuntimeError, match=RAISING[name]):
        [alone.update(batch) for batch in alone.batches]


RESUMED = [
    "torch AdamW", "torch LBFGS", "torch Muon", "torch SparseAdam", "AdaHessian", "GSAM", "GaLore", "Lookahead", "Muon",
    "OrthoGrad", "PCGrad", "Prodigy", "SAM", "SOAP", "ScheduleFreeAdamW", "ScheduleFreeWrapper", "Shampoo", "SophiaH",
    "TRAC",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "n_steps", [2, 11, 16, 21], ids=["first probe", "committed", "second search", "committed again"]
)
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_from_a_checkpoint(name: str, n_steps: int) -> None:
    style = MEMBERS[name].styles[-1]
    kept: list[bytes] = []
    whole = Tuned(name, style, diverges=False)

    def keep() -> None:
        if whole.tuner.committed_step + whole.tuner.search_steps == n_steps:
            file = io.BytesIO()
            torch.save([whole.net.state_dict(), whole.optimizer.state_dict(), whole.tuner.state_dict()], file)
            kept.append(file.getvalue())

    whole.train(keep)
    resumed = Tuned(name, style, diverges=False)
    net, optimizer, tuner = torch.load(io.BytesIO(kept[0]), weights_only=False)
    resumed.net.load_state_dict(net)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.tuner.load_state_dict(tuner)
    resumed.train()
    assert different(whole.saved(), resumed.saved()) == []
