"""The settings that are compared, and the runs that are made of each."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence

import torch
from lrpilot import Tuner
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.quality.local import LocalTransport

N_STEPS = 1_000
SEEDS = (0, 1, 2)
LONG_STEPS = 4_000
LONG_SEEDS = (3, 4, 5)
"""The seeds of the longer runs. The lengths of LONGER_PROBES were chosen on 0 and 1, so these are others."""
N_TRAINED = 1_400
GUESS = 1e-3
"""The LR that the optimizer of a tuned run is made with, whatever the setting."""


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
AROUND = tuple(10 ** (i / 2) for i in (-3, -2, -1, 0, 1))
"""What the longer runs are swept over: multiples of the best LR of the short runs. Most lie below it, as a longer run
wants a lower LR."""


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
        best = min(means, key=lambda lr: means[lr])
        runs += [by_hand(setting, best * factor, seed, LONG_STEPS) for factor in AROUND]
        for probe_steps in (None, LONGER_PROBES[setting.group, setting.value]):
            runs.append(tuned(setting, seed, LONG_STEPS, probe_steps))
    return runs


def own_of(setting: Setting, runs: Sequence[Run]) -> list[Run]:
    """The runs of a setting."""
    return [run for run in runs if (run.group, run.value) == (setting.group, setting.value)]


def swept(runs: Sequence[Run]) -> dict[float, float]:
    """The mean loss by LR, of those that were swept."""
    lrs = sorted({run.lr for run in runs if not run.tuned})
    return {lr: mean([run for run in runs if not run.tuned and run.lr == lr]) for lr in lrs}


def mean(runs: Sequence[Run]) -> float:
    """The mean loss of runs; infinite: one of them diverged."""
    return statistics.fmean(math.inf if run.loss is None else run.loss for run in runs)
