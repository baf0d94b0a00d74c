"""A run that ends with an average of its weights, or with the last ones: through the real client and the real core."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lrpilot.errors import LRPilotError, UnavailableError
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from benchmarks.quality.local import LocalTransport
from tests.support.training.scripted_directives import ResumableScript, training
from tuner_server.core.job.machine import JobState
from tuner_server.core.messages import Weights

TOTAL = 600
OPTIONS: dict[str, Any] = {"probe_steps": 6, "refinements": 0, "max_candidates": 4}
AVERAGE = pb.Average(memory_steps=8.0, every=2)


class Remembering(LocalTransport):
    """One that can take its job back to any directive; reports from number `lost_from` on are lost."""

    def __init__(self, lost_from: float = math.inf, lost_to: float = math.inf) -> None:
        super().__init__()
        self.reports: list[pb.Report] = []
        self._states: dict[int, JobState] = {}
        self._lost = lost_from, lost_to
        self._n_calls = 0

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self._n_calls += 1
        if self._lost[0] <= self._n_calls < self._lost[1]:
            raise UnavailableError("away", "UNAVAILABLE")
        response = super().advance(request, timeout_s)
        self.reports.append(request.report)
        self._states[response.directive.number] = self.state
        return response

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        self._state = self._states[request.directive_number]
        return pb.ResumeJobResponse()


class Run:
    """A quadratic with its minimum at zero, and a target that is noisy; the validation has no noise."""

    def __init__(
        self,
        transport: Any = None,
        *,
        noise: float = 1.0,
        validate: Callable[[Run], float] | None = lambda run: run.distance(),
        total_steps: int = TOTAL,
        ending: str = "averaged",
        **arguments: Any,
    ) -> None:
        torch.manual_seed(0)
        layer = nn.Linear(200, 1, bias=False)
        self.model = nn.Sequential(layer, nn.BatchNorm1d(1, affine=False))
        self.weight: torch.Tensor = layer.weight
        nn.init.constant_(self.weight, 3.0)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.5)
        self.data = list(noise * torch.randn(64, 200))
        self.transport = transport or Remembering()
        self.tuner = Tuner(
            self.model,
            self.optimizer,
            **{
                "transport": self.transport,
                "total_steps": total_steps,
                "lr_bounds": (1e-3, 1.0),
                "validate": None if validate is None else (lambda: validate(self)),
                "policy": "budget",
                "policy_options": {**OPTIONS, "ending": ending},
                **arguments,
            },
        )
        self.lrs: list[float] = []

    def distance(self) -> float:
        """The mean square of the weights."""
        return float(self.weight.detach().square().mean())

    def train(self, n_steps: float = math.inf, factor: Callable[[int], float] = lambda _: 1.0) -> None:
        """So many steps, or all that are left."""
        end = len(self.lrs) + n_steps
        for target in self.tuner.batches(self.data):
            loss = (self.weight - target).square().sum() / 2
            self.optimizer.zero_grad()
            loss.backward()
            self.lrs.append(self.tuner.lr)
            self.optimizer.step()
            self.tuner.step(factor(len(self.lrs)) * loss.detach())
            if len(self.lrs) >= end:
                return

    def checkpoint(self) -> dict[str, Any]:
        states = self.model.state_dict(), self.optimizer.state_dict(), self.tuner.state_dict()
        return dict(zip(("model", "optimizer", "tuner"), copy.deepcopy(states), strict=True))

    def load(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.tuner.load_state_dict(checkpoint["tuner"])


def ending_of(run: Run) -> pb.Ending:
    """What the last report says."""
    assert run.transport.reports[-1].HasField("ending")
    return run.transport.reports[-1].ending


def test_the_average_is_adopted_where_it_validates_better() -> None:
    run = Run()
    run.train()
    ending = ending_of(run)
    assert run.tuner.adopted == "average"
    assert ending.adopted == pb.WEIGHTS_AVERAGE
    assert run.distance() == pytest.approx(ending.average)
    assert ending.average < 0.7 * ending.last
    told = run.transport.state.ending
    assert told is not None
    assert told.adopted is Weights.AVERAGE
    assert run.transport.state.last_validation == ending.average
    found = run.tuner.schedule.ending
    assert found is not None
    assert (found.last, found.average, found.memory_steps) == (ending.last, ending.average, ending.memory_steps)
    with run.tuner.averaged():
        assert run.distance() == pytest.approx(ending.average)
    assert run.distance() == pytest.approx(ending.average)
    run.tuner.close()
    assert run.distance() == pytest.approx(ending.average)


def test_all_but_the_last_report_have_no_ending() -> None:
    run = Run()
    run.train()
    assert [report.HasField("ending") for report in run.transport.reports[:-1]] == [False] * (
        len(run.transport.reports) - 1
    )


def test_the_last_weights_stay_where_they_validate_better_or_alike() -> None:
    """The validation here is the same for both."""
    calls: list[float] = []

    def worse(run: Run) -> float:
        calls.append(run.distance())
        return 1.0

    run = Run(validate=worse)
    run.train()
    assert run.tuner.adopted == "last"
    assert ending_of(run).adopted == pb.WEIGHTS_LAST
    assert run.distance() == calls[-2]
    assert calls[-1] != calls[-2]


def test_a_model_without_noise_ends_the_same_either_way() -> None:
    ends = []
    for ending in ("zero", "averaged"):
        run = Run(noise=0.0, ending=ending)
        run.train()
        ends.append(run.distance())
    assert ends[0] == pytest.approx(0.0, abs=1e-12)
    assert ends[1] == pytest.approx(0.0, abs=1e-12)


def test_with_adopt_false_the_last_weights_stay_and_the_average_can_be_had() -> None:
    run, adopting = Run(adopt=False), Run()
    run.train()
    adopting.train()
    ending = ending_of(run)
    assert run.tuner.adopted == "last"
    assert run.distance() == pytest.approx(ending.last)
    with run.tuner.averaged():
        assert torch.equal(run.weight, adopting.weight)
    assert run.distance() == pytest.approx(ending.last)
    run.tuner.close()
    with pytest.raises(LRPilotError, match="no average"), run.tuner.averaged():
        pass


def test_the_average_can_be_had_on_the_way() -> None:
    run, alone = Run(), Run()
    run.train(400)
    last = run.distance()
    with run.tuner.averaged():
        assert run.distance() < last
    assert run.distance() == last
    run.train()
    alone.train()
    assert torch.equal(run.weight, alone.weight)


def test_without_a_validation_the_average_is_adopted() -> None:
    run = Run(validate=None)
    run.train()
    assert run.tuner.adopted == "average"
    assert not ending_of(run).HasField("average")
    assert not ending_of(run).HasField("last")
    assert run.distance() < 0.02


@pytest.mark.parametrize("fails", [math.nan, RuntimeError("no data")])
def test_where_the_average_can_not_be_validated_the_last_weights_stay(fails: float | Exception) -> None:
    """The last call of all is the one with the average."""
    at_end = 0

    def validate(run: Run) -> float:
        nonlocal at_end
        at_end += hasattr(run, "tuner") and run.tuner.remaining_steps == 0
        if at_end < 2:
            return run.distance()
        if isinstance(fails, Exception):
            raise fails
        return fails

    run = Run(validate=validate)
    run.train()
    assert at_end == 2
    assert run.tuner.adopted == "last"
    assert not ending_of(run).HasField("average")
    assert run.distance() == pytest.approx(ending_of(run).last)


def test_where_the_last_weights_can_not_be_validated_the_average_is_adopted() -> None:
    at_end = 0

    def validate(run: Run) -> float:
        nonlocal at_end
        at_end += hasattr(run, "tuner") and run.tuner.remaining_steps == 0
        return math.nan if at_end == 1 else run.distance()

    run = Run(validate=validate)
    run.train()
    assert run.tuner.adopted == "average"
    assert not ending_of(run).HasField("last")


@pytest.mark.parametrize("interrupted", [1, 2])
def test_an_interrupt_of_the_last_validations_changes_nothing(interrupted: int) -> None:
    at_end = 0

    def validate(run: Run) -> float:
        nonlocal at_end
        at_end += hasattr(run, "tuner") and run.tuner.remaining_steps == 0
        if at_end == interrupted:
            at_end = 10
            raise KeyboardInterrupt
        return run.distance()

    whole, run = Run(), Run(validate=validate)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert run.tuner.finished
    assert run.tuner.adopted == "average"
    assert torch.equal(run.weight, whole.weight)
    assert run.transport.state == whole.transport.state.model_copy(
        update={
            "wall_time_s": run.transport.state.wall_time_s,
            "recent_losses": run.transport.state.recent_losses,
            "last_loss": run.transport.state.last_loss,
            "best_loss": run.transport.state.best_loss,
        }
    )


@pytest.mark.parametrize("has_average", [True, False])
def test_an_ending_at_zero_is_that_of_a_client_that_knows_no_other(
    has_average: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("lrpilot.backends.torch.backend.has_modes", lambda _: True)
        plain = Run(policy_options=OPTIONS)
        plain.train()
    if not has_average:
        monkeypatch.setattr("lrpilot.backends.torch.backend.has_modes", lambda _: True)
    run = Run(ending="zero")
    run.train()
    assert torch.equal(run.weight, plain.weight)
    assert run.lrs == plain.lrs
    assert run.tuner.schedule == plain.tuner.schedule
    assert run.tuner.schedule.ending is None
    assert run.tuner.adopted is None


@pytest.mark.parametrize("at", [100, 333, 599])
def test_a_run_that_is_resumed_in_the_middle_ends_with_the_same_bits(at: int) -> None:
    whole, first = Run(), Run()
    whole.train()
    first.train(at)
    saved = first.checkpoint()
    second = Run(first.transport)
    second.load(saved)
    second.train()
    assert second.tuner.adopted == "average"
    assert torch.equal(second.weight, whole.weight)
    assert second.tuner.schedule.ending == whole.tuner.schedule.ending


def test_a_finished_run_that_goes_on_does_so_from_the_last_weights() -> None:
    """Whether it is told so in its process, or in another one."""
    plain, run, first = Run(adopt=False), Run(), Run()
    for each in (plain, run, first):
        each.train()
    saved = first.checkpoint()
    plain.tuner.extend(200)
    assert run.tuner.adopted == "average"
    run.tuner.extend(200)
    assert run.tuner.adopted is None
    assert torch.equal(run.weight, plain.weight)
    later = Run(first.transport, total_steps=TOTAL + 200)
    later.load(saved)
    assert torch.equal(later.weight, plain.weight)
    for each in (plain, run, later):
        each.train()
    assert torch.equal(run.weight, later.weight)
    assert (plain.tuner.adopted, run.tuner.adopted, later.tuner.adopted) == ("last", "average", "average")


def test_steps_that_are_rolled_back_take_their_average_along() -> None:
    """What follows averages from the snapshot's weights on, as if nothing had been before."""
    script = [training(0.1, 40, average=AVERAGE), training(0.1, 30, restore=True, average=AVERAGE)]
    run = Run(ResumableScript(script), total_steps=65)
    run.data = run.data[:1]  # all batches alike: those of a run that is rolled back go on
    start = run.weight.detach().clone()
    run.train(factor=lambda step: math.nan if step == 35 else 1.0)
    assert run.transport.reports[0].outcome == pb.OUTCOME_DIVERGED
    assert not run.transport.reports[0].HasField("ending")
    plain = Run(ResumableScript([training(0.1, 30, average=AVERAGE)]), total_steps=30)
    plain.data = run.data
    assert torch.equal(plain.weight, start)
    plain.train()
    assert torch.equal(run.weight, plain.weight)
    assert run.tuner.adopted == "average"


def test_parts_share_an_average_and_directives_do_not() -> None:
    parts = [training(0.1, 40, average=AVERAGE, report_every=10)]
    parts += [training(0.1, 40 - done, average=AVERAGE, report_every=10) for done in (10, 20, 30)]
    for each in parts[1:]:
        each.snapshot = False
    whole, in_parts = (
        Run(ResumableScript(script), total_steps=40)
        for script in (
            [training(0.1, 40, average=AVERAGE)],
            parts,
        )
    )
    whole.train()
    in_parts.train()
    assert torch.equal(whole.weight, in_parts.weight)
    one_by_one = Run(ResumableScript([training(0.1, 10, average=AVERAGE) for _ in range(4)]), total_steps=40)
    one_by_one.train()
    assert [report.HasField("ending") for report in one_by_one.transport.reports] == [True] * 4
    assert not torch.equal(one_by_one.weight, whole.weight)
    with one_by_one.tuner.averaged():
        pass


def test_a_server_that_is_away_at_the_end_does_not_keep_the_average_from_the_model() -> None:
    whole = Run()
    whole.train()
    n_reports = len(whole.transport.reports)
    run = Run(Remembering(n_reports))
    run.train()
    assert run.tuner.adopted == "average"
    assert torch.equal(run.weight, whole.weight)


def test_a_client_that_anneals_without_its_server_drops_the_average() -> None:
    """The LR falls to zero then; a server that is back has it begin anew."""
    run = Run(Remembering(3), timeout_s=0.1)
    run.train()
    assert run.tuner.adopted is None
    assert run.lrs[-1] < 0.02 * max(run.lrs)


def test_a_tuning_that_fails_on_the_way_leaves_the_last_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    run.train(500)

    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(run.tuner._session, "answer", fails)
    run.train()
    assert run.tuner.adopted is None
    assert run.lrs[-1] < 0.02 * max(run.lrs)


def test_an_average_that_can_not_be_kept_is_said_and_the_last_weights_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("lrpilot.backends.torch.weight_average.TorchWeightAverage._follow", fails)
    run = Run()
    with caplog.at_level(logging.WARNING):
        run.train()
    assert run.tuner.adopted is None
    assert "no average of the weights can be kept, the last ones stay: OutOfMemoryError: no room" in caplog.text
    assert not run.transport.reports[-1].HasField("ending")
    assert math.isfinite(run.distance())


# --- annealings -------------------------------------------------------------------------------------------------------


OPEN_ENDED: dict[str, Any] = {"total_steps": None, "policy": "open_ended", "policy_options": {}}


@pytest.mark.parametrize("arguments", [{}, OPEN_ENDED], ids=["budget", "open_ended"])
def test_an_annealing_ends_with_the_better_weights_and_is_undone_from_before_it(arguments: dict[str, Any]) -> None:
    run = Run(**arguments)
    run.train(400)
    before = run.weight.detach().clone()
    run.tuner.anneal(100)
    run.train()
    ending = ending_of(run)
    assert run.tuner.adopted == "average"
    assert run.distance() == pytest.approx(ending.average)
    assert ending.average < ending.last
    run.tuner.undo_annealing()
    assert run.tuner.adopted is None
    assert torch.equal(run.weight, before)


@pytest.mark.parametrize("arguments", [{}, OPEN_ENDED], ids=["budget", "open_ended"])
def test_what_is_extended_after_an_annealing_goes_on_from_the_last_weights(arguments: dict[str, Any]) -> None:
    plain, run = Run(adopt=False, **arguments), Run(**arguments)
    for each in (plain, run):
        each.train(400)
        each.tuner.anneal(100)
        each.train()
    assert run.tuner.adopted == "average"
    assert not torch.equal(run.weight, plain.weight)
    for each in (plain, run):
        each.tuner.extend(150)
    assert torch.equal(run.weight, plain.weight)
    for each in (plain, run):
        each.train()
    assert len(run.lrs) == len(plain.lrs) == 650


@pytest.mark.parametrize("arguments", [{}, OPEN_ENDED], ids=["budget", "open_ended"])
def test_an_annealing_that_is_resumed_in_its_middle_ends_with_the_same_bits(arguments: dict[str, Any]) -> None:
    whole, first = Run(**arguments), Run(**arguments)
    for each in (whole, first):
        each.train(400)
        each.tuner.anneal(100)
    whole.train()
    first.train(60)
    saved = first.checkpoint()
    second = Run(first.transport, **arguments)
    second.load(saved)
    second.train()
    assert torch.equal(second.weight, whole.weight)
    assert second.tuner.adopted == whole.tuner.adopted == "average"


def test_a_short_annealing_falls_to_zero() -> None:
    run = Run(**OPEN_ENDED)
    run.train(400)
    run.tuner.anneal(49)
    run.train()
    assert run.tuner.adopted is None
    assert run.lrs[-1] < 0.03 * max(run.lrs)
