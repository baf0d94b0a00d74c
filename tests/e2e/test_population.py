"""Ranks that try candidates at the same time: real processes, gloo, DDP with batch norm and dropout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.servers.server_process import ServerProcess, running
from tests.support.training import distributed_training as ranks
from tests.support.training import odd_ranks
from tests.support.training import population_training as members
from tests.support.training.distributed_training import Outcome
from tests.support.training.population_training import sent, together
from tests.support.training.rank_processes import RankProcesses
from tests.support.training.scripted_directives import directive, probe, training

POPULATION: dict[str, Any] = {"population": True}
LRS = (0.5, 0.03, 1e-3, 0.1)
SEARCH: dict[str, Any] = {"probe_steps": 20, "refinements": 3, "max_candidates": 8}
JOB: dict[str, Any] = {"policy_options": SEARCH, "total_steps": 1000}


# Four ranks on two cores take their time.
@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda size: f"{size} ranks")
def size(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def processes(size: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    with RankProcesses(size, tmp_path_factory.mktemp("processes") / "meeting_point") as processes:
        yield processes


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    with RankProcesses(2, tmp_path_factory.mktemp("processes") / "meeting_point") as processes:
        yield processes


def assert_same_bits(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def reports_of(messages: list[bytes]) -> list[pb.Report]:
    return list(map(pb.Report.FromString, messages))


def history(server: ServerProcess, job_id: str) -> pb.GetScheduleResponse:
    request = pb.GetScheduleRequest(job_id=job_id, view=pb.SCHEDULE_VIEW_FULL)
    response: pb.GetScheduleResponse = server.stub.GetSchedule(request, timeout=10)
    return response


def probes_of(response: pb.GetScheduleResponse) -> list[pb.HistoryEntry]:
    return [entry for entry in response.history if entry.directive.phase == pb.PHASE_PROBE]


@pytest.mark.parametrize("kind", ["ddp", pytest.param("ddp_views", marks=pytest.mark.slow)])
def test_probes_leave_no_trace_on_any_rank(processes: RankProcesses, size: int, kind: str) -> None:
    """Bit for bit, random numbers included; also where fewer probes are told than there are ranks."""
    lrs = LRS[:size]
    script = [
        *together(lrs, 9, first=True),
        *together(lrs[::-1], 9),
        training(0.03, 12, restore=True),
        *together(lrs[: size - 1], 5, first=True),
        *together(lrs[:1], 5),
        training(0.03, 4, restore=True),
    ]
    bare = processes.run(ranks.train_bare, kind, 0.03, 16)
    probed = processes.run(ranks.train_by_script, kind, sent(script), None, POPULATION)
    for rank, (expected, (outcome, _)) in enumerate(zip(bare, probed, strict=True)):
        assert_same_bits(expected.shards, outcome.shards)
        assert len(outcome.lrs) == 9 + 9 + 12 + 5 + 5 + 4
        assert outcome.lrs[0] == LRS[rank]
        assert outcome.schedule == probed[0][0].schedule
        assert [piece.profile.start_lr for piece in outcome.schedule.probes] == [
            *lrs,
            *lrs[::-1],
            *lrs[: size - 1],
            *lrs[:1],
        ]


def test_members_report_what_rank_0_alone_would(processes: RankProcesses, size: int) -> None:
    """Bit for bit, so that the choice is that of one rank's search over the same candidates."""
    lrs = LRS[:size]
    script = [*together(lrs, 9, first=True), *together(lrs[::-1], 9), training(0.03, 4, restore=True)]
    one_by_one = [probe(lr, 9, first=not i) for i, lr in enumerate([*lrs, *lrs[::-1]])]
    (_, found), *_ = processes.run(ranks.train_by_script, "ddp", sent(script), None, POPULATION)
    expected, *_ = processes.run(members.alone, sent([*one_by_one, training(0.03, 4, restore=True)]), size, None)
    for report, other in zip(reports_of(found[:-1]), reports_of(expected[:-1]), strict=True):
        assert (report.directive_number, report.outcome) == (other.directive_number, other.outcome)
        assert list(report.losses) == list(other.losses)


@pytest.mark.parametrize("member", [0, 1])
def test_a_member_that_diverges_is_reported_as_one_rank_would_and_the_others_go_on(
    processes: RankProcesses, size: int, member: int
) -> None:
    """The round has its steps, whoever diverges: no run is longer than was promised."""
    lrs = LRS[:size]
    script = [*together(lrs, 24, first=True), training(0.03, 4, restore=True)]
    outcomes = processes.run(ranks.train_by_script, "ddp", sent(script), (member, 10), POPULATION)
    one_by_one = [probe(lrs[member], 24, first=True), training(0.03, 4, restore=True)]
    expected, *_ = processes.run(members.alone, sent(one_by_one), size, 10)
    found, alone = reports_of(outcomes[0][1])[:size], reports_of(expected)[0]
    diverged = found.pop(member)
    assert [report.outcome for report in found] == [pb.OUTCOME_COMPLETED] * (size - 1)
    assert diverged.outcome == alone.outcome == pb.OUTCOME_DIVERGED
    assert len(alone.losses) == 12  # a look every three steps
    assert list(map(str, diverged.losses[:12])) == list(map(str, alone.losses))
    assert len(diverged.losses) == (12 if member else 24)
    for outcome, _ in outcomes:
        assert len(outcome.lrs) == 24 + 4
        assert_same_bits(outcomes[0][0].weights, outcome.weights)


def test_a_round_in_which_all_diverge_ends_at_once(processes: RankProcesses, size: int) -> None:
    script = [*together(LRS[:size], 32, first=True, give_up_above=-1.0), training(0.03, 4, restore=True)]
    for each in script[0].alongside:
        each.give_up_above = -1.0
    outcomes = processes.run(ranks.train_by_script, "ddp", sent(script), None, POPULATION)
    found = reports_of(outcomes[0][1])[:size]
    assert [report.outcome for report in found] == [pb.OUTCOME_DIVERGED] * size
    assert [len(report.losses) for report in found] == [8] * size
    for outcome, _ in outcomes:
        assert outcome.lrs[7:12] == [outcome.lrs[0], 0.03, 0.03, 0.03, 0.03]


def test_a_search_takes_a_part_of_the_time_and_chooses_alike(
    processes: RankProcesses, size: int, shared_server: ServerProcess
) -> None:
    """Counted in steps that a rank makes one after another; the books are the same on all ranks and the server."""
    outcomes: list[Outcome] = processes.run(ranks.train, "ddp", shared_server.target, JOB | POPULATION)
    response = history(shared_server, outcomes[0].job_id)
    probes = probes_of(response)
    rounds = [entry for entry in probes if not entry.directive.taken_along]
    n_steps = probes[0].directive.n_steps
    assert len(probes) >= 6
    assert len(rounds) == math.ceil(len(probes) / size) <= 8 // size
    assert response.job.search_steps - response.job.given_back_steps == n_steps * len(rounds)
    assert response.job.committed_steps + response.job.search_steps == 1000
    for outcome in outcomes:
        assert len(outcome.lrs) == 1000
        assert outcome.schedule == outcomes[0].schedule
        assert_same_bits(outcomes[0].weights, outcome.weights)
    assert outcomes[0].lrs[:n_steps] != outcomes[1].lrs[:n_steps]

    (job_id, _), *_ = processes.run(members.search_alone, shared_server.target, size, JOB | {"validate": None})
    alone = history(shared_server, job_id)
    assert len(probes_of(alone)) >= 6
    optima = [
        next(entry.decision.optimum for entry in each.history if entry.decision.HasField("optimum"))
        for each in (response, alone)
    ]
    assert abs(math.log(optima[0] / optima[1])) < math.log(2.0)


@pytest.mark.slow
def test_a_checkpoint_from_within_a_round_is_one_of_its_beginning(
    processes: RankProcesses, size: int, shared_server: ServerProcess, tmp_path: Path
) -> None:
    """Also where every rank loads the weights of rank 0, which are those of one member."""
    whole: list[Outcome] = processes.run(ranks.train, "ddp", shared_server.target, JOB | POPULATION)
    n_probe = whole[0].schedule.probes[0].n_steps
    for n_steps in (7, n_probe + 5):
        processes.run(members.train_and_save_rank_0s_weights, shared_server.target, tmp_path, n_steps, JOB | POPULATION)
        resumed = processes.run(ranks.resume, "ddp", shared_server.target, tmp_path, JOB | POPULATION)
        for expected, outcome in zip(whole, resumed, strict=True):
            assert_same_bits(expected.shards, outcome.shards)
            assert outcome.lrs == expected.lrs[n_steps // n_probe * n_probe :]
            assert outcome.schedule == expected.schedule


@pytest.mark.slow
def test_a_range_test_before_is_one_of_all_ranks_together(processes: RankProcesses, size: int) -> None:
    """Its first loss is a mean over the ranks, which that of a member is not, and it draws each rank's own batches."""
    script = [
        directive(pb.PHASE_RANGE_TEST, 0.1, 7),
        *together(LRS[:size], 9),
        training(0.03, 16, restore=True),
    ]
    bare = processes.run(ranks.train_bare, "ddp", 0.03, 16)
    probed = processes.run(ranks.train_by_script, "ddp", sent(script), None, POPULATION)
    found = reports_of(probed[0][1])
    assert [report.outcome for report in found] == [pb.OUTCOME_COMPLETED] * (size + 2)
    for expected, (outcome, _) in zip(bare, probed, strict=True):
        if size == 2:  # DDP reorders its buckets once, which with more ranks shows in the last bits of a sum.
            assert_same_bits(expected.shards, outcome.shards)
        assert_same_bits(probed[0][0].weights, outcome.weights)


@pytest.mark.slow
def test_probes_after_a_change_of_the_plan_have_all_ranks(two: RankProcesses, shared_server: ServerProcess) -> None:
    first, second = two.run(members.replan, shared_server.target, JOB | POPULATION, 300)
    probes = probes_of(history(shared_server, first.job_id))
    later = [entry for entry in probes if entry.directive.stage > 1]
    assert later
    assert [entry.directive.apart for entry in probes] == [entry.directive.stage == 1 for entry in probes]
    assert len(first.lrs) == len(second.lrs) == 1000
    assert first.lrs[300:] == second.lrs[300:]
    assert_same_bits(first.weights, second.weights)


def test_ranks_are_as_one_again_where_a_round_is_closed(processes: RankProcesses, size: int) -> None:
    script = [*together(LRS[:size], 9, first=True), training(0.03, 4, restore=True)]
    first, *others = processes.run(members.close_in_a_round, sent(script), 5, 4)
    for outcome in others:
        assert outcome.lrs[:5] != first.lrs[:5]
        assert outcome.lrs[5:] == first.lrs[5:]
        assert_same_bits(first.weights, outcome.weights)


@pytest.mark.slow
def test_a_server_that_dies_in_a_round_does_not_stop_the_training(two: RankProcesses, tmp_path: Path) -> None:
    job = JOB | POPULATION
    with running(f"sqlite:///{tmp_path}/jobs.db") as server:
        first, second = two.run(ranks.train_past_a_server, "ddp", server.target, server.process.pid, 5, job)
    outcome, committed, searched = first
    assert second[1:] == (committed, searched)
    assert committed + searched == len(outcome.lrs) == job["total_steps"]
    assert second[0].lrs[-committed:] == outcome.lrs[-committed:]
    assert_same_bits(outcome.weights, second[0].weights)


def test_ranks_that_are_not_in_step_end_the_tuning_and_not_the_training(two: RankProcesses) -> None:
    script = [*together(LRS[:2], 9, first=True), training(0.03, 12, restore=True)]
    first, second = two.run(members.train_past_a_skip, sent(script), 4)
    assert first.lrs[-12:] == second.lrs[-12:]
    assert first.lrs[-12] > first.lrs[-1] > 0
    assert_same_bits(first.weights, second.weights)


FAILURES = {
    "restore": ("lrpilot.backends.torch.rollback.taken.Taken.load", 2),
    "restore in the end": ("lrpilot.backends.torch.rollback.taken.Taken.load", 3),
    "reading losses": ("lrpilot.backends.torch.backend.TorchBackend.flush", 2),
    "looking for a divergence": ("lrpilot.backends.torch.backend.TorchBackend.diverged", 4),
    "an event": ("lrpilot.run.lease.Lease.event", 9),
    "the books": ("lrpilot.run.run_record.RunRecord.add", 2),
}


SHARING = {
    "sending": ("lrpilot.distributed.shared_batch.packed", 22),
    "reading": ("lrpilot.distributed.shared_batch._take", 22),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "rank"), [*((failure, rank) for failure in FAILURES for rank in (0, 1)), ("sending", 0), ("reading", 1)]
)
def test_a_failure_on_one_rank_ends_the_tuning_on_all_and_no_training(
    two: RankProcesses, shared_server: ServerProcess, failure: str, rank: int
) -> None:
    """Nobody is left waiting, and all train the same weights to the end."""
    job = JOB | POPULATION | {"total_steps": 500, "policy_options": SEARCH | {"probe_steps": 8}}
    what, call = (FAILURES | SHARING)[failure]
    outcomes = two.run(ranks.train_past_a_failure, shared_server.target, "ddp", what, call, rank, job)
    (first, _), (second, _) = outcomes
    assert len(first.lrs) == len(second.lrs)
    assert first.lrs[-100:] == second.lrs[-100:]
    assert_same_bits(first.weights, second.weights)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fsdp", "sharded"),
        ("inside", "not the one inside it"),
        ("outside", "outside DistributedDataParallel"),
        ("static graph", "static_graph"),
        ("batch norm", "SyncBatchNorm"),
        ("optimizer", "ZeroRedundancyOptimizer communicates"),
        ("scaler", "GradScaler scaler"),
    ],
)
def test_what_makes_ranks_one_is_refused(two: RankProcesses, kind: str, words: str) -> None:
    first, second = two.run(members.refused, kind)
    assert first == second
    assert first.startswith("population: ")
    assert words in first
    assert first.endswith("leave out population=True, and ranks probe together")


def test_batches_of_the_loops_own_are_refused_at_its_first_step(two: RankProcesses) -> None:
    script = [*together(LRS[:2], 9, first=True), training(0.03, 4, restore=True)]
    for said in two.run(members.own_batches, sent(script)):
        assert said.startswith("1: population: the loop draws its own batches")


@pytest.mark.parametrize("call", [1, 5])
def test_a_loader_that_fails_is_heard_of_on_all_ranks(two: RankProcesses, call: int) -> None:
    script = [*together(LRS[:2], 9, first=True), training(0.03, 4, restore=True)]
    first, (kind, _) = two.run(members.failing_loader, sent(script), call)
    assert first == ("OSError", "the disk is gone")
    assert kind == "RuntimeError"


def test_other_policies_say_that_they_try_one_at_a_time(two: RankProcesses, shared_server: ServerProcess) -> None:
    arguments = {"policy": "autolrs", "policy_options": {}, **POPULATION}
    first, second = two.run(ranks.fail, shared_server.target, arguments)
    assert first == second
    assert first[0] == "RefusedError"
    assert "one candidate at a time; take budget" in first[1]


def test_a_population_of_one_is_what_a_run_alone_is() -> None:
    """The same messages, bit for bit."""
    sent_by: list[list[bytes]] = []
    for population in (False, True):
        transport = ScriptedTransport([probe(0.1, 5, first=True), probe(0.2, 5), training(0.1, 5, restore=True)])
        parameter = torch.nn.Parameter(torch.ones(2))
        model, optimizer = torch.nn.ParameterList([parameter]), torch.optim.SGD([parameter], lr=0.1)
        arguments: dict[str, Any] = {"total_steps": 15, "lr_bounds": (1e-3, 1.0), "population": population}
        with lrpilot.Tuner(model, optimizer, transport=transport, **arguments) as tuner:
            for batch in tuner.batches([torch.ones(2), torch.zeros(2)]):
                loss = (parameter - batch).square().sum()
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
                optimizer.step()
                optimizer.zero_grad()
                tuner.step(loss)
        for report in transport.reports:
            report.wall_time_s = 0.0
        sent_by.append(
            [
                transport.config.SerializeToString(deterministic=True),
                *(report.SerializeToString() for report in transport.reports),
            ]
        )
    assert sent_by[0] == sent_by[1]


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1, None])
@pytest.mark.parametrize("in_search", [True, False])
def test_a_change_of_the_plan_is_that_of_rank_0(
    two: RankProcesses, shared_server: ServerProcess, who: int | None, in_search: bool
) -> None:
    """Also where it is asked for in probes that ranks try apart."""
    (first, kinds, total_steps, _), (second, others, also, _) = two.run(
        odd_ranks.change_plans_alone, shared_server.target, who, "extend", in_search, JOB | POPULATION
    )
    assert kinds == others == ([] if who == 1 else ["extend"])
    assert total_steps == also == JOB["total_steps"] + (0 if who == 1 else 40)
    assert first.schedule == second.schedule
    assert first.lrs[-100:] == second.lrs[-100:]
    assert_same_bits(first.weights, second.weights)
