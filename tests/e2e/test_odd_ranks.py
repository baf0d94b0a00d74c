"""Ranks that do not do alike, and the channel between them: real processes, gloo, a real server."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.server_process import ServerProcess
from tests.support.training import odd_ranks as ranks
from tests.support.training.distributed_training import TOTAL_STEPS
from tests.support.training.rank_processes import RankProcesses
from tests.support.training.same_bits import assert_same
from tests.support.waiting import wait_until

SIZE = 2
ODD_CHANGES = [(0, "extend", False), (1, "replan", True), (0, "anneal", True)]
"""Who asks alone for what, and whether in the search."""
FURTHER_CHANGES = [
    each
    for each in itertools.product((0, 1, None), ("extend", "replan", "anneal"), (True, False))
    if each not in ODD_CHANGES
]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    with RankProcesses(SIZE, tmp_path_factory.mktemp("processes") / "meeting_point") as processes:
        yield processes


def test_a_loop_that_may_end_at_different_steps_is_refused(
    processes: RankProcesses, shared_server: ServerProcess
) -> None:
    for told in processes.run(ranks.train_uneven, shared_server.target):
        assert "leave join() out and draw from tuner.batches(loader)" in told


def test_a_rank_may_have_less_data_but_no_shorter_epochs(
    processes: RankProcesses, shared_server: ServerProcess
) -> None:
    for told in processes.run(ranks.train_on_loaders_of_other_lengths, shared_server.target, True):
        assert told.startswith("epochs: an epoch has 5 batches on rank 1 and 9 on rank 0, so that it would end at")
    first, second = processes.run(ranks.train_on_loaders_of_other_lengths, shared_server.target, False)
    assert first == second
    assert first[0] == TOTAL_STEPS


def test_a_model_of_some_ranks_asks_for_their_group(processes: RankProcesses, shared_server: ServerProcess) -> None:
    """Nobody is waited for who does not come."""
    for told in processes.run(ranks.tune_a_part, shared_server.target):
        assert told.startswith(
            "process_group: DistributedDataParallel is over 1 ranks, and there are 2; give the group"
        )


def test_a_maximum_is_unknown_where_a_rank_does_not_know_its_value(processes: RankProcesses) -> None:
    values = [[1.0, math.nan, math.inf, -2.0], [3.0, math.inf, -math.inf, -1.0]]
    for found in processes.run(ranks.maximum, values):
        assert found == pytest.approx([3.0, math.nan, math.inf, -1.0], nan_ok=True)


@pytest.mark.parametrize("n", [0, 1, 61, 62, 300])
def test_values_come_together_however_many_they_are(processes: RankProcesses, n: int) -> None:
    halves, ones = [i / 2 for i in range(n)], [float(i) for i in range(n)]
    expected = (halves, ones, [[0.0] * n, ones], bytes(n))
    assert processes.run(ranks.bring_together, n) == [expected] * SIZE


def test_ranks_look_at_as_many_values_as_each_of_them_has(processes: RankProcesses) -> None:
    """A rank whose losses are on the host knows more of them than one whose device is still at work."""
    means = [i + 0.5 for i in range(10)]
    expected = [[], means[:3], means, means, means[:2]]
    assert processes.run(ranks.look_together, [0, 3, 10, 99]) == [expected] * SIZE


def test_ranks_that_come_for_different_things_are_told_so(processes: RankProcesses) -> None:
    """All of them, and at once; from then on each hears itself alone."""
    for told in processes.run(ranks.come_for_different_things):
        assert len(told) == 30
        assert set(told) == {"the ranks are not in step any more", "the tuning has failed on a rank", "it has parted"}


@pytest.mark.parametrize(
    ("who", "what", "in_search"),
    [*ODD_CHANGES, *(pytest.param(*each, marks=pytest.mark.slow) for each in FURTHER_CHANGES)],
)
def test_a_change_that_one_rank_asks_for_is_that_of_rank_0(
    processes: RankProcesses, shared_server: ServerProcess, who: int | None, what: str, in_search: bool
) -> None:
    """Nobody waits for a rank that waits in the training: all do what rank 0 asks for, and no more."""
    (first, kinds, total_steps, _), (second, others, also, _) = processes.run(
        ranks.change_plans_alone, shared_server.target, who, what, in_search
    )
    assert kinds == others == ([] if who == 1 else [what])
    assert total_steps == also
    assert len(first.lrs) == len(second.lrs) == total_steps
    assert (total_steps == TOTAL_STEPS) == (who == 1 or what == "replan")
    assert first.lrs == second.lrs
    assert first.schedule == second.schedule
    assert_same(first.weights, second.weights)
    assert first.lrs[-1] < 0.1 * max(first.lrs)


@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_closes_alone_waits_for_nobody(
    processes: RankProcesses, shared_server: ServerProcess, who: int
) -> None:
    """The training goes on, and the other rank is told."""
    told = processes.run(ranks.close_alone, shared_server.target, who)
    assert told[who] == ""
    assert told[1 - who].startswith(f"rank {who} of 2 has gone, or hangs")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1, 3, 4])
def test_a_rank_of_many_that_dies_is_named_alone(tmp_path: Path, victim: int) -> None:
    """Whoever loses it closes the channel at once, so that all others come to the roll call."""
    told = tmp_path / "told"
    told.mkdir()
    with RankProcesses(5, tmp_path / "meeting_point") as processes:
        with contextlib.suppress(EOFError):
            processes.run(ranks.die_in_the_channel, victim, told)
        wait_until(lambda: len([path for path in told.iterdir() if path.read_text()]) == 4)
    for path in told.iterdir():
        assert path.read_text().startswith(f"rank {victim} of 5 has gone, or hangs: ")
