"""What a longer warm-up does to a rest at P after the data have changed.

python -m benchmarks.regret.later.warmups

It trains from the stored states' weights, which takes some minutes, and prints a table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lrpilot.wire.profile import Profile, Shape

from benchmarks.regret.later.__main__ import STORED_TABLE
from benchmarks.regret.later.build import load, plan
from benchmarks.regret.later.rules import losses
from benchmarks.regret.later.states import Kind, State, Trials, reach
from benchmarks.regret.report import table

SHARES = (0.05, 0.1, 0.2)
"""Parts of the rest in which the LR rises."""
KINDS = (Kind.INPUTS, Kind.TARGETS)


def ends(state: State, shares: Sequence[float] = SHARES) -> list[float | None]:
    """Validation losses after the rest at P, by the share of its warm-up; None: it diverged."""
    n, trials = state.key.rest, Trials(reach(state.key, state.peak))
    return [trials.end((Profile(Shape.LINEAR, state.peak, 0.0, n, warmup=round(n * share)),)) for share in shares]


def row(state: State, found: Sequence[float | None]) -> list[str]:
    """What the ends are above the best peak's of the table, which has the shortest warm-up."""
    best = float(losses(state.ends).min())
    above = ("diverged" if end is None else f"{100 * (end / best - 1):+.1f}%" for end in found)
    return [f"{state.key.kind}, {state.key.workload}, seed {state.key.seed}", *above]


def main() -> None:
    torch.set_num_threads(1)
    stored = load(STORED_TABLE)
    states = [stored[key] for key in plan() if key.kind in KINDS]
    rows = [row(state, ends(state)) for state in states if state.key.rest == min(s.key.rest for s in states)]
    print(table(("state", *(f"{share:.0%}" for share in SHARES)), rows))


if __name__ == "__main__":
    main()
