"""Lightning with a tuner in two processes: real ones, on gloo, and a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.strategies import FSDPStrategy
from lrpilot.errors import ConfigError
from lrpilot.integrations.lightning_ranks import refuse_other_strategies
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.frameworks import lightning_training as ranks
from tests.support.frameworks.rank_runs import assert_annealed, assert_same, committed, probes, sharded
from tests.support.servers.server_process import ServerProcess, running
from tests.support.training.rank_processes import RankProcesses


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_probes_leave_no_trace(processes: RankProcesses, tmp_path: Path, kind: str) -> None:
    """Each rank ends as without a tuner, after a whole number of epochs, as a stop validates."""
    bare = processes.run(ranks.train_bare, kind, tmp_path, 16)
    script = [*probes(), committed(5, restore=True), *probes(), committed(11, restore=True)]
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
    resumed = processes.run(ranks.resume, kind, shared_server.target, tmp_path, 2)
    for expected, outcome in zip(whole, resumed, strict=True):
        assert outcome.job_id == expected.job_id
        assert outcome.lrs == expected.lrs[3 * 4 :]
        assert outcome.schedule == expected.schedule
        assert_same(expected, outcome)


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
