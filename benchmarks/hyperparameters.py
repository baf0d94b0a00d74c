"""How the best LR moves with weight decay, momentum and batch size, and whether a tuned run finds it again.

    python -m benchmarks.hyperparameters --json hyperparameters.json --plots images

A small network on scikit-learn's digits. For every setting there is a sweep, which is whole runs of linear decay, and a
tuned run as long as one of them, search included, which is told neither bounds nor a good guess. Where the search fell
short, longer runs follow, with its probes as they are by default and longer. It takes some minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lrpilot import Tuner
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.outputs import add_outputs, write
from benchmarks.quality.__main__ import environment
from benchmarks.quality.local import LocalTransport

N_STEPS = 1_000
SEEDS = (0, 1, 2)
LONG_STEPS = 4_000
LONG_SEEDS = SEEDS[:2]
N_TRAINED = 1_400
GUESS = 1e-3
"""The LR that the optimizer of a tuned run is made with, whatever the setting."""
CEILING = 25.0
"""No loss is drawn above so many times the best one: a run that diverged would leave nothing to see of the others."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What stays as its user set it, while the LR is looked for."""

    group: str
    """What is varied."""
    value: float
    batch_size: int
    optimizer: Callable[[Iterator[nn.Parameter], float], torch.optim.Optimizer]
    """Makes one, with an LR."""
    lrs: tuple[float, ...]
    """The LRs of the sweep."""


def _sgd(momentum: float) -> Callable[[Iterator[nn.Parameter], float], torch.optim.Optimizer]:
    return lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def _adamw(weight_decay: float) -> Callable[[Iterator[nn.Parameter], float], torch.optim.Optimizer]:
    return lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


def _half_decades(low: float, n: int) -> tuple[float, ...]:
    return tuple(low * 10 ** (i / 2) for i in range(n))


SETTINGS = (
    *(
        Setting("weight decay (AdamW)", value, 64, _adamw(value), _half_decades(3e-4, 7))
        for value in (0.0, 0.1, 1.0, 10.0)
    ),
    *(Setting("momentum (SGD)", value, 64, _sgd(value), _half_decades(3e-3, 7)) for value in (0.0, 0.9, 0.99)),
    *(
        Setting("batch size (SGD, momentum 0.9)", float(size), size, _sgd(0.9), _half_decades(3e-3, 7))
        for size in (8, 64, 512)
    ),
)


LONGER_PROBES = {(SETTINGS[6].group, 0.99): 80, (SETTINGS[7].group, 8.0): 60}
"""By group and value: the steps of longer probes, of settings where a probe of the usual 20 misleads."""
NEAR = 3
"""The LRs about the best one of the short runs that the longer runs are swept over."""


@dataclasses.dataclass(frozen=True)
class Training:
    """A network, its optimizer and its data."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DataLoader[tuple[torch.Tensor, ...]]
    held_out: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def begin(cls, setting: Setting, lr: float, seed: int) -> Training:
        """Makes all of it anew, from a seed."""
        torch.manual_seed(seed)
        digits = load_digits()
        order = torch.randperm(len(digits.target))
        inputs = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
        targets = torch.tensor(digits.target)[order]
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
        trained = TensorDataset(inputs[:N_TRAINED], targets[:N_TRAINED])
        loader = DataLoader(trained, batch_size=setting.batch_size, shuffle=True)
        return cls(model, setting.optimizer(model.parameters(), lr), loader, (inputs[N_TRAINED:], targets[N_TRAINED:]))

    def update(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """Makes a step; its loss."""
        loss = functional.cross_entropy(self.model(batch[0]), batch[1])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.optimizer.step()
        return loss

    def validate(self) -> float:
        """Gives the loss on what is not trained on."""
        self.model.eval()
        with torch.no_grad():
            loss = functional.cross_entropy(self.model(self.held_out[0]), self.held_out[1]).item()
        self.model.train()
        return loss


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's highest LR, and where it ended."""

    group: str
    value: float
    seed: int
    tuned: bool
    lr: float
    loss: float | None
    """The validation loss at its end; None: it diverged."""
    n_steps: int = N_STEPS
    probe_steps: int | None = None
    """The steps of its probes; None: the default's, or none."""


def by_hand(setting: Setting, lr: float, seed: int, n_steps: int = N_STEPS) -> Run:
    """Trains with linear decay from an LR to zero."""
    training = Training.begin(setting, lr, seed)
    decay = torch.optim.lr_scheduler.LinearLR(training.optimizer, 1.0, 0.0, n_steps)
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(training.loader)), n_steps):
        training.update(batch)
        decay.step()
    return Run(setting.group, setting.value, seed, False, lr, _finite(training.validate()), n_steps)


def tuned(setting: Setting, seed: int, n_steps: int = N_STEPS, probe_steps: int | None = None) -> Run:
    """Has the LR found, from the guess and without bounds."""
    training = Training.begin(setting, GUESS, seed)
    tuner = Tuner(
        training.model,
        training.optimizer,
        transport=LocalTransport(),
        total_steps=n_steps,
        policy_options={} if probe_steps is None else {"probe_steps": probe_steps},
        validate=training.validate,
        seed=seed,
    )
    with tuner:
        for batch in tuner.batches(training.loader):
            tuner.step(training.update(batch))
    peak = max(segment.profile.peak for segment in tuner.schedule.segments)
    return Run(setting.group, setting.value, seed, True, peak, _finite(training.validate()), n_steps, probe_steps)


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def measure(console: Console) -> list[Run]:
    """Makes all runs."""
    runs = []
    for setting, seed in track(list(itertools.product(SETTINGS, SEEDS)), "training", console=console, transient=True):
        runs += [by_hand(setting, lr, seed) for lr in setting.lrs]
        runs.append(tuned(setting, seed))
    return runs


def measure_longer(short: Sequence[Run], console: Console) -> list[Run]:
    """Makes the longer runs, of the settings for which there are longer probes."""
    runs = []
    chosen = [setting for setting in SETTINGS if (setting.group, setting.value) in LONGER_PROBES]
    for setting, seed in track(
        list(itertools.product(chosen, LONG_SEEDS)), "training for longer", console=console, transient=True
    ):
        means = swept(own_of(setting, short))
        best = setting.lrs.index(min(means, key=lambda lr: means[lr]))
        near = setting.lrs[max(best - NEAR // 2, 0) :][:NEAR]
        runs += [by_hand(setting, lr, seed, LONG_STEPS) for lr in near]
        for probe_steps in (None, LONGER_PROBES[setting.group, setting.value]):
            runs.append(tuned(setting, seed, LONG_STEPS, probe_steps))
    return runs


def own_of(setting: Setting, runs: Sequence[Run]) -> list[Run]:
    """The runs of a setting."""
    return [run for run in runs if (run.group, run.value) == (setting.group, setting.value)]


@dataclasses.dataclass(frozen=True)
class Row:
    """What a setting came to, over the seeds."""

    group: str
    value: float
    best_lr: float
    """The LR of the sweep with the lowest mean loss."""
    best_loss: float
    found_lrs: tuple[float, ...]
    """The LRs that tuned runs found."""
    tuned_loss: float


def rows(runs: Sequence[Run]) -> list[Row]:
    """A row for each setting."""
    found = []
    for setting in SETTINGS:
        own = own_of(setting, runs)
        means = swept(own)
        best = min(means, key=lambda lr: means[lr])
        ends = [run for run in own if run.tuned]
        found.append(
            Row(
                group=setting.group,
                value=setting.value,
                best_lr=best,
                best_loss=means[best],
                found_lrs=tuple(run.lr for run in ends),
                tuned_loss=_mean(ends),
            )
        )
    return found


def swept(runs: Sequence[Run]) -> dict[float, float]:
    """The mean loss by LR, of those that were swept."""
    lrs = sorted({run.lr for run in runs if not run.tuned})
    return {lr: _mean([run for run in runs if not run.tuned and run.lr == lr]) for lr in lrs}


def _mean(runs: Sequence[Run]) -> float:
    return statistics.fmean(math.inf if run.loss is None else run.loss for run in runs)


def markdown(found: Sequence[Row]) -> str:
    """The table of the page."""
    lines = [
        "| what is varied | value | best LR of the sweep | its loss | LR that was found | loss of tuned runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found:
        lrs = f"{statistics.geometric_mean(row.found_lrs):.2g} ({min(row.found_lrs):.2g} to {max(row.found_lrs):.2g})"
        cells = (
            row.group,
            f"{row.value:g}",
            f"{row.best_lr:.2g}",
            f"{row.best_loss:.3f}",
            lrs,
            f"{row.tuned_loss:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def markdown_of_longer(runs: Sequence[Run]) -> str:
    """The table of the longer runs."""
    lines = [
        "| setting | best LR of a sweep | its loss | steps of a probe | LRs that were found | loss of tuned runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for setting in SETTINGS:
        own = own_of(setting, runs)
        means = swept(own)
        for probe_steps in dict.fromkeys(run.probe_steps for run in own if run.tuned):
            best = min(means, key=lambda lr: means[lr])
            ends = [run for run in own if run.tuned and run.probe_steps == probe_steps]
            cells = (
                f"{setting.group} {setting.value:g}",
                f"{best:.2g}",
                f"{means[best]:.3f}",
                "20, the default" if probe_steps is None else f"{probe_steps}",
                " and ".join(f"{run.lr:.2g}" for run in ends),
                f"{_mean(ends):.3f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[Run]) -> Figure:
    """Loss over LR, a panel for what is varied; tuned runs are dots on their setting's colour."""
    groups = list(dict.fromkeys(setting.group for setting in SETTINGS))
    figure = Figure(figsize=(12, 4), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True)
    best = min(run.loss for run in runs if run.loss is not None)
    for axes, group in zip(panels, groups, strict=True):
        for i, setting in enumerate(each for each in SETTINGS if each.group == group):
            own = own_of(setting, runs)
            means = {lr: loss for lr, loss in swept(own).items() if loss < CEILING * best}
            axes.plot(list(means), list(means.values()), "-", color=f"C{i}", label=f"{setting.value:g}")
            ends = [(run.lr, run.loss) for run in own if run.tuned and run.loss is not None]
            axes.scatter(*zip(*ends, strict=True), color=f"C{i}", edgecolor="black", zorder=3)
        axes.set(xscale="log", yscale="log", xlabel="highest LR of the run", title=group)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    panels[0].set_ylabel("validation loss at the end")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_outputs(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(stderr=True)
    runs = measure(console)
    longer = measure_longer(runs, console)
    found = rows(runs)
    figures: Mapping[str, Any] = {
        "environment": environment(),
        "summary": [dataclasses.asdict(row) for row in found],
        "runs": [dataclasses.asdict(run) for run in (*runs, *longer)],
    }
    tables = f"{markdown(found)}\n{markdown_of_longer(longer)}"
    write(arguments, tables, figures, lambda folder: draw(runs).savefig(folder / "hyperparameters.png"))


if __name__ == "__main__":
    main()
