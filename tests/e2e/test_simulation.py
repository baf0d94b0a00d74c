"""Whole histories in a simulation: every promise is kept, a seed gives the same history, and planted bugs are found.

`python -m tests.simulation` runs as many as one likes, and tells what happened in one: `--seed N --words`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation import __main__ as command
from tests.simulation import episode, mutants

QUICK, MANY = 20, 1500
FIRST_SEED = 1
NEEDED = {
    "a request that comes again opens another job",
    "a repeated report gets the directive that is outstanding",
    "the version of a job is not looked at",
    "a former life is not told from the present one",
}
"""Bugs that are planted in the default suite; all are under the slow marker."""


def test_every_history_keeps_every_promise(capsys: pytest.CaptureFixture[str]) -> None:
    found = command.simulate(FIRST_SEED, histories=QUICK, seconds=None, stop_at_first=False)
    assert found.failures == {}
    assert found.histories == QUICK
    # A simulation in which nothing happens would keep every promise, too.
    assert {"kill", "kill after a commit", "error after a commit", "repeated message", "partition"} <= set(found.faults)
    assert found.told > 10 * QUICK


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_histories_keep_every_promise(capsys: pytest.CaptureFixture[str]) -> None:
    found = command.simulate(FIRST_SEED + QUICK, histories=MANY, seconds=None, stop_at_first=True)
    assert found.failures == {}


def test_a_seed_gives_the_same_history_again() -> None:
    seeds = (3, 4)
    traces = [episode.run(seed).trace for seed in seeds]
    assert [episode.run(seed).trace for seed in seeds] == traces
    assert len(set(traces)) == len(seeds)


@pytest.mark.slow
def test_a_seed_gives_the_same_history_in_another_process() -> None:
    program = "from tests.simulation import episode; print(episode.run(1).trace)"
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == episode.run(1).trace


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.name, marks=() if mutant.name in NEEDED else pytest.mark.slow)
        for mutant in mutants.MUTANTS
    ],
)
def test_a_planted_bug_is_found(mutant: mutants.Mutant) -> None:
    assert mutants.first_found(mutant, most=30) is not None
