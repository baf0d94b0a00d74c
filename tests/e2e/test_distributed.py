"""Several ranks that train one model: real processes, gloo, a real server."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.servers.server_process import ServerProcess, running
from tests.support.training import distributed_training as ranks
from tests.support.training.distributed_training import TOTAL_STEPS, Outcome
from tests.support.training.rank_processes import RankProcesses
from tests.support.waiting import wait_until

SIZE = 2
KINDS = ["ddp", "ddp_views", "fsdp"]
OTHER_KINDS = [
    "buffers",
    "power_sgd",
    "post_local",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("static", "zero", "group", "hsdp")),
]
SLOW_FSDP = pytest.param("fsdp", marks=pytest.mark.slow)
"""Where the shards are tried elsewhere, too: a training of two ranks takes some ten seconds."""


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    with RankProcesses(SIZE, tmp_path_factory.mktemp("processes") / "meeting_point") as processes:
        yield processes


@pytest.fixture(scope="module")
def whole(processes: RankProcesses, shared_server: ServerProcess) -> Callable[[str], list[Outcome]]:
    """By kind: a run that nothing happens to."""
    return functools.cache(lambda kind: processes.run(ranks.train, kind, shared_server.target, {}))


def directive(phase: pb.Phase.ValueType, lr: float, n_steps: int, **fields: Any) -> bytes:
    return pb.Directive(
        phase=phase,
        n_steps=n_steps,
        profile=pb.Profile(shape="constant", start_lr=lr, end_lr=lr, length=n_steps),
        batches=pb.BATCH_SOURCE_REPLAYED,
        **fields,
    ).SerializeToString()


def n_jobs(server: ServerProcess) -> int:
    return len(server.stub.ListJobs(pb.ListJobsRequest(page_size=1000), timeout=10).jobs)


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_all_ranks_and_the_server_have_the_same_books(
    whole: Callable[[str], list[Outcome]], shared_server: ServerProcess, kind: str
) -> None:
    """And rank 0 alone has opened a job."""
    before = n_jobs(shared_server)
    first, second = whole(kind)
    assert n_jobs(shared_server) == before + 1
    assert first.job_id == second.job_id
    assert first.schedule == second.schedule
    assert first.lrs == second.lrs
    assert len(first.lrs) == TOTAL_STEPS
    assert_equal(first.weights, second.weights)
    assert not torch.equal(first.shards["random"], second.shards["random"])
    request = pb.GetScheduleRequest(job_id=first.job_id, view=pb.SCHEDULE_VIEW_FULL)
    response = shared_server.stub.GetSchedule(request, timeout=10)
    assert response.job.state == pb.JOB_STATE_FINISHED
    stored = lrpilot.Schedule.from_response(response, first.schedule.base_lrs)
    assert stored.segments == first.schedule.segments
    assert stored.losses == first.schedule.losses
    assert stored.probes == first.schedule.probes
    assert len(stored.probes) > 2
    assert stored.validations == first.schedule.validations


@pytest.mark.parametrize("kind", [*KINDS, *OTHER_KINDS])
def test_a_probe_leaves_no_trace(processes: RankProcesses, kind: str) -> None:
    """Invariant 3, on every rank.

    A probe that ends with a validation leaves FSDP2 with whole weights in place. None comes after the last step: DDP
    gives all ranks the buffers of rank 0 in every forward pass, the next one of the training or one of a validation.
    """
    script = [
        directive(pb.PHASE_PROBE, 0.5, 9, snapshot=True, validate_at=[0, 4, 9]),
        directive(pb.PHASE_PROBE, 1e-4, 3, restore=True),
        directive(pb.PHASE_TRAIN, 0.03, 12, restore=True),
        directive(pb.PHASE_PROBE, 1.0, 5, snapshot=True, validate_at=[5]),
        directive(pb.PHASE_TRAIN, 0.03, 4, restore=True, validate_at=[2]),
    ]
    bare = processes.run(ranks.train_bare, kind, 0.03, 16)
    probed = processes.run(ranks.train_by_script, kind, script, None)
    for expected, (outcome, _) in zip(bare, probed, strict=True):
        assert_equal(expected.shards, outcome.shards)
        assert len(outcome.lrs) == 33


@pytest.mark.slow
def test_a_probe_leaves_no_trace_on_four_ranks_of_a_mesh(tmp_path: Path) -> None:
    """Two replicas, each in two shards."""
    script = [directive(pb.PHASE_PROBE, 0.5, 9, snapshot=True), directive(pb.PHASE_TRAIN, 0.03, 9, restore=True)]
    with RankProcesses(4, tmp_path / "meeting_point") as processes:
        bare = processes.run(ranks.train_bare, "hsdp", 0.03, 9)
        probed = processes.run(ranks.train_by_script, "hsdp", script, None)
    for expected, (outcome, _) in zip(bare, probed, strict=True):
        assert_equal(expected.shards, outcome.shards)


def test_what_is_reported_is_the_mean(processes: RankProcesses) -> None:
    """Of the losses at every step, and of the validations: the same on a rank and in the report of rank 0."""
    script = [directive(pb.PHASE_TRAIN, 0.01, 6, validate_at=[3, 6])]
    (first, [message]), (second, silence) = processes.run(ranks.train_by_script, "ddp", script, None)
    report = pb.Report.FromString(message)
    assert silence == []
    assert first.own_losses != second.own_losses
    means = (torch.tensor([first.own_losses, second.own_losses], dtype=torch.float64).sum(0) / 2).float().tolist()
    assert list(report.losses) == means
    assert list(first.schedule.losses) == list(second.schedule.losses) == means
    assert [v.loss for v in first.schedule.validations] == [v.loss for v in report.validations]
    assert first.schedule.validations == second.schedule.validations


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_norms_are_those_of_the_whole_model(processes: RankProcesses, kind: str) -> None:
    """Each rank has all gradients with DDP, to the bit those of the others, and its shards of them with FSDP2."""
    script = [
        directive(pb.PHASE_PROBE, 0.05, 5, snapshot=True, measures=["gradient_norm"]),
        directive(pb.PHASE_TRAIN, 0.01, 6, restore=True, measures=["gradient_norm"]),
    ]
    (first, messages), (second, silence) = processes.run(ranks.train_by_script, kind, script, None)
    assert silence == []
    assert first.norms == second.norms
    reports = list(map(pb.Report.FromString, messages))
    assert [[measure.name for measure in report.measures] for report in reports] == [["gradient_norm"]] * 2
    found = [value for report in reports for value in report.measures[0].values]
    assert found == (pytest.approx(first.norms, rel=1e-6) if kind == "fsdp" else first.norms)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_products_are_those_of_the_whole_model(processes: RankProcesses, kind: str) -> None:
    """Each rank has all directions with DDP, and a part of them with FSDP2."""
    script = [directive(pb.PHASE_TRAIN, 0.01, 5, measures=["update_product"])]
    (first, [message]), _ = processes.run(ranks.train_by_script, kind, script, None)
    [measure] = pb.Report.FromString(message).measures
    assert math.isnan(measure.values[0])
    assert list(measure.values)[1:] == pytest.approx(first.products[1:], rel=1e-3)


def test_the_largest_logit_is_that_of_all_ranks(processes: RankProcesses) -> None:
    script = [directive(pb.PHASE_TRAIN, 0.01, 5, measures=["gradient_norm", "output_logit"])]
    (first, [message]), (second, _) = processes.run(ranks.train_by_script, "ddp", script, None)
    _, measure = pb.Report.FromString(message).measures
    assert measure.name == "output_logit"
    assert list(measure.values) == [max(pair) for pair in zip(first.own_logits, second.own_logits, strict=True)]
    assert first.own_logits != second.own_logits


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_ranks_average_alike_and_each_its_own_shards(processes: RankProcesses, kind: str) -> None:
    averaging = directive(pb.PHASE_TRAIN, 0.01, 2, average=pb.Average(memory_steps=1.0, every=1))
    (first, adopted), (second, also) = processes.run(ranks.train_averaged, kind, averaging, None, False)
    assert adopted == also == "average"
    assert_equal(first.weights, second.weights)
    start, middle, end = (processes.run(ranks.train_bare, kind, 0.01, n)[0].weights for n in (0, 1, 2))
    for name, value in first.weights.items():
        part = -math.expm1(-1.0)
        torch.testing.assert_close(value, start[name].lerp(middle[name], part).lerp(end[name], part))


@pytest.mark.parametrize("validates", [True, False])
def test_where_one_rank_can_not_adopt_the_average_all_end_with_the_last_weights(
    processes: RankProcesses, validates: bool
) -> None:
    averaging = directive(pb.PHASE_TRAIN, 0.01, 5, average=pb.Average(memory_steps=1.0, every=1))
    (first, adopted), (second, also) = processes.run(ranks.train_averaged, "ddp", averaging, 1, validates)
    assert adopted is also is None
    assert_equal(first.weights, second.weights)
    assert_equal(first.weights, processes.run(ranks.train_bare, "ddp", 0.01, 5)[0].weights)


@pytest.mark.parametrize("phase", [pb.PHASE_PROBE, pb.PHASE_TRAIN])
def test_a_rank_that_diverges_ends_the_directive_on_all(processes: RankProcesses, phase: pb.Phase.ValueType) -> None:
    script = [
        directive(phase, 0.01, 32, snapshot=True),
        directive(pb.PHASE_TRAIN, 0.01, 6, restore=True),
    ]
    outcomes = processes.run(ranks.train_by_script, "ddp", script, (1, 10))
    first, second = (outcome for outcome, _ in outcomes)
    diverged, completed = map(pb.Report.FromString, outcomes[0][1][:2])
    assert diverged.outcome == pb.OUTCOME_DIVERGED
    assert len(diverged.losses) == 12  # a look every four steps
    assert [n for n, loss in enumerate(diverged.losses, 1) if loss != loss] == [10]
    assert completed.outcome == pb.OUTCOME_COMPLETED
    assert first.lrs == second.lrs
    assert first.schedule.segments == second.schedule.segments
    assert_equal(first.weights, second.weights)


@pytest.mark.parametrize(("poisoned", "seen_after"), [(1, 4), (4, 4), (5, 8), (9, 10)])
def test_a_short_probe_that_diverges_on_one_rank_ends_on_all(
    processes: RankProcesses, poisoned: int, seen_after: int
) -> None:
    script = [directive(pb.PHASE_PROBE, 0.01, 10, snapshot=True), directive(pb.PHASE_TRAIN, 0.01, 6, restore=True)]
    outcomes = processes.run(ranks.train_by_script, "ddp", script, (1, poisoned))
    (first, messages), (second, _) = outcomes
    diverged = pb.Report.FromString(messages[0])
    assert (diverged.outcome, len(diverged.losses)) == (pb.OUTCOME_DIVERGED, seen_after)
    assert first.lrs == second.lrs
    assert_equal(first.weights, second.weights)


def test_ranks_meet_at_every_fourth_step_of_a_short_probe(processes: RankProcesses) -> None:
    script = [directive(pb.PHASE_PROBE, 0.01, 12, snapshot=True)]
    for met in processes.run(ranks.meetings, "ddp", script):
        pairs = enumerate(itertools.pairwise(met), 1)
        assert [step for step, (before, after) in pairs if after > before] == [4, 8, 12]


def test_an_early_warning_ends_a_probe_on_all_ranks(processes: RankProcesses) -> None:
    sign = pb.EarlyWarning(measure="gradient_norm", rule=pb.WARNING_RULE_ABOVE, level=1e-12, row=5, ends=True)
    script = [
        directive(pb.PHASE_PROBE, 0.01, 32, snapshot=True, measures=["gradient_norm"], warnings=[sign]),
        directive(pb.PHASE_TRAIN, 0.01, 6, restore=True),
    ]
    (first, messages), (second, _) = processes.run(ranks.train_by_script, "ddp", script, None)
    ended, completed = map(pb.Report.FromString, messages[:2])
    assert (ended.outcome, len(ended.losses)) == (pb.OUTCOME_DIVERGED, 8), "a look every four steps"
    assert ended.note == "gradient_norm was above 1e-12 for 5 steps, up to step 5"
    assert completed.outcome == pb.OUTCOME_COMPLETED
    assert first.lrs == second.lrs
    assert_equal(first.weights, second.weights)


def test_the_limit_is_one_for_the_mean(processes: RankProcesses) -> None:
    """A rank above it does not end a probe that is below it on the whole."""
    (baseline, _), (other, _) = processes.run(ranks.train_by_script, "ddp", [directive(pb.PHASE_TRAIN, 0.001, 8)], None)
    means = baseline.schedule.losses
    limit = max(means) * (1 + 1e-6)
    assert max(*baseline.own_losses, *other.own_losses) > limit
    for give_up_above, outcome in ((limit, pb.OUTCOME_COMPLETED), (min(means) * (1 - 1e-6), pb.OUTCOME_DIVERGED)):
        script = [directive(pb.PHASE_PROBE, 0.001, 8, snapshot=True, give_up_above=give_up_above)]
        (_, reports), _ = processes.run(ranks.train_by_script, "ddp", script, None)
        assert pb.Report.FromString(reports[0]).outcome == outcome


@pytest.mark.parametrize("kind", ["ddp", SLOW_FSDP])
def test_ranks_change_their_plan_together(processes: RankProcesses, shared_server: ServerProcess, kind: str) -> None:
    """By their own program, and by somebody at the server, which rank 0 alone talks to."""
    (first, undone, kinds), (second, also, others) = processes.run(
        ranks.train_in_changing_plans, kind, shared_server.target
    )
    assert undone
    assert also
    assert kinds == others == ["extend", "extend", "anneal", "undo_annealing"]
    assert len(first.lrs) == TOTAL_STEPS + 100
    assert first.lrs == second.lrs
    assert first.schedule == second.schedule
    assert_equal(first.weights, second.weights)
    job = shared_server.stub.GetJob(pb.GetJobRequest(job_id=first.job_id), timeout=10).job
    assert (job.state, job.total_steps) == (pb.JOB_STATE_FINISHED, TOTAL_STEPS + 100)
    assert job.committed_steps == first.schedule.n_steps


def test_a_server_that_dies_does_not_stop_the_training(processes: RankProcesses, tmp_path: Path) -> None:
    """Invariants 6 and 7, on every rank; it dies in the search."""
    with running(f"sqlite:///{tmp_path}/jobs.db") as server:
        first, second = processes.run(ranks.train_past_a_server, "ddp", server.target, server.process.pid, 13)
    outcome, committed, searched = first
    assert second[1:] == (committed, searched)
    assert committed + searched == len(outcome.lrs) == TOTAL_STEPS
    assert second[0].lrs == outcome.lrs
    assert second[0].schedule == outcome.schedule
    assert outcome.lrs[-1] < 0.1 * max(outcome.lrs[-committed:])
    assert_equal(outcome.weights, second[0].weights)


FAILURES = {
    "restore": ("lrpilot.backends.torch.rollback.taken.Taken.load", 2),
    "take": ("lrpilot.backends.torch.rollback.snapshot.Snapshot.take", 2),
    "reading losses": ("lrpilot.backends.torch.backend.TorchBackend.peek", 4),
    "going back in the data": ("lrpilot.data.position.DataPosition.follow", 2),
    "an event": ("lrpilot.run.lease.Lease.event", 9),
    "the books": ("lrpilot.run.run_record.RunRecord.add", 2),
}


@pytest.mark.parametrize("rank", [0, 1, None])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_on_one_rank_ends_the_tuning_on_all_and_no_training(
    processes: RankProcesses, shared_server: ServerProcess, failure: str, rank: int | None
) -> None:
    """Nobody is left waiting: all ranks take the same steps at the same LRs to the end of the budget."""
    outcomes = processes.run(ranks.train_past_a_failure, shared_server.target, "ddp", *FAILURES[failure], rank)
    (first, _), (second, _) = outcomes
    assert len(first.lrs) == len(second.lrs) == ranks.SHORT["total_steps"]
    assert first.lrs == second.lrs
    assert_equal(first.weights, second.weights)


def test_a_transport_that_raises_on_rank_0_ends_no_training_on_any(
    processes: RankProcesses, shared_server: ServerProcess
) -> None:
    failing = "lrpilot.transport.grpc_transport.GrpcTransport.advance"
    (first, books), (second, others) = processes.run(
        ranks.train_past_a_failure, shared_server.target, "ddp", failing, 3, 0
    )
    assert books == others == len(first.lrs) == len(second.lrs) == ranks.SHORT["total_steps"]
    assert first.lrs == second.lrs
    assert first.schedule == second.schedule
    assert_equal(first.weights, second.weights)


def test_strict_raises_on_all(processes: RankProcesses) -> None:
    arguments = {"strict": True, "timeout_s": 1.0}
    first, second = processes.run(ranks.fail, "127.0.0.1:1", arguments)
    assert first == second
    assert first[0] == "UnavailableError"


def test_a_refusal_is_raised_on_all(processes: RankProcesses, shared_server: ServerProcess) -> None:
    first, second = processes.run(ranks.fail, shared_server.target, {"policy": "none-such"})
    assert first == second
    assert first[0] == "RefusedError"
    assert "none-such" in first[1]


def test_arguments_that_differ_are_refused_before_a_job_is_open(
    processes: RankProcesses, shared_server: ServerProcess
) -> None:
    before = n_jobs(shared_server)
    first, second = processes.run(ranks.differ, shared_server.target)
    assert first == second == "name, seed: not the same on every rank"
    assert n_jobs(shared_server) == before


def test_what_ranks_measure_may_differ_and_that_of_rank_0_counts(
    processes: RankProcesses, shared_server: ServerProcess
) -> None:
    first, second = processes.run(ranks.measure_differently, shared_server.target)
    assert first == second == [1.0]


@pytest.mark.parametrize(
    ("kind", "n_steps"), [("ddp", 11), ("ddp", 90), pytest.param("fsdp", 11, marks=pytest.mark.slow)]
)
def test_a_run_resumed_from_the_checkpoints_of_its_ranks_is_the_same(
    processes: RankProcesses,
    shared_server: ServerProcess,
    whole: Callable[[str], list[Outcome]],
    tmp_path: Path,
    kind: str,
    n_steps: int,
) -> None:
    """In a probe, and in committed steps; the first life goes on past its checkpoint."""
    processes.run(ranks.train_and_save, kind, shared_server.target, tmp_path, n_steps)
    resumed = processes.run(ranks.resume, kind, shared_server.target, tmp_path)
    for expected, outcome in zip(whole(kind), resumed, strict=True):
        assert_equal(expected.shards, outcome.shards)
        assert outcome.lrs == expected.lrs[n_steps:]
        assert outcome.schedule == expected.schedule


def test_the_state_of_another_rank_is_refused_on_all(processes: RankProcesses, shared_server: ServerProcess) -> None:
    first, second = processes.run(ranks.swap_states, shared_server.target)
    assert "rank 0 was given that of rank 1 of 2" in first
    assert "rank 1 was given that of rank 0 of 2" in second


def test_waiting_for_the_server_is_no_waiting_of_the_group(
    processes: RankProcesses, shared_server: ServerProcess
) -> None:
    """It may last longer than the group's timeout, which NCCL's watchdog keeps."""
    first, second = processes.run(ranks.outwait, shared_server.target)
    assert first == second != ""


def test_an_error_on_one_rank_does_not_leave_the_others_waiting(
    processes: RankProcesses, shared_server: ServerProcess
) -> None:
    """The error says which rank it was."""
    first, second = processes.run(ranks.desert, shared_server.target)
    assert first.startswith("RuntimeError: rank 1 of 2 has gone, or hangs: ")
    assert second == "ArithmeticError: "


@pytest.mark.slow
def test_a_rank_that_dies_is_named_on_all_others(shared_server: ServerProcess, tmp_path: Path) -> None:
    """Ranks that were waiting for one another hear of it too."""
    told = tmp_path / "told"
    told.mkdir()
    with RankProcesses(3, tmp_path / "meeting_point") as processes:
        with pytest.raises(EOFError):
            processes.run(ranks.die, shared_server.target, told)
        wait_until(lambda: [bool(path.read_text()) for path in told.iterdir()] == [True, True])
    for path in told.iterdir():
        assert path.read_text().startswith("rank 1 of 3 has gone, or hangs: ")


def test_rank_0_alone_gives_signs_and_leaves(processes: RankProcesses, shared_server: ServerProcess) -> None:
    (job_id, given), (_, none) = processes.run(ranks.give_signs, shared_server.target)
    assert (given, none) == (5, 0)
    job = shared_server.stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=10).job
    assert job.life == pb.JOB_LIFE_STOPPED


def test_parts_of_the_world_have_jobs_of_their_own(processes: RankProcesses, shared_server: ServerProcess) -> None:
    before = n_jobs(shared_server)
    first, second = processes.run(ranks.train_apart, shared_server.target)
    assert first != second
    assert n_jobs(shared_server) == before + SIZE
