"""How well the annealing law, fitted to a part of a run or to other runs, forecasts where a run ends.

    python -m benchmarks.laws --json laws.json --markdown laws.md

Nothing is trained: the runs are those that docs/quality.md is made of, each with its validations. Errors are those of
the forecast final validation loss, in units of what the loss fell by from a tenth of the run on; a forecast that is no
better than the last validation seen has the error of `last seen`. Where runs of one schedule at several LRs are stored,
the best one of each seed counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.schedules import SHAPES, WARMUP, lr_at
from benchmarks.quality.training import Curve as StoredCurve
from tuner_server.core.laws.annealing_law import AnnealingLaw, fit
from tuner_server.core.laws.curve import Curve, UnfittableError
from tuner_server.core.laws.lr_path import FloatArray, LrPath

RUNS = Path(__file__).parent / "quality" / "data" / "runs.jsonl"
FEWEST_STEPS, FEWEST_VALIDATIONS = 1000, 20
LEFT_OUT = 0.1
"""The first part of a run, which no law is fitted to."""
CUTS = (0.5, 0.75)
"""The parts of a run after which its rest is forecast."""
CONTINUED = ("linear", "cosine", "rex")
FITTED = ("constant", "cosine")
"""Two whole runs at one LR that the law is fitted to, to forecast the others."""
OTHERS = ("linear", "rex", "wsd", "step")
MANY_ERRORS = 2.0

Runs = Mapping[RunKey, StoredCurve]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A forecast that came to its test."""

    error: float
    """The forecast's error, as a part of the fall."""
    last_seen: float
    """The error of the last validation that was seen, or of the nearest run that was fitted."""
    z: float
    """The error in standard errors as the law has them."""


def stored_runs() -> dict[RunKey, StoredCurve]:
    """The runs of schedules with enough validations, none of which diverged."""
    return {
        key: curve
        for key, curve in ResultFile(RUNS).load().items()
        if key.contestant in SHAPES
        and key.n_steps >= FEWEST_STEPS
        and not curve.diverged
        and len(curve.val_losses) >= FEWEST_VALIDATIONS
        and np.isfinite(curve.val_losses).all()
    }


def path_of(key: RunKey) -> LrPath:
    """The LRs of a run."""
    assert key.lr is not None
    lrs = [lr_at(SHAPES[key.contestant], key.lr, step, key.n_steps) for step in range(key.n_steps)]
    return LrPath(np.array(lrs), warmup=round(WARMUP * key.n_steps), warmup_walks=True)


def part_of(key: RunKey, run: StoredCurve, cut: float = 1.0) -> Curve:
    """What was seen of a run up to a part of it."""
    steps, losses = np.array(run.val_steps, dtype=np.float64) - 1, np.array(run.val_losses)
    kept = (steps >= LEFT_OUT * key.n_steps) & (steps <= cut * key.n_steps)
    return Curve(path_of(key), steps[kept], losses[kept])


def tested(law: AnnealingLaw, path: LrPath, seen: FloatArray, last_seen: float, end: float) -> Outcome:
    """A forecast beside the truth."""
    loss, error = law.predict(path)
    fall = max(float(seen.max()) - end, np.finfo(float).tiny)
    return Outcome(abs(loss - end) / fall, abs(last_seen - end) / fall, abs(loss - end) / error)


def of_the_rest(runs: Runs) -> Iterator[tuple[str, Outcome]]:
    """The rest of runs that were seen in part, by schedule and cut."""
    best: dict[tuple[object, ...], RunKey] = {}
    for key in sorted(runs, key=lambda key: runs[key].val_losses[-1]):
        best.setdefault((key.workload, key.contestant, key.seed, key.n_steps), key)
    for key in best.values():
        if key.contestant not in CONTINUED:
            continue
        for cut in CUTS:
            seen = part_of(key, runs[key], cut)
            try:
                law = fit([seen])
            except UnfittableError:
                continue
            end = runs[key].val_losses[-1]
            outcome = tested(law, seen.path, seen.losses, float(seen.losses[-1]), end)
            yield f"{key.contestant}, after {100 * cut:.0f}%", outcome


def of_other_schedules(runs: Runs) -> Iterator[tuple[str, Outcome]]:
    """Schedules that were not seen, from two that were, at the same LR."""
    for key in runs:
        pair = [dataclasses.replace(key, contestant=name) for name in FITTED]
        if key.contestant != FITTED[0] or pair[1] not in runs:
            continue
        law = fit([part_of(one, runs[one]) for one in pair])
        seen = np.array(runs[key].val_losses)
        for name in OTHERS:
            other = dataclasses.replace(key, contestant=name)
            if other in runs:
                end, nearest = runs[other].val_losses[-1], runs[pair[1]].val_losses[-1]
                yield f"{name}, by constant and cosine", tested(law, path_of(other), seen, nearest, end)


def rows(outcomes: Iterable[tuple[str, Outcome]]) -> dict[str, dict[str, float]]:
    """Medians by name."""
    found: dict[str, list[Outcome]] = defaultdict(list)
    for name, outcome in outcomes:
        found[name].append(outcome)
    return {
        name: {
            "runs": len(some),
            "error": statistics.median(one.error for one in some),
            "last_seen": statistics.median(one.last_seen for one in some),
            "z": statistics.median(one.z for one in some),
            "beyond": sum(one.z > MANY_ERRORS for one in some) / len(some),
        }
        for name, some in found.items()
    }


def as_markdown(table: Mapping[str, Mapping[str, float]]) -> str:
    """The table as text."""
    lines = [
        "| forecast | runs | median error | last seen | median error in standard errors | beyond two |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in table.items():
        lines.append(
            f"| {name} | {row['runs']:.0f} | {row['error']:.1%} | {row['last_seen']:.1%} | {row['z']:.2f} | "
            f"{row['beyond']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Computes the table and writes it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.laws", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--markdown", type=Path, help="where the table goes (.md)")
    arguments = parser.parse_args()
    runs = stored_runs()
    table = rows([*of_the_rest(runs), *of_other_schedules(runs)])
    print(as_markdown(table))
    arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(as_markdown(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
