"""What a prior from earlier jobs of its family saves a job, and what a wrong one costs it.

    python -m benchmarks.family --json family.json --plot family.png
    python -m benchmarks.family --json family.json --quick

On every workload some jobs are run first, each with the prior that those before it make, and with seeds of their own
(their weights, batches and held-out data differ from the later ones'). Their committed steps are not run: what counts
of them is their search. Then jobs with new seeds are run to their end, each without a prior, with the family's, and
with that one moved up and down by `OFF`, its standard deviation as it was. All take as many steps, search included.
What is given is the ratio to the same job without a prior.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from lrpilot import Tuner
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.quality.__main__ import environment
from benchmarks.quality.local import LocalTransport
from benchmarks.quality.training import update
from benchmarks.quality.workloads import WORKLOADS
from tuner_server.core.job.machine import JobState
from tuner_server.core.search.prior import Prior
from tuner_server.service.family import prior_from

OFF = 30.0
"""What a wrong prior is off by, as a factor on the LR."""
FAMILY_SEED, JOB_SEED = 200, 10
"""The first seeds of the earlier jobs and of the later ones. The method was chosen on others."""
NO_PRIOR = "no prior"


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is run."""

    workloads: tuple[str, ...]
    n_steps: int
    n_family: int
    n_seeds: int


FULL = Scale(("mlp", "inpainting", "finetune"), 1000, 3, 3)
QUICK = Scale(("mlp", "inpainting"), 1000, 2, 1)


@dataclasses.dataclass(frozen=True)
class Run:
    """One job."""

    workload: str
    seed: int
    prior: str
    """The prior that it had."""
    probes: int
    search_steps: int
    peak_lr: float
    final_val_loss: float
    """Infinite if it diverged."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """What is left of a job."""

    state: JobState
    peak_lr: float
    final_val_loss: float


def job(workload: str, seed: int, n_steps: int, prior: Prior | None, *, whole: bool) -> Ended:
    """Runs a job to its end, or, where it is not wanted `whole`, to that of its search."""
    session = WORKLOADS[workload].build(seed)
    torch.manual_seed(seed)
    transport = LocalTransport(prior)
    tuner = Tuner(
        session.model,
        session.optimizer,
        transport=transport,
        total_steps=n_steps,
        lr_bounds=WORKLOADS[workload].lr_range,
        policy="budget",
        validate=session.validate,
        seed=seed,
    )
    for batch in tuner.batches(session.batches()):
        if not whole and transport.state.lease.phase.committed:
            break
        tuner.step(update(session, batch))
    final = session.validate()
    return Ended(
        transport.state,
        peak_lr=max((segment.profile.start_lr for segment in tuner.schedule.segments), default=math.nan),
        final_val_loss=final if math.isfinite(final) else math.inf,
    )


def family_prior(workload: str, scale: Scale) -> Prior:
    """What the earlier jobs leave."""
    states: list[JobState] = []
    for i in range(scale.n_family):
        earlier = job(workload, FAMILY_SEED + i, scale.n_steps, prior_from(reversed(states)), whole=False)
        states.append(earlier.state)
    prior = prior_from(reversed(states))
    if prior is None:
        raise RuntimeError(f"no job on {workload} searched; give it more steps")
    return prior


def priors(right: Prior) -> dict[str, Prior | None]:
    """The priors that are compared, by name."""

    def moved(factor: float) -> Prior:
        return right.model_copy(update={"log_lr": right.log_lr + math.log(factor)})

    return {
        NO_PRIOR: None,
        "family's": right,
        f"x{OFF:g}": moved(OFF),
        f"/{OFF:g}": moved(1 / OFF),
    }


def measure(scale: Scale, console: Console) -> tuple[dict[str, Prior], list[Run]]:
    """The family's prior by workload, and all later jobs."""
    families: dict[str, Prior] = {}
    runs = []
    for workload in scale.workloads:
        families[workload] = family_prior(workload, scale)
        planned = [
            (seed, *item)
            for seed in range(JOB_SEED, JOB_SEED + scale.n_seeds)
            for item in priors(families[workload]).items()
        ]
        for seed, name, prior in track(planned, workload, console=console, transient=True):
            ended = job(workload, seed, scale.n_steps, prior, whole=True)
            assert ended.state.policy_state is not None
            runs.append(
                Run(
                    workload=workload,
                    seed=seed,
                    prior=name,
                    probes=len(ended.state.policy_state["candidates"]),
                    search_steps=ended.state.search_steps,
                    peak_lr=ended.peak_lr,
                    final_val_loss=ended.final_val_loss,
                )
            )
    return families, runs


@dataclasses.dataclass(frozen=True)
class Row:
    """Jobs with a prior against the same jobs without, on one workload or on all; each (geometric mean, low, high)."""

    workload: str
    prior: str
    probes: tuple[float, float]
    """Mean without it and with it."""
    most_extra_probes: int
    search_steps: tuple[float, float, float]
    loss: tuple[float, float, float]


def summarise(runs: Sequence[Run]) -> list[Row]:
    """Rows by prior: every workload, then all."""
    reference = {(run.workload, run.seed): run for run in runs if run.prior == NO_PRIOR}
    names = list(dict.fromkeys(run.prior for run in runs if run.prior != NO_PRIOR))
    workloads = list(dict.fromkeys(run.workload for run in runs))
    rows = []
    for name in names:
        for label, among in [*((workload, {workload}) for workload in workloads), ("all", set(workloads))]:
            pairs = [
                (run, reference[run.workload, run.seed]) for run in runs if run.prior == name and run.workload in among
            ]
            rows.append(
                Row(
                    workload=label,
                    prior=name,
                    probes=(
                        statistics.fmean(other.probes for _, other in pairs),
                        statistics.fmean(run.probes for run, _ in pairs),
                    ),
                    most_extra_probes=max(run.probes - other.probes for run, other in pairs),
                    search_steps=_spread([run.search_steps / other.search_steps for run, other in pairs]),
                    loss=_spread([run.final_val_loss / other.final_val_loss for run, other in pairs]),
                )
            )
    return rows


def _spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    return statistics.geometric_mean(ratios), min(ratios), max(ratios)


def show(rows: Sequence[Row], console: Console) -> None:
    """Prints the table."""
    table = Table("prior", "workload", "probes without", "with", "most extra", "search steps", "final loss")
    for row in rows:
        table.add_row(
            row.prior,
            row.workload,
            f"{row.probes[0]:.1f}",
            f"{row.probes[1]:.1f}",
            f"{row.most_extra_probes:+d}",
            *(f"{mean:.2f} ({low:.2f} to {high:.2f})" for mean, low, high in (row.search_steps, row.loss)),
            end_section=row.workload == "all",
        )
    console.print(table)


def plot(runs: Sequence[Run], path: Path) -> None:
    """One point a job: what it searched and where it ended, against itself without a prior."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    reference = {(run.workload, run.seed): run for run in runs if run.prior == NO_PRIOR}
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for name in dict.fromkeys(run.prior for run in runs if run.prior != NO_PRIOR):
        pairs = [(run, reference[run.workload, run.seed]) for run in runs if run.prior == name]
        axes.scatter(
            [run.search_steps / other.search_steps for run, other in pairs],
            [run.final_val_loss / other.final_val_loss for run, other in pairs],
            label=name,
            alpha=0.7,
        )
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set(yscale="log", xlabel="search steps, to no prior", ylabel="final validation loss, to no prior")
    axes.legend(title="prior")
    axes.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def as_json(scale: Scale, families: dict[str, Prior], runs: Sequence[Run], rows: Sequence[Row]) -> dict[str, Any]:
    """All figures. One that is not finite, as of a job that diverged, is null."""

    def finite(value: Any) -> Any:
        match value:
            case dict():
                return {key: finite(item) for key, item in value.items()}
            case list() | tuple():
                return [finite(item) for item in value]
            case float() if not math.isfinite(value):
                return None
        return value

    figures: dict[str, Any] = {
        "environment": environment(),
        "scale": dataclasses.asdict(scale),
        "priors": {workload: prior.model_dump() for workload, prior in families.items()},
        "summary": [dataclasses.asdict(row) for row in rows],
        "runs": [dataclasses.asdict(run) for run in runs],
    }
    return {key: finite(value) for key, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--quick", action="store_true", help="few workloads, one seed, short runs")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    console = Console()
    scale = QUICK if arguments.quick else FULL
    families, runs = measure(scale, console)
    rows = summarise(runs)
    show(rows, console)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    figures = as_json(scale, families, runs, rows)
    arguments.json.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", "utf-8")
    if arguments.plot:
        plot(runs, arguments.plot)


if __name__ == "__main__":
    main()
