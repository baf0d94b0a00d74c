"""The tuner on loaders as training loops have them: probes that leave no trace in the data, and resumed runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.support.servers.server_process import ServerProcess, running
from tests.support.training import scripted_directives

# torchdata 0.11 calls it whenever a StatefulDataLoader is made.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

N_STEPS = 100
Batch = list[torch.Tensor]


def data() -> TensorDataset:
    """Eleven samples: in batches of four the third is uneven."""
    inputs = torch.randn(11, 3, generator=torch.Generator().manual_seed(7))
    return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))


def stateful() -> Iterable[Batch]:
    loader: Iterable[Batch] = StatefulDataLoader(data(), 4, shuffle=True, num_workers=2, persistent_workers=True)
    return loader


def with_generator() -> Iterable[Batch]:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(data(), 4, shuffle=True, generator=generator, num_workers=2, persistent_workers=True)


def distributed() -> Iterable[Batch]:
    sampler: DistributedSampler[Any] = DistributedSampler(data(), num_replicas=1, rank=0)
    return DataLoader(data(), 4, sampler=sampler)


loaders = pytest.mark.parametrize("make_loader", [stateful, with_generator, distributed])


class Run:
    """A run with dropout; it notes what it trains on."""

    def __init__(self, make_loader: Callable[[], Iterable[Batch]], seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.loader = make_loader()
        self.seen: list[list[float]] = []

    def update(self, batch: Batch) -> torch.Tensor:
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seen.append(targets.flatten().tolist())
        return loss

    def train(self, tuner: Tuner) -> None:
        for batch in tuner.batches(self.loader):
            tuner.step(self.update(batch))

    def weights(self) -> list[float]:
        return [value for parameter in self.model.parameters() for value in parameter.flatten().tolist()]


def directive(phase: pb.Phase.ValueType, n_steps: int, *, restore: bool) -> pb.Directive:
    return scripted_directives.directive(phase, 0.01, n_steps, restore)


@loaders
def test_probes_across_epochs_leave_no_trace(make_loader: Callable[[], Iterable[Batch]]) -> None:
    search = [directive(pb.PHASE_PROBE, 7, restore=restore) for restore in (False, True, True)]
    train = directive(pb.PHASE_TRAIN, 5, restore=True)
    runs = []
    for script in ([*search, train] * 2, [directive(pb.PHASE_TRAIN, 10, restore=False)]):
        run = Run(make_loader)
        total_steps = sum(each.n_steps for each in script)
        with Tuner(run.model, run.optimizer, transport=ScriptedTransport(script), total_steps=total_steps) as tuner:
            run.train(tuner)
        runs.append(run)
    tuned, plain = runs
    assert tuned.weights() == plain.weights()
    assert [len(targets) for targets in tuned.seen[:7]] == [4, 4, 3, 4, 4, 3, 4]
    assert tuned.seen[:7] == tuned.seen[7:14] == tuned.seen[14:21]
    assert tuned.seen[21:26] + tuned.seen[47:] == plain.seen


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(f"sqlite:///{tmp_path_factory.mktemp('server') / 'jobs.db'}") as process:
        yield process


@loaders
def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(
    server: ServerProcess, tmp_path: Path, make_loader: Callable[[], Iterable[Batch]]
) -> None:
    """In a probe, and in the training after it: the loader is then where the probe had left it, or further."""

    def tuned(run: Run) -> Tuner:
        options = {"tau": 40, "tau_prime": 10, "candidates": 3}
        return Tuner(
            run.model,
            run.optimizer,
            server=server.target,
            total_steps=N_STEPS,
            lr_bounds=(1e-3, 0.1),
            policy="autolrs",
            policy_options=options,
        )

    whole, stops = Run(make_loader), {}
    with tuned(whole) as tuner:
        for batch in tuner.batches(whole.loader):
            tuner.step(whole.update(batch))
            n_steps = len(whole.seen)
            if n_steps in (15, 52):
                stops[n_steps] = tuner.phase
                checkpoint = {
                    "model": whole.model.state_dict(),
                    "optimizer": whole.optimizer.state_dict(),
                    "tuner": tuner.state_dict(),
                }
                torch.save(checkpoint, tmp_path / f"{n_steps}.pt")
    assert stops == {15: "probe", 52: "train"}

    for stop in reversed(stops):
        run = Run(make_loader, seed=99)
        checkpoint = torch.load(tmp_path / f"{stop}.pt", weights_only=True)
        run.model.load_state_dict(checkpoint["model"])
        run.optimizer.load_state_dict(checkpoint["optimizer"])
        with tuned(run) as tuner:
            tuner.load_state_dict(checkpoint["tuner"])
            run.train(tuner)
        assert run.seen == whole.seen[stop:]
        assert run.weights() == whole.weights()


def leaving(script: list[pb.Directive], leave_at: int, second: Callable[[Run], Iterable[Batch]]) -> Run:
    """A run that breaks out of its loop once, and goes on with what `second` gives."""
    run = Run(stateful)
    total = sum(each.n_steps for each in script)
    tuner = Tuner(run.model, run.optimizer, transport=ScriptedTransport(script), total_steps=total)
    for batch in tuner.batches(run.loader):
        tuner.step(run.update(batch))
        if len(run.seen) == leave_at:
            break
    for batch in tuner.batches(second(run)):
        tuner.step(run.update(batch))
    assert len(run.seen) == total
    return run


SEARCH = [directive(pb.PHASE_PROBE, 4, restore=restore) for restore in (False, True, True)]
SEARCH.append(directive(pb.PHASE_TRAIN, 6, restore=True))


@pytest.mark.parametrize("leave_at", [1, 4, 6, 12, 15])
def test_a_loop_that_is_left_and_entered_again_goes_on_where_it_was(leave_at: int) -> None:
    whole, left = leaving(SEARCH, 18, lambda run: run.loader), leaving(SEARCH, leave_at, lambda run: run.loader)
    assert left.seen == whole.seen
    assert left.weights() == whole.weights()


@pytest.mark.parametrize("leave_at", [1, 4, 6, 12, 15])
def test_another_loader_takes_over_and_rollbacks_lead_to_its_beginning(leave_at: int) -> None:
    run = leaving(SEARCH, leave_at, lambda run: with_generator())
    new = run.seen[leave_at:]
    starts = [at - leave_at for at in (4, 8, 12) if at > leave_at]  # of the directives that go back
    assert all(new[start] == new[0] for start in starts)


class ByLoss(torch.utils.data.Sampler[int]):
    """Draws what was hard: the loop writes losses into its weights."""

    def __init__(self, n: int) -> None:
        self.weights = torch.ones(n)

    def __iter__(self) -> Iterator[int]:
        for _ in range(200):
            yield int(torch.multinomial(self.weights, 1))

    def __len__(self) -> int:
        return 200


def test_what_the_loop_writes_into_a_sampler_goes_back_with_a_probe() -> None:
    n = 1000
    torch.manual_seed(0)
    inputs = torch.randn(n, 4)
    sampler = ByLoss(n)
    loader = DataLoader(TensorDataset(torch.arange(n), inputs), batch_size=4, sampler=sampler)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    script = [
        scripted_directives.probe(0.5, 6, first=True),
        scripted_directives.probe(0.1, 6),
        scripted_directives.training(0.05, 12, restore=True),
    ]
    expected, first = torch.ones(n), []
    tuner = Tuner(model, optimizer, transport=ScriptedTransport(script), total_steps=24)
    for chosen, x in tuner.batches(loader):
        searching, begins = tuner.searching, tuner.search_steps % 6 == 0
        if begins and (searching or tuner.committed_step == 0):
            first.append((chosen.tolist(), sampler.weights.clone()))
        losses = (model(x) - x.sum(1, keepdim=True)).square().flatten()
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        sampler.weights[chosen] = losses.detach()
        if not searching:
            expected[chosen] = losses.detach()
        tuner.step(losses.mean())
    assert len(first) == 3
    assert all(chosen == first[0][0] and torch.equal(weights, torch.ones(n)) for chosen, weights in first)
    assert torch.equal(sampler.weights, expected)
