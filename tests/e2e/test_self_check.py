"""A run whose rollback is not complete notices it by itself, and trains on at the LR that was set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.run.repetition import Repetition
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from benchmarks.quality.local import LocalTransport

TOTAL_STEPS = 1000


class Remembering(LocalTransport):
    """Keeps the reports."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[pb.Report] = []

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self.reports.append(request.report)
        return super().advance(request, timeout_s)


class Run:
    """A network with dropout and batch norm, and a fault: what it multiplies the loss of a batch by."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        x = torch.randn(50, 16, 8)
        self.data = list(zip(x, x.sum(2, keepdim=True).tanh(), strict=True))
        self.model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3)
        self.transport = Remembering()
        self.options: dict[str, Any] = {"total_steps": TOTAL_STEPS, "lr_bounds": (1e-4, 1e-1)} | options
        self.lrs: list[float] = []

    def train(self, fault: Callable[[Any], float] = lambda _: 1.0) -> Tuner:
        self.tuner = Tuner(self.model, self.optimizer, transport=self.transport, **self.options)
        for batch in self.tuner.batches(self.data):
            loss = nn.functional.mse_loss(self.model(batch[0]), batch[1]) * fault(batch)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.optimizer.step()
            if not self.tuner.searching:
                self.lrs.append(self.tuner.lr)
            self.tuner.step(loss)
        return self.tuner


def counter_in_c(run: Run) -> Callable[[Any], float]:
    run.model.calls = itertools.count(1)  # type: ignore[assignment]  # PyTorch knows tensors and modules
    return lambda _: 1.0 + 0.1 * (next(run.model.calls) % 7)  # type: ignore[call-overload]  # as above


def hidden_state_in_a_closure(run: Run) -> Callable[[Any], float]:
    hidden = torch.ones(())

    def fault(batch: tuple[torch.Tensor, torch.Tensor]) -> float:
        nonlocal hidden
        hidden = 0.9 * hidden + 0.1 * batch[0].mean().exp()
        return hidden.item()

    return fault


def batch_that_changes(run: Run) -> Callable[[Any], float]:
    """The batches say where in the data they are, and the loop writes there."""
    table = torch.ones(50)
    run.data = [(*batch, torch.tensor(i)) for i, batch in enumerate(run.data)]  # type: ignore[misc]

    def fault(batch: Any) -> float:
        table[batch[2]] *= 0.9
        return table[batch[2]].item()

    return fault


def generator_of_a_class(run: Run) -> Callable[[Any], float]:
    class Noise:
        generator = torch.Generator().manual_seed(0)

    return lambda _: 1.0 + torch.rand((), generator=Noise.generator).item()


def smoothed_loss(run: Run) -> Callable[[Any], float]:
    """A mean over the steps until now, as people print it, goes to the tuner."""
    seen: list[float] = []

    def fault(batch: Any) -> float:
        seen.append(float(len(seen)))
        return sum(seen) / len(seen) + 1.0

    return fault


FAULTS = [counter_in_c, hidden_state_in_a_closure, batch_that_changes, generator_of_a_class, smoothed_loss]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("policy", ["budget", "autolrs"])
def test_what_is_not_put_back_ends_the_search(
    fault: Callable[[Run], Callable[[Any], float]], policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(policy=policy)
    tuner = run.train(fault(run))
    outcomes = [report.outcome for report in run.transport.reports]
    first = outcomes.index(pb.OUTCOME_UNREPEATABLE)
    assert outcomes.count(pb.OUTCOME_UNREPEATABLE) == 1
    assert first == 1
    assert tuner.committed_step + tuner.search_steps == TOTAL_STEPS
    assert max(run.lrs) == pytest.approx(2e-3)
    assert run.lrs[-1] < 1e-4
    assert len(run.lrs) == tuner.committed_step
    note = run.transport.reports[first].note
    assert "something that training changes was not put back" in note
    assert ("model.calls (count)" in note) is (fault is counter_in_c)
    assert f"there is no further search: {note}" in caplog.text
    assert tuner.schedule.unrepeatable == note


@pytest.mark.parametrize("policy", ["budget", "autolrs"])
def test_a_sound_run_is_not_suspected(policy: str) -> None:
    run = Run(policy=policy)
    run.train()
    assert pb.OUTCOME_UNREPEATABLE not in [report.outcome for report in run.transport.reports]
    assert run.tuner.search_steps > 50


def test_rounding_is_no_suspicion_and_a_nan_that_comes_again_is_none() -> None:
    for first, again, noise, differs in [
        (1.0, 1.0 + 1e-7, 1e-5, False),
        (1.0, 1.0 + 1e-4, 1e-5, True),
        (1.0, 1.0 + 1e-4, 2e-3, False),
        (float("nan"), float("nan"), 1e-5, False),
        (float("inf"), float("inf"), 1e-5, False),
        (1.0, float("nan"), 1e-5, True),
        (-2.0, -2.1, 1e-5, True),
        (0.0, 0.0, 1e-5, False),
    ]:
        repetition = Repetition()
        for loss, drawn, expected in [(first, 1, False), (again, 1, differs), (again, 2, False), (again, 0, False)]:
            repetition.begin(comparable=True)
            for _ in range(drawn):
                repetition.draw()
            assert repetition.differs(loss, noise) is expected


def test_a_loop_that_draws_its_own_batches_is_not_compared() -> None:
    run = Run()
    tuner = Tuner(run.model, run.optimizer, transport=run.transport, **run.options)
    for batch in itertools.cycle(run.data):
        if tuner.finished:
            break
        loss = nn.functional.mse_loss(run.model(batch[0]), batch[1])
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        run.optimizer.step()
        tuner.step(loss)
    assert pb.OUTCOME_UNREPEATABLE not in [report.outcome for report in run.transport.reports]


def test_the_doctor_finds_each_of_these_faults_beforehand() -> None:
    for fault in FAULTS:
        run = Run()
        multiply = fault(run)

        def step(batch: Any, run: Run = run, multiply: Callable[[Any], float] = multiply) -> torch.Tensor:
            loss = nn.functional.mse_loss(run.model(batch[0]), batch[1]) * multiply(batch)
            run.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            run.optimizer.step()
            return loss

        assert lrpilot.check_rollback(run.model, run.optimizer, run.data, step).first_different_loss == 0, fault


def test_a_run_that_is_resumed_within_a_search_still_compares() -> None:
    def endless() -> Iterator[int]:
        yield from itertools.count()

    run = Run()
    hidden = endless()
    tuner = Tuner(run.model, run.optimizer, transport=run.transport, **run.options)
    for i, batch in enumerate(tuner.batches(run.data)):
        loss = nn.functional.mse_loss(run.model(batch[0]), batch[1]) * (1 + next(hidden))
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        run.optimizer.step()
        tuner.step(loss)
        if i == 10:
            break
    state = tuner.state_dict()
    begun = {"comparable": True, "drawn": 1}
    assert state["repetition"] == {"first_loss": None, "n_batches": 0, **begun}  # the first probe is not over
    assert len(state["losses"]) == 11


def trained(run: Run, loop: Callable[[Tuner], None]) -> list[pb.Outcome.ValueType]:
    """The outcomes of a run whose loop is another one."""
    run.tuner = Tuner(run.model, run.optimizer, transport=run.transport, **run.options)
    loop(run.tuner)
    assert run.tuner.finished
    return [report.outcome for report in run.transport.reports]


def updated(run: Run, batch: Any) -> torch.Tensor:
    loss = nn.functional.mse_loss(run.model(batch[0]), batch[1])
    run.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    run.optimizer.step()
    return loss


def test_a_loop_that_leaves_out_the_first_update_is_sound() -> None:
    run = Run()

    def loop(tuner: Tuner) -> None:
        for i, batch in enumerate(tuner.batches(run.data)):
            if i in (0, 30):
                tuner.step(nn.functional.mse_loss(run.model(batch[0]), batch[1]))
            else:
                tuner.step(updated(run, batch))

    assert pb.OUTCOME_UNREPEATABLE not in trained(run, loop)


def test_a_loop_that_makes_several_steps_of_a_batch_is_sound() -> None:
    run = Run()

    def loop(tuner: Tuner) -> None:
        for batch in tuner.batches(run.data):
            for half in (slice(0, 8), slice(8, 16), slice(0, 16), slice(4, 12)):
                tuner.step(updated(run, (batch[0][half], batch[1][half])))

    assert pb.OUTCOME_UNREPEATABLE not in trained(run, loop)


def test_a_loop_that_throws_a_batch_away_is_sound() -> None:
    run = Run()

    def loop(tuner: Tuner) -> None:
        while not tuner.finished:
            for batch, _ in zip(tuner.batches(run.data), range(14), strict=False):
                tuner.step(updated(run, batch))

    assert pb.OUTCOME_UNREPEATABLE not in trained(run, loop)


def test_a_loss_from_after_another_optimizer_s_update_is_sound() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"critic": nn.Linear(8, 1), "actor": nn.Linear(8, 8)})
    critic, actor = (torch.optim.Adam(model[name].parameters(), lr=1e-3) for name in ("critic", "actor"))
    transport = Remembering()
    tuner = Tuner(model, [actor, critic], transport=transport, total_steps=TOTAL_STEPS, lr_bounds=(1e-4, 1e-1))
    for x in tuner.batches(list(torch.randn(50, 16, 8))):
        critic.zero_grad()
        (model["critic"](x) - x.sum(1, keepdim=True)).square().mean().backward()
        critic.step()
        loss = (model["critic"](model["actor"](x)) - 1).square().mean()
        actor.zero_grad()
        loss.backward()
        actor.step()
        tuner.step(loss)
    assert pb.OUTCOME_UNREPEATABLE not in [report.outcome for report in transport.reports]


def test_batches_that_are_trained_are_the_same_objects_and_those_with_a_history_are_not_replayed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    codes = [nn.Parameter(torch.randn(4)) for _ in range(50)]
    run = Run()
    run.optimizer = torch.optim.AdamW([*run.model.parameters(), *codes], lr=2e-3)
    before = [code.detach().clone() for code in codes]
    run.data = [(torch.cat([batch[0]]), batch[1], code) for batch, code in zip(run.data, codes, strict=True)]  # type: ignore[misc]

    def loop(tuner: Tuner) -> None:
        for x, y, code in tuner.batches(run.data):  # type: ignore[misc]
            loss = nn.functional.mse_loss(run.model(x) + code.mean(), y)
            run.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            run.optimizer.step()
            tuner.step(loss)

    assert pb.OUTCOME_UNREPEATABLE not in trained(run, loop)
    assert not any(torch.equal(old, code) for old, code in zip(before, codes, strict=True))
    assert not caplog.text

    run = Run()
    encoder = nn.Linear(8, 8)
    data, run.optimizer = run.data, torch.optim.AdamW([*run.model.parameters(), *encoder.parameters()], lr=2e-3)

    class Encoded:
        def __iter__(self) -> Iterator[Any]:
            return ((encoder(x), y) for x, y in data)

    run.data = Encoded()  # type: ignore[assignment]
    run.train()
    assert run.tuner.finished
    assert "so batches can't be replayed" in caplog.text
