"""What Accelerate has prepared in two processes: real ones, on gloo, and a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.frameworks import accelerate_training as ranks
from tests.support.frameworks.rank_runs import assert_same, committed, probes, sharded
from tests.support.servers.server_process import ServerProcess
from tests.support.training.rank_processes import RankProcesses


@pytest.mark.parametrize(("kind", "accumulation"), [("ddp", 2), ("fsdp", 2), ("dispatched", 1), ("ddp", 1)])
def test_probes_leave_no_trace(processes: RankProcesses, kind: str, accumulation: int) -> None:
    """Each rank ends as a bare loop does: weights or shards, optimizer, scaler and random state, with clipping."""
    bare = processes.run(ranks.train_bare, kind, accumulation, 17)
    script = [*probes(), committed(5, restore=True), *probes(), committed(12, restore=True, validate_at=[6])]
    (first, messages), (second, silence) = processes.run(ranks.train_by_script, kind, accumulation, script)
    assert silence == []
    assert [len(pb.Report.FromString(each).losses) for each in messages] == [7, 4, 5, 7, 4, 12]
    assert first.lrs == second.lrs
    assert first.schedule == second.schedule
    for expected, outcome in zip(bare, (first, second), strict=True):
        assert_same(expected, outcome)
    assert not torch.equal(first.state["random"], second.state["random"])
    assert sharded(first, second) == (kind == "fsdp")


def test_a_loop_may_gather_what_was_predicted(processes: RankProcesses) -> None:
    script = [*probes(), committed(5, restore=True), *probes(), committed(11, restore=True)]
    for bare, tuned in processes.run(ranks.gather_by_script, script, 16):
        assert_same(bare, tuned)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_an_update_that_overflows_on_one_rank_is_skipped_on_both(processes: RankProcesses, kind: str) -> None:
    """The update is no step of either, even where each rank has gradients of its own shards alone."""
    script = [*probes(), committed(8, restore=True)]
    (first, messages), (second, _) = processes.run(ranks.train_by_script, kind, 1, script, (1, 14))
    assert len(first.lrs) == len(second.lrs) == 7 + 4 + 8 + 1
    assert [len(pb.Report.FromString(each).losses) for each in messages] == [7, 4, 8]
    assert first.schedule == second.schedule
    assert first.state["scale"] == second.state["scale"] == 8.0 / 2 * 2**2


@pytest.mark.parametrize(
    ("kind", "save_at"),
    [("ddp", 6), pytest.param("ddp", 30, marks=pytest.mark.slow), pytest.param("fsdp", 6, marks=pytest.mark.slow)],
)
def test_a_state_that_accelerate_saved_is_gone_on_from(
    processes: RankProcesses, shared_server: ServerProcess, tmp_path: Path, kind: str, save_at: int
) -> None:
    """The state is from a probe or from committed steps, and every rank has a file of its own."""
    whole = processes.run(ranks.train_and_save, kind, shared_server.target, tmp_path, save_at)
    assert {"lrpilot_0.pt", "lrpilot_1.pt"} <= {path.name for path in tmp_path.iterdir()}
    resumed = processes.run(ranks.resume, kind, shared_server.target, tmp_path)
    for expected, outcome in zip(whole, resumed, strict=True):
        assert outcome.job_id == expected.job_id
        assert outcome.lrs == expected.lrs[save_at:]
        assert outcome.schedule == expected.schedule
        assert_same(expected, outcome)


@pytest.mark.parametrize(
    ("kind", "parallelism", "even_batches", "remedy"),
    [
        ("DEEPSPEED", None, True, "use DDP, or FSDP with fsdp_version=2"),
        ("MEGATRON_LM", None, True, "use DDP, or FSDP with fsdp_version=2"),
        ("FSDP", None, True, "set fsdp_version=2"),
        (None, {"tp_enabled": True}, True, "tp_size of the parallelism_config must be 1"),
        (None, None, False, "leave it True"),
    ],
)
def test_what_can_not_be_tuned_is_refused_on_all(
    processes: RankProcesses, kind: str | None, parallelism: dict[str, bool] | None, even_batches: bool, remedy: str
) -> None:
    first, second = processes.run(ranks.refuse, kind, parallelism, even_batches)
    assert first == second
    assert remedy in first
