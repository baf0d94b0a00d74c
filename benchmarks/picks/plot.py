"""The factor that fits best, and what it leaves, over the length of a probe."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.picks.ideal import Ideal


def plot(ideals: Sequence[Ideal]) -> Figure:
    """One line for each length of a run; dotted, what policy `budget` takes."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, n_steps in enumerate(sorted({ideal.n_steps for ideal in ideals})):
        own = [ideal for ideal in ideals if ideal.n_steps == n_steps]
        probe_steps = [ideal.probe_steps for ideal in own]
        label, color = f"{n_steps:,} steps", f"C{i}"
        left.plot(probe_steps, [ideal.factor for ideal in own], "o-", color=color, label=label)
        left.plot(probe_steps, [ideal.used for ideal in own], ":", color=color)
        right.plot(probe_steps, [100 * (ideal.ratios.mean - 1) for ideal in own], "o-", color=color)
        right.plot(probe_steps, [100 * (ideal.used_ratios.mean - 1) for ideal in own], ":", color=color)
    left.set(yscale="log", ylabel="best LR of a run / optimum of the probe", title="the best factor")
    right.set(
        ylabel="above the best of the sweep (%)", title="what is left, without the cost of a search", ylim=(0, None)
    )
    marks = sorted({ideal.probe_steps for ideal in ideals})
    for axes in (left, right):
        axes.set(xscale="log", xlabel="steps of a probe (dotted: the factor of policy budget)")
        axes.xaxis.set_major_locator(FixedLocator(marks))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="x", labelsize="small")
        axes.grid(visible=True, alpha=0.3)
    ticks = FixedLocator([0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0])
    left.yaxis.set_major_locator(ticks)
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside right center", frameon=False)
    return figure
