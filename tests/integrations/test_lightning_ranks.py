"""Lightning with a tuner in two processes: real ones, on gloo, and a real server."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from lightning.pytorch.strategies import FSDPStrategy
from lrpilot.errors import ConfigError
from lrpilot.integrations.lightning_ranks import refuse_other_strategies
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.frameworks import lightning_training as ranks
from tests.support.frameworks.rank_runs import assert_annealed, assert_same, committed, probes, sharded
from tests.support.servers.server_process import ServerProcess, running
from tests.support.training import torch_processes
from tests.support.training.rank_processes import RankProcesses


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_probes_leave_no_trace(processes: RankProcesses, tmp_path: Path, kind: str) -> None:
    """Each rank ends as without a tuner, after a whole number of epochs, as a stop validates."""
    bare = processes.run(ranks.train_bare, kind, tmp_path, 16)
    script = [*probes(), committed(5, restore=True), *probes(), committed(11, restore=True, validate_at=[6])]
    (first, messages), (second, silence) = processes.run(ranks.train_by_script, kind, tmp_path, script)
    assert silence == []
    assert [len(pb.Report.FromString(each).losses) for each in messages] == [7, 4, 5, 7, 4, 11]
    assert first.schedule == second.schedule
    for expected, outcome in zip(bare, (first, second), strict=True):
        assert_same(expected, outcome)
        assert outcome.lrs == expected.lrs == [0.02] * 16
        assert outcome.metrics == expected.metrics
        assert outcome.n_steps == expected.n_steps == 16
    assert sharded(first, second) == (kind == "fsdp")


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_checkpoint_is_gone_on_from(
    processes: RankProcesses, shared_server: ServerProcess, tmp_path: Path, kind: str
) -> None:
    """One file, or folder, that holds the tuners of both ranks."""
    whole = processes.run(ranks.train_and_save, kind, shared_server.target, tmp_path)
    resumed = processes.run(ranks.resume, kind, shared_server.target, tmp_path, "epoch=2")
    for expected, outcome in zip(whole, resumed, strict=True):
        assert outcome.job_id == expected.job_id
        assert outcome.lrs == expected.lrs[3 * 4 :]
        assert outcome.schedule == expected.schedule
        assert_same(expected, outcome)


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", [3, 6])
def test_a_checkpoint_within_an_epoch_is_gone_on_from(
    processes: RankProcesses, shared_server: ServerProcess, tmp_path: Path, n_steps: int
) -> None:
    """At the same LRs; the batches are others, as they are without a tuner: the DataLoader begins its epoch anew."""
    whole = processes.run(ranks.train_and_save, "ddp", shared_server.target, tmp_path, 1)
    first, second = processes.run(ranks.resume, "ddp", shared_server.target, tmp_path, f"step={n_steps}")
    assert first.lrs == second.lrs == whole[0].lrs[n_steps:]
    assert first.schedule == second.schedule
    assert first.job_id == whole[0].job_id


def test_an_average_of_the_weights_goes_back_with_probes(processes: RankProcesses, tmp_path: Path) -> None:
    """Each rank ends with the average that it has without a tuner."""
    script = [*probes(), committed(5, restore=True), *probes(), committed(11, restore=True)]
    for bare, tuned in processes.run(ranks.average_by_script, tmp_path, script, 16):
        assert_same(bare, tuned)


@pytest.mark.slow
def test_a_plan_that_rank_0_alone_changes_is_that_of_all(
    processes: RankProcesses, shared_server: ServerProcess, tmp_path: Path
) -> None:
    (first, planned), (second, also) = processes.run(ranks.extend_on_rank_0, shared_server.target, tmp_path)
    assert planned == also == 20 * 4 + 20
    assert first.schedule is not None
    assert [change.kind.value for change in first.schedule.replans] == ["extend"]
    assert first.schedule == second.schedule
    assert first.lrs == second.lrs


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_lightning_starts_the_processes_itself(shared_server: ServerProcess, tmp_path: Path, strategy: str) -> None:
    """In a process of its own, for a fork would take the test's connections along."""
    with ProcessPoolExecutor(1, torch_processes.context()) as pool:
        arguments = (strategy, shared_server.target, tmp_path)
        trained, told = pool.submit(ranks.fit_in_processes_of_its_own, *arguments).result(120)
    assert trained
    assert "stays in the processes that Lightning has started" in told


@pytest.mark.slow
def test_a_server_that_dies_does_not_stop_the_training(processes: RankProcesses, tmp_path: Path) -> None:
    """All processes spend the budget, at the same LRs, and come down to the end."""
    with running(f"sqlite:///{tmp_path}/jobs.db") as server:
        first, second = processes.run(ranks.train_past_a_server, server.target, tmp_path, server.process.pid)
    assert_annealed(first, second, 60)
    assert first[0].n_steps == len(first[0].lrs)


def test_tensor_parallelism_is_refused_on_all(processes: RankProcesses, tmp_path: Path) -> None:
    for told in processes.run(ranks.refuse, "tensors", tmp_path):
        assert "give all its processes to data_parallel_size" in told


def test_other_strategies_are_refused() -> None:
    """This one can be made without a GPU, if not used."""
    with pytest.raises(ConfigError, match=r"a FSDPStrategy can't be tuned; use strategy='ddp', or .*FSDP2"):
        refuse_other_strategies(FSDPStrategy())
