"""What the runs came to: two tables and a picture."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.hyperparameters.runs import SETTINGS, Run, mean, own_of, swept

CEILING = 25.0
"""No loss is drawn above so many times the best one: a run that diverged would leave nothing to see of the others."""


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
                tuned_loss=mean(ends),
            )
        )
    return found


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
        "| setting | best LR of a sweep | its loss | steps of a probe | LR found, and loss, by run | mean loss |",
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
                ", ".join(_found(run) for run in ends),
                f"{mean(ends):.3f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _found(run: Run) -> str:
    """The LR that a tuned run found, and the loss that it ended at."""
    return f"{run.lr:.2g} ({'diverged' if run.loss is None else f'{run.loss:.3f}'})"


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
