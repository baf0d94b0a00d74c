"""Clients of a federation in threads, each a job of its own on one real server, agree with no word to one another."""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from lrpilot.backends.measures import ROUND_MOMENTUM_PRODUCT, ROUND_NORM
from lrpilot.errors import ConfigError, RefusedError
from lrpilot.federated import Client
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn.utils import parameters_to_vector

from tests.support.servers.server_process import ServerProcess
from tests.support.training.scripted_directives import training
from tuner_server.core.stages.fedhyper import Variant, added, momentum_weight
from tuner_server.core.stages.hypergradient import cosine

N_CLIENTS, LOCAL_STEPS, ROUNDS, LR = 3, 4, 6, 0.02
RATE = 0.3


class Federation:
    """The mean over clients in threads; a round in which one does not come breaks all."""

    def __init__(self, n_clients: int = N_CLIENTS) -> None:
        self._barrier = threading.Barrier(n_clients, timeout=30)
        self._given: dict[int, list[torch.Tensor]] = {}

    def average(self, number: int) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
        def mean(updates: list[torch.Tensor]) -> list[torch.Tensor]:
            self._given[number] = updates
            self._barrier.wait()
            given = [self._given[each] for each in sorted(self._given)]
            found = [torch.stack(own).mean(0) for own in zip(*given, strict=True)]
            self._barrier.wait()
            return found

        return mean


def model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    made = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    for each in made.parameters():
        each.data = torch.randn(each.shape, generator=generator) / 2
    return made


def data(number: int) -> list[torch.Tensor]:
    """What a client has: its own, and unlike the others'."""
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(8, 5, generator=generator) + number for _ in range(5)]


def loss_of(own: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = (own(batch) - batch.sum(1, keepdim=True).sin()).square().mean()
    return loss


def options(variant: str, **others: Any) -> dict[str, Any]:
    return {"variant": variant, **others}


class Run:
    """What came of a client."""

    def __init__(self, client: Client, own: nn.Module, lrs: list[float]) -> None:
        self.weights = parameters_to_vector(own.parameters()).detach()
        self.lrs = lrs
        self.losses = list(client.schedule.losses)
        self.rounds = client.round
        self.committed_step = client.committed_step
        self.search_steps = client.search_steps
        self.job_id = client.job_id


def trained(number: int, federation: Federation, spoil: Callable[[int], bool] = lambda _: False, **job: Any) -> Run:
    """A client's whole life; `spoil` says at which of its steps a gradient is no number."""
    own = model()
    optimizer = torch.optim.SGD(own.parameters(), LR)
    arguments: dict[str, Any] = {"rounds": ROUNDS, "local_steps": LOCAL_STEPS} | job
    lrs = []
    with Client(own, optimizer, average=federation.average(number), **arguments) as client:
        for step, batch in enumerate(client.batches(data(number))):
            lrs.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            loss = loss_of(own, batch)
            loss = loss * math.nan if spoil(step) else loss
            torch.autograd.backward(loss)
            optimizer.step()
            client.step(loss)
        return Run(client, own, lrs)


def all_trained(n_clients: int = N_CLIENTS, spoiled: int | None = None, **job: Any) -> list[Run]:
    federation = Federation(n_clients)
    with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
        runs = [
            pool.submit(trained, number, federation, (lambda step: step == 5) if number == spoiled else bool, **job)
            if number == spoiled
            else pool.submit(trained, number, federation, **job)
            for number in range(n_clients)
        ]
        return [run.result(60) for run in runs]


def averaged_plainly(
    variant: Variant | None, *, published: bool, n_clients: int = N_CLIENTS
) -> tuple[torch.Tensor, list[float]]:
    """The same in a loop with no tuner, by the formulas; None: plain federated averaging. And the factors."""
    own = model()
    batches = [data(number) for number in range(n_clients)]
    start, factor = parameters_to_vector(own.parameters()).detach(), 1.0
    before: torch.Tensor | None = None
    momentum: torch.Tensor | None = None
    factors, step = [], 0
    for _ in range(ROUNDS):
        ends = []
        for number in range(n_clients):
            nn.utils.vector_to_parameters(start.clone(), own.parameters())
            lr = LR * factor if variant is Variant.SL else LR
            optimizer = torch.optim.SGD(own.parameters(), lr)
            for k in range(LOCAL_STEPS):
                optimizer.zero_grad()
                torch.autograd.backward(loss_of(own, batches[number][(step + k) % 5]))
                optimizer.step()
            ends.append(parameters_to_vector(own.parameters()).detach().clone())
        step += LOCAL_STEPS
        update = torch.stack(ends).mean(0) - start
        if before is not None:
            momentum = before + 0.9 * (torch.zeros_like(before) if momentum is None else momentum)
        other = momentum if variant is Variant.GM else before
        if variant is not None and other is not None:
            product = float(update @ other)
            product = product if published else RATE * cosine(product, float(update.norm()), float(other.norm()))
            factor = added(factor, product, variant.bounds)
        taken = factor if variant in (Variant.G, Variant.GM) else 1.0
        start = start + taken * update
        if variant is Variant.GM and momentum is not None:
            start = start + momentum_weight(factor) * momentum
        before = update
        factors.append(factor)
    return start, factors


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with contextlib.closing(ServerProcess(f"sqlite:///{tmp_path_factory.mktemp('federation')}/jobs.db")) as process:
        yield process


@pytest.fixture(scope="module")
def server(running: ServerProcess) -> str:
    return running.target


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("variant", [Variant.G, Variant.GM, Variant.SL])
def test_clients_agree_on_what_the_formulas_give(server: str, variant: Variant, published: bool) -> None:
    runs = all_trained(server=server, policy_options=options(variant, published=published), family="federation")
    expected, factors = averaged_plainly(variant, published=published)
    assert factors[-1] != 1.0
    for run in runs:
        assert torch.equal(run.weights, runs[0].weights)
        assert run.lrs == runs[0].lrs
        assert (run.rounds, run.committed_step, run.search_steps) == (ROUNDS, ROUNDS * LOCAL_STEPS, 0)
    torch.testing.assert_close(runs[0].weights, expected, rtol=1e-4, atol=1e-5)
    assert runs[0].losses != runs[1].losses
    if variant is Variant.SL:
        lrs = [LR, *(LR * factor for factor in factors[:-1])]
        assert runs[0].lrs[::LOCAL_STEPS] == pytest.approx(lrs, rel=1e-4)
    else:
        assert set(runs[0].lrs) == {LR}


def test_clients_that_adapt_their_own_lr_do_so_within_a_round_and_begin_each_alike(server: str) -> None:
    runs = all_trained(server=server, policy_options=options("cl", every=1, clients=N_CLIENTS, published=True))
    assert all(torch.equal(run.weights, runs[0].weights) for run in runs)
    for run in runs:
        rounds = [run.lrs[i : i + LOCAL_STEPS] for i in range(0, len(run.lrs), LOCAL_STEPS)]
        # The first round has no update before it. The first step has no product, and the second one's moves the third.
        assert rounds[0] == [LR] * LOCAL_STEPS
        assert all(lrs[:2] == [LR, LR] for lrs in rounds)
        assert all(lrs[2] != LR for lrs in rounds[1:])
        assert max(run.lrs) <= 1.1 * 1.1 * LR * (1 + 1e-9)
    assert runs[0].lrs != runs[1].lrs


@pytest.mark.parametrize("spoiled", [None, 1])
def test_the_server_knows_that_the_rounds_are_over(running: ServerProcess, spoiled: int | None) -> None:
    """A client that was rolled back has made other steps than the others."""
    for run in all_trained(spoiled=spoiled, server=running.target, policy_options=options("gm")):
        job = running.stub.GetJob(pb.GetJobRequest(job_id=run.job_id), timeout=10).job
        assert job.state == pb.JOB_STATE_FINISHED
        assert job.total_steps == run.committed_step + run.search_steps == len(run.lrs)


def test_a_federation_that_ends_after_rounds_is_not_extended(caplog: pytest.LogCaptureFixture) -> None:
    client, _, optimizer = scripted([training(LR, 2)], model(), rounds=1)
    for _ in range(2):
        optimizer.step()
        client.step(1.0)
    assert client.finished
    with pytest.raises(ConfigError, match="`rounds`, which all clients share"):
        client.extend(2)
    client.step(1.0)
    assert "extend" not in caplog.text
    assert caplog.messages[-1].endswith("the LR stays where it is; all rounds are over")


def test_where_nothing_is_said_of_rounds_it_is_plain_federated_averaging() -> None:
    federation = Federation(1)
    run = trained(0, federation, transport=ScriptedTransport([training(LR, ROUNDS * LOCAL_STEPS)]))
    expected, _ = averaged_plainly(None, published=False, n_clients=1)
    torch.testing.assert_close(run.weights, expected, rtol=1e-4, atol=1e-6)


def test_without_a_server_the_rounds_go_on() -> None:
    runs = all_trained(server="127.0.0.1:1", timeout_s=0.2, policy_options=options("gm"))
    for run in runs:
        assert run.rounds == ROUNDS
        assert torch.equal(run.weights, runs[0].weights)
    assert not torch.equal(runs[0].weights, parameters_to_vector(model().parameters()))


def test_a_client_whose_update_is_no_number_adds_nothing_and_stays_with_the_others(server: str) -> None:
    """Within a round, and so that it is seen only at its end."""
    runs = all_trained(spoiled=1, server=server, policy_options=options("g"))
    assert all(run.rounds == ROUNDS for run in runs)
    assert all(torch.equal(run.weights, runs[0].weights) for run in runs)
    assert torch.isfinite(runs[0].weights).all()
    assert [run.search_steps > 0 for run in runs] == [False, True, False]
    assert runs[1].lrs[-1] < LR == runs[0].lrs[-1]


@pytest.mark.parametrize("stop", [2 * LOCAL_STEPS, 2 * LOCAL_STEPS + 3])
def test_a_checkpoint_has_the_rounds(server: str, stop: int) -> None:
    """At the end of a round, and within one."""

    def life(resumes: bool) -> torch.Tensor:
        own = model()
        optimizer = torch.optim.SGD(own.parameters(), LR, momentum=0.5)

        def client() -> Client:
            average = Federation(1).average(0)
            arguments: dict[str, Any] = {"rounds": ROUNDS, "local_steps": LOCAL_STEPS, "server": server}
            return Client(own, optimizer, average=average, policy_options=options("gm"), **arguments)

        tuner = client()
        done = 0
        while not tuner.finished:
            for batch in tuner.batches(data(0)):
                optimizer.zero_grad()
                loss = loss_of(own, batch)
                torch.autograd.backward(loss)
                optimizer.step()
                tuner.step(loss)
                done += 1
                if resumes and done == stop:
                    break
            if resumes and done == stop:
                saved = [own.state_dict(), optimizer.state_dict(), tuner.state_dict()]
                tuner.close()
                own = model()
                optimizer = torch.optim.SGD(own.parameters(), LR, momentum=0.5)
                tuner = client()
                own.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
                tuner.load_state_dict(saved[2])
        assert tuner.round == ROUNDS
        tuner.close()
        return parameters_to_vector(own.parameters()).detach()

    assert torch.equal(life(resumes=False), life(resumes=True))


def scripted(
    directives: Sequence[pb.Directive], own: nn.Module, rounds: int | None = None
) -> tuple[Client, ScriptedTransport, Any]:
    transport = ScriptedTransport(list(directives))
    optimizer = torch.optim.SGD(own.parameters(), LR)
    average = Federation(1).average(0)
    client = Client(own, optimizer, average=average, local_steps=2, rounds=rounds, transport=transport)
    return client, transport, optimizer


def test_a_round_is_taken_on_before_the_next_one_and_told_with_its_last_step() -> None:
    own = model()
    names = [ROUND_NORM, ROUND_MOMENTUM_PRODUCT]
    directives = [training(LR, 2) for _ in range(4)]
    for number, directive in enumerate(directives):
        directive.measures.extend(names)
        if number:
            directive.round.CopyFrom(pb.RoundStep(factor=2.0, momentum=0.5))
    client, transport, optimizer = scripted(directives, own)
    starts, ends = [parameters_to_vector(own.parameters()).detach().clone()], []
    for batch in data(0)[:4] + data(1)[:2]:
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(own, batch))
        optimizer.step()
        ends.append(parameters_to_vector(own.parameters()).detach().clone())
        client.step(1.0)
        if len(ends) % 2 == 0:
            starts.append(parameters_to_vector(own.parameters()).detach().clone())
    updates = [end - start for end, start in zip(ends[1::2], starts, strict=False)]
    torch.testing.assert_close(starts[1], starts[0] + 2 * updates[0])
    torch.testing.assert_close(starts[2], starts[1] + 2 * updates[1] + 0.5 * updates[0])
    momentum = updates[1] + 0.9 * updates[0]
    torch.testing.assert_close(starts[3], starts[2] + 2 * updates[2] + 0.5 * momentum)
    told = [{each.name: list(each.values) for each in report.measures} for report in transport.reports]
    assert [report[ROUND_NORM][1] for report in told] == pytest.approx([float(each.norm()) for each in updates])
    assert all(math.isnan(report[ROUND_NORM][0]) for report in told)
    assert math.isnan(told[0][ROUND_MOMENTUM_PRODUCT][1])
    assert told[2][ROUND_MOMENTUM_PRODUCT][1] == pytest.approx(float(updates[2] @ momentum), rel=1e-4)
    client.close()


def test_what_no_client_can_do_is_refused() -> None:
    own = model()
    optimizer = torch.optim.SGD(own.parameters(), LR)
    common: dict[str, Any] = {"average": Federation(1).average(0), "local_steps": 2}
    for wrong in ({"total_steps": 100}, {"policy": "budget"}, {"local_steps": 0}, {"rounds": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Client(own, optimizer, **{**common, **wrong})


def test_a_tuner_that_is_no_client_is_told_which_one_to_use(server: str) -> None:
    from lrpilot import Tuner

    own = model()
    with pytest.raises(RefusedError, match=r"lrpilot\.federated\.Client"):
        Tuner(own, torch.optim.SGD(own.parameters(), LR), server=server, policy="fedhyper")


def test_an_average_that_is_none_is_told_so() -> None:
    own = model()
    optimizer = torch.optim.SGD(own.parameters(), LR)
    with Client(
        own, optimizer, average=lambda each: each[:1], local_steps=1, transport=ScriptedTransport([training(LR, 2)])
    ) as client:
        torch.autograd.backward(loss_of(own, data(0)[0]))
        optimizer.step()
        with pytest.raises(ValueError, match="average: it gave 1 tensors"):
            client.step(1.0)
