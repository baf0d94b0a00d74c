"""The tuned Trainer in two processes: real ones, on gloo, and a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.frameworks import transformers_training as ranks
from tests.support.frameworks.rank_runs import assert_annealed, assert_same, committed, probes, sharded
from tests.support.servers.server_process import ServerProcess, running
from tests.support.training.rank_processes import RankProcesses


@pytest.mark.parametrize(
    "kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow), pytest.param("language", marks=pytest.mark.slow)]
)
def test_probes_leave_no_trace(processes: RankProcesses, tmp_path: Path, kind: str) -> None:
    """Each rank ends as with a plain Trainer, with accumulation and clipping."""
    bare = processes.run(ranks.train_bare, kind, tmp_path, 17)
    script = [*probes(), committed(5, restore=True), *probes(), committed(12, restore=True, validate_at=[6])]
    (first, messages), (second, silence) = processes.run(ranks.train_by_script, kind, tmp_path, script)
    assert silence == []
    assert [len(pb.Report.FromString(each).losses) for each in messages] == [7, 4, 5, 7, 4, 12]
    assert first.schedule == second.schedule
    for expected, outcome in zip(bare, (first, second), strict=True):
        assert_same(expected, outcome)
        assert outcome.logs == expected.logs
        assert outcome.n_steps == expected.n_steps == 17
    assert sharded(first, second) == (kind == "fsdp")


def test_a_validation_is_over_the_examples_of_all_processes(processes: RankProcesses, tmp_path: Path) -> None:
    """Examples that fill up the last batch do not count."""
    first, second = processes.run(ranks.evaluate, tmp_path)
    assert first == second
    validated, evaluated = first
    assert validated == pytest.approx(evaluated, rel=1e-6)


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_checkpoint_is_gone_on_from(
    processes: RankProcesses, shared_server: ServerProcess, tmp_path: Path, kind: str
) -> None:
    """Every rank from its own file."""
    whole = processes.run(ranks.train_and_save, kind, shared_server.target, tmp_path, 10)
    checkpoint = tmp_path / "checkpoint-10"
    assert {"lrpilot_0.pt", "lrpilot_1.pt"} <= {path.name for path in checkpoint.iterdir()}
    resumed = processes.run(ranks.resume, kind, shared_server.target, tmp_path / "more", checkpoint)
    for expected, outcome in zip(whole, resumed, strict=True):
        assert outcome.job_id == expected.job_id
        assert outcome.lrs == expected.lrs[10:]
        assert outcome.schedule == expected.schedule
        assert_same(expected, outcome)

    if kind == "ddp":
        (checkpoint / "lrpilot_1.pt").rename(checkpoint / "lrpilot_2.pt")
        for told in processes.run(ranks.fail_to_resume, tmp_path / "none", checkpoint):
            assert "no tuner's state for rank 1 of 2" in told


@pytest.mark.slow
def test_a_server_that_dies_does_not_stop_the_training(processes: RankProcesses, tmp_path: Path) -> None:
    """All processes spend the budget, at the same LRs, and come down to the end."""
    with running(f"sqlite:///{tmp_path}/jobs.db") as server:
        first, second = processes.run(ranks.train_past_a_server, server.target, tmp_path, server.process.pid)
    assert_annealed(first, second, 60)
    assert first[0].n_steps == len(first[0].lrs)


@pytest.mark.slow
def test_the_last_of_few_checkpoints_is_gone_on_from(
    processes: RankProcesses, shared_server: ServerProcess, tmp_path: Path
) -> None:
    """Those beyond `save_total_limit` go whole, with the files of all ranks."""
    whole = processes.run(ranks.train_and_save, "ddp", shared_server.target, tmp_path, 10, 2)
    kept = sorted(path.name for path in tmp_path.iterdir())
    last = f"checkpoint-{whole[0].n_steps}"
    assert kept == ["checkpoint-40", last]
    resumed = processes.run(ranks.resume, "ddp", shared_server.target, tmp_path / "more", tmp_path / "checkpoint-40")
    for expected, outcome in zip(whole, resumed, strict=True):
        assert outcome.lrs == expected.lrs[40:]
        assert_same(expected, outcome)
