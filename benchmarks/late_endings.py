"""What several endings of one run, from one late snapshot, would gain if they cost nothing.

    python -m benchmarks.late_endings --json late-endings.json --plots out --workers 2

A linear decay from the LR that `budget` committed in the stored runs is forked late, and each fork ends in its own way,
on the same batches: along the line, along the line at another height, or by another shape. The best one is chosen by
the validation, which for most workloads is also what a run is judged by; so what is found is the most that can be
gained. Beside it stands what one ending more costs: what the sweeps' best loss falls by where a run is longer by its
steps. Cases that are in the cache are not made again.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks import json_lines
from benchmarks.outputs import add_outputs, write
from benchmarks.picks.finals import cost, finals, slopes
from benchmarks.pool import run_in_workers
from benchmarks.quality.__main__ import STORED, environment, load
from benchmarks.quality.schedules import SHAPES, lr_at
from benchmarks.quality.scores import scores
from benchmarks.quality.tables import table
from benchmarks.quality.training import set_lr, train_step
from benchmarks.quality.workloads import WORKLOADS, Session

FORKED_AT = (0.75, 0.9)
"""Parts of the run that are over when it is forked."""
LINE = "along the line"
ENDINGS: dict[str, Callable[[float], float]] = {
    LINE: lambda q: 1 - q,
    "at 0.4 times its LRs": lambda q: 0.4 * (1 - q),
    "at 2.5 times its LRs": lambda q: 2.5 * (1 - q),
    "1 - sqrt(q)": lambda q: 1 - math.sqrt(q),
    "1 - q^2": lambda q: 1 - q * q,
}
"""The LR over that at the fork, by the part of the ending that is over (q)."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How one fork ended."""

    validation: float
    score: float
    """The score of the end, as in the quality benchmark."""


@dataclasses.dataclass(frozen=True)
class Case:
    """The forks of one run."""

    workload: str
    seed: int
    n_steps: int
    forked_at: float
    ended: Mapping[str, Ended]
    """Those that did not diverge."""

    def gained(self, names: Sequence[str]) -> float:
        """The log of the score of the ending that validates best, over that of the line."""
        best = min(self.ended.keys() & set(names), key=lambda name: self.ended[name].validation)
        return math.log(self.ended[best].score / self.ended[LINE].score)


class _Run:
    """A run that can be forked."""

    def __init__(self, session: Session, n_steps: int, peak_lr: float) -> None:
        self._session, self._n_steps, self._peak_lr = session, n_steps, peak_lr
        self._generator = torch.Generator().manual_seed(session.data_seed)
        self._done = 0

    def train_until(self, step: int) -> None:
        """Trains along the line."""
        while self._done < step:
            self._train(self._line(self._done))

    def ended(self, shape: Callable[[float], float]) -> tuple[float, float]:
        """What a fork comes to at the end of the run: its validation, and what it is judged by."""
        fork = copy.copy(self)
        fork._session = dataclasses.replace(self._session)
        # Together, so that the copied optimizer moves the copied model.
        fork._session.model, fork._session.optimizer = copy.deepcopy((self._session.model, self._session.optimizer))
        fork._generator = torch.Generator()
        fork._generator.set_state(self._generator.get_state())
        left = self._n_steps - self._done
        at_fork = self._peak_lr * SHAPES["linear"](self._done / self._n_steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._session.data_seed)  # dropout alike in all forks
            for i in range(left):
                fork._train(at_fork * shape((i + 0.5) / left))
        return fork._session.validate(), fork._session.judge()

    def _line(self, step: int) -> float:
        return lr_at(SHAPES["linear"], self._peak_lr, step, self._n_steps)

    def _train(self, lr: float) -> None:
        set_lr(self._session.optimizer, lr)
        train_step(self._session, self._session.sample(self._generator))
        self._done += 1


def forked(name: str, seed: int, n_steps: int, peak_lr: float) -> Iterator[Case]:
    """One run, and its forks."""
    workload = WORKLOADS[name]
    torch.manual_seed(seed)
    run = _Run(workload.build(seed), n_steps, peak_lr)
    for part in FORKED_AT:
        run.train_until(round(part * n_steps))
        ends = {words: run.ended(shape) for words, shape in ENDINGS.items()}
        ended = {
            words: Ended(validation, workload.score(judged))
            for words, (validation, judged) in ends.items()
            if math.isfinite(validation + judged)
        }
        yield Case(name, seed, n_steps, part, ended)


CHOICES: dict[str, tuple[str, ...]] = {
    **{name: (LINE, name) for name in ENDINGS if name != LINE},
    "the best of all five": tuple(ENDINGS),
}
"""Between which endings the validation chooses."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What a choice gains over the line alone, over all workloads."""

    forked_at: float
    choice: str
    n_cases: int
    ratio: float
    """Geometric mean over workloads of that over seeds."""
    error: float
    """The standard error of its log: workloads are fixed, and seeds are the sample."""
    cost: float
    """The factor by which the endings that are more than one raise the loss, by their steps."""


def rows(cases: Sequence[Case], slope: Mapping[tuple[str, int], float]) -> list[Row]:
    """A row for each fork and choice.

    Args:
        cases: All of one length.
        slope: The power of the steps by which the best loss falls, by workload and length.
    """
    found = []
    for part in sorted({case.forked_at for case in cases}):
        own = [case for case in cases if case.forked_at == part]
        for words, names in CHOICES.items():
            logs: dict[str, list[float]] = defaultdict(list)
            for case in own:
                logs[case.workload].append(case.gained(names))
            means = [statistics.fmean(values) for values in logs.values()]
            error = math.sqrt(sum(statistics.variance(v) / len(v) for v in logs.values() if len(v) > 1)) / len(logs)
            searched = (len(names) - 1) * (1 - part) / (1 + (len(names) - 1) * (1 - part))
            costs = [math.log(cost(round(1e6 * searched), 10**6, slope[name, own[0].n_steps])) for name in logs]
            found.append(
                Row(part, words, len(own), math.exp(statistics.fmean(means)), error, math.exp(statistics.fmean(costs)))
            )
    return found


def as_markdown(found: Sequence[Row]) -> str:
    """The table."""
    header = ("forked at", "the line, or", "cases", "loss over the line's", "what the steps cost")
    cells = [
        (f"{row.forked_at:.0%}", row.choice, str(row.n_cases), f"{row.ratio:.4f} ±{row.error:.2%}", f"{row.cost:.4f}")
        for row in found
    ]
    return f"{table(header, cells)}\n"


def draw(found: Sequence[Row]) -> Figure:
    """What a choice gains beside what it costs."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    parts = sorted({row.forked_at for row in found})
    for axes, part in zip(figure.subplots(1, len(parts), sharey=True, squeeze=False)[0], parts, strict=True):
        own = [row for row in found if row.forked_at == part]
        at = range(len(own))
        axes.errorbar(
            [100 * (1 - row.ratio) for row in own], at, xerr=[100 * row.error for row in own], fmt="o", label="gained"
        )
        axes.plot([100 * (row.cost - 1) for row in own], at, "x", color="black", label="cost of the steps")
        axes.set(title=f"forked at {part:.0%}", xlabel="% of the final loss", yticks=at)
        axes.set_yticklabels([f"or {row.choice}" if row.choice in ENDINGS else row.choice for row in own])
    axes.legend(frameon=False)
    return figure


def _work(key: tuple[str, int, int, float]) -> list[Case]:
    return list(forked(*key))


def _cases(path: Path, n_steps: int, n_seeds: int, n_workers: int) -> list[Case]:
    """All cases; those that the cache lacks are made."""
    known = []
    for value in json_lines.read(path):
        ended = {words: Ended(**own) for words, own in value.pop("ended").items()}
        known.append(Case(**value, ended=ended))
    made = {(case.workload, case.seed, case.n_steps) for case in known}
    peaks = {
        (key.workload, key.seed): curve.peak_lr
        for key, curve in load([STORED]).items()
        if key.contestant == "budget" and key.n_steps == n_steps
    }
    wanted = []
    for name in WORKLOADS:
        for seed in range(n_seeds):
            peak_lr = peaks.get((name, seed))
            if peak_lr is not None and (name, seed, n_steps) not in made:
                wanted.append((name, seed, n_steps, peak_lr))
    path.parent.mkdir(parents=True, exist_ok=True)
    for _, cases in run_in_workers("runs", wanted, _work, lambda key: f"{key[0]} {key[1]}", n_workers):
        for case in cases:
            json_lines.append(path, dataclasses.asdict(case))
        known += cases
    return [case for case in known if case.n_steps == n_steps and case.seed < n_seeds]


def main() -> None:
    """Makes the runs that are missing, and reports all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_outputs(parser)
    parser.add_argument("--cache", type=Path, default=Path("out/bench/late-endings.jsonl"), help="finished runs")
    parser.add_argument("--steps", type=int, default=4000, help="of a run; a length of the quality benchmark")
    parser.add_argument("--seeds", type=int, default=4, help="of each workload, from 0 on")
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    arguments = parser.parse_args()
    cases = _cases(arguments.cache, arguments.steps, arguments.seeds, arguments.workers)
    functions = {name: workload.score for name, workload in WORKLOADS.items()}
    found = rows(cases, slopes(finals(scores(load([STORED]), functions))))
    figures: dict[str, Any] = {
        "environment": environment(),
        "steps": arguments.steps,
        "rows": [dataclasses.asdict(row) for row in found],
        "cases": [dataclasses.asdict(case) for case in cases],
    }
    write(
        arguments,
        as_markdown(found),
        figures,
        lambda directory: draw(found).savefig(directory / "late-endings.png", dpi=150),
    )


if __name__ == "__main__":
    main()
