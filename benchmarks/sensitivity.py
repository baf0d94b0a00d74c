"""Whether what a probe says of an LR that is off holds for a run.

    python -m benchmarks.sensitivity --json sensitivity.json

A job tells what an LR that is three times too low or too high would have cost over a probe, as a part of what the best
one gained (`tuner_server.history.words.lr_sensitivity`). Here that is read off the stored probes of `benchmarks.picks`,
and beside it the same off the stored sweeps of linear decay, over whole runs. It trains nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.outputs import add_outputs, write
from benchmarks.picks.__main__ import STORED_TABLE
from benchmarks.picks.table import Probe, ProbeKey, TableFile
from benchmarks.quality import initial_losses
from benchmarks.quality.__main__ import STORED, environment, load
from benchmarks.quality.initial_losses import Start
from benchmarks.quality.plan import LONGEST_FULL_SWEEP, REFERENCE
from benchmarks.quality.results import RunKey
from benchmarks.quality.tables import table
from benchmarks.quality.training import Curve
from tuner_server.core.laws.lr_sensitivity import capped, loss_off_by, lost_share
from tuner_server.core.stages.decayed_probe import MIN_PROBE
from tuner_server.history.words.lr_sensitivity import FACTOR

SIDES = {"too low": 1 / FACTOR, "too high": FACTOR}


@dataclasses.dataclass(frozen=True)
class Pair:
    """What an LR that is off loses over a probe and over a run, in one case."""

    workload: str
    seed: int
    n_steps: int
    side: str
    probe: float
    run: float


def lost(losses: Mapping[float, float], start: float) -> dict[str, float]:
    """The parts of the best gain that LRs lack which are off to either side, from losses by LR.

    A side is left out where there was no LR so far out; all are where nothing was learnt.
    """
    lrs = sorted(losses)
    own = [losses[lr] for lr in lrs]
    best = int(np.argmin([capped(loss, start) for loss in own]))
    if not own[best] < start:
        return {}
    off = {side: loss_off_by(lrs, own, lrs[best], factor, start) for side, factor in SIDES.items()}
    return {side: lost_share(loss, own[best], start) for side, loss in off.items() if loss is not None}


def pairs(probes: Mapping[ProbeKey, Probe], runs: Mapping[RunKey, Curve], start: Mapping[Start, float]) -> list[Pair]:
    """All cases that have both, at the lengths that have whole sweeps."""
    tried: dict[Start, dict[float, float]] = defaultdict(dict)
    before: dict[Start, float] = {}
    for key, probe in probes.items():
        if key.n_steps == MIN_PROBE:
            at = Start(key.workload, key.version, key.seed)
            tried[at][key.lr], before[at] = probe.validation, probe.first_validation
    swept: dict[tuple[Start, int], dict[float, float]] = defaultdict(dict)
    for run, curve in runs.items():
        if run.contestant == REFERENCE and run.lr is not None and run.n_steps <= LONGEST_FULL_SWEEP:
            swept[Start.of(run), run.n_steps][run.lr] = curve.final_val_loss
    found = []
    for (at, n_steps), losses in swept.items():
        if at in tried and at in start:
            over_probe, over_run = lost(tried[at], before[at]), lost(losses, start[at])
            for side in SIDES:
                if side in over_probe and side in over_run:
                    found.append(Pair(at.workload, at.seed, n_steps, side, over_probe[side], over_run[side]))
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """All cases of a length and a side: medians, and whether their order is the same."""

    n_steps: int
    side: str
    n_cases: int
    probe: float
    run: float
    rank_correlation: float


def rows(found: Sequence[Pair]) -> list[Row]:
    """A row for each length and side that has several pairs."""
    lines = []
    for n_steps in sorted({pair.n_steps for pair in found}):
        for side in SIDES:
            own = [pair for pair in found if (pair.n_steps, pair.side) == (n_steps, side)]
            if len(own) > 1:
                probe, run = [pair.probe for pair in own], [pair.run for pair in own]
                correlation = float(stats.spearmanr(probe, run).statistic)
                lines.append(
                    Row(n_steps, side, len(own), statistics.median(probe), statistics.median(run), correlation)
                )
    return lines


def as_markdown(found: Sequence[Pair]) -> str:
    """The table."""
    header = ("steps of the run", "LR", "cases", "lost over a probe", "lost over the run", "rank correlation")
    cells = [
        (
            f"{row.n_steps:,}",
            f"{FACTOR:g} times {row.side}",
            str(row.n_cases),
            f"{row.probe:.1%}",
            f"{row.run:.1%}",
            f"{row.rank_correlation:.2f}",
        )
        for row in rows(found)
    ]
    return f"{table(header, cells)}\n"


def as_json(found: Sequence[Pair]) -> dict[str, Any]:
    """All figures."""
    return {
        "environment": environment(),
        "factor": FACTOR,
        "rows": [dataclasses.asdict(row) for row in rows(found)],
        "pairs": [dataclasses.asdict(pair) for pair in found],
    }


def draw(found: Sequence[Pair]) -> Figure:
    """A panel a side: what is lost over the longest runs, over what is lost over a probe."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    longest = max(pair.n_steps for pair in found)
    for axes, side in zip(figure.subplots(1, len(SIDES)), SIDES, strict=True):
        for workload in dict.fromkeys(pair.workload for pair in found):
            own = [p for p in found if (p.workload, p.side, p.n_steps) == (workload, side, longest)]
            axes.plot([100 * p.probe for p in own], [100 * p.run for p in own], "o", label=workload)
        axes.plot([0, 100], [0, 100], color="black", linewidth=0.8)
        axes.set(
            title=f"LR {FACTOR:g} times {side}", xlabel="% lost over a probe", ylabel=f"% lost over {longest:,} steps"
        )
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_outputs(parser)
    arguments = parser.parse_args()
    found = pairs(TableFile(STORED_TABLE).load(), load([STORED]), initial_losses.load())
    write(
        arguments,
        as_markdown(found),
        as_json(found),
        lambda directory: draw(found).savefig(directory / "sensitivity.png", dpi=150),
    )


if __name__ == "__main__":
    main()
