"""What random trainings came to: a table by optimizer, and a picture of all of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.random_trainings.runs import RUINED, Found
from benchmarks.random_trainings.training import draw

CEILING = 100.0
"""A ratio counts as this at most: a mean would hang on a run that diverged otherwise."""


def markdown(found: Sequence[Found]) -> str:
    """The table of the page."""
    lines = [
        "| optimizer | trainings | mean ratio | median | above 1.5 | best LR 3 times it or more | a third or less |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    groups: dict[str, list[Found]] = {"all": []}
    for one in sorted((one for one in found if one.ratio is not None), key=lambda one: draw(one.number).optimizer):
        groups["all"].append(one)
        groups.setdefault(draw(one.number).optimizer, []).append(one)
    for name, own in groups.items():
        if own:
            lines.append(_row(name, own))
    return "\n".join(lines) + "\n"


def _row(name: str, own: Sequence[Found]) -> str:
    logs = [log_ratio(one) for one in own]
    error = f" ± {statistics.stdev(logs) / math.sqrt(len(logs)):.0%}" if len(logs) > 1 else ""
    ruined = sum(log > math.log(RUINED) for log in logs)
    factors = [one.best_factor or 1.0 for one in own]
    cells = (
        name,
        str(len(own)),
        f"{math.exp(statistics.fmean(logs)):.2f}{error}",
        f"{math.exp(statistics.median(logs)):.2f}",
        f"{ruined} ({ruined / len(own):.0%})",
        f"{sum(factor > 1 for factor in factors) / len(own):.0%}",
        f"{sum(factor < 1 for factor in factors) / len(own):.0%}",
    )
    return f"| {' | '.join(cells)} |"


def log_ratio(one: Found) -> float:
    """The natural log of a ratio, `CEILING` at most."""
    assert one.ratio is not None
    return math.log(min(one.ratio, CEILING))


def plot(found: Sequence[Found]) -> Figure:
    """The ratio of each training over the multiple of its LR that would have been best."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    known = [one for one in found if one.ratio is not None and one.best_factor is not None]
    for validates, colour in ((True, "tab:blue"), (False, "tab:orange")):
        own = [one for one in known if draw(one.number).validates is validates]
        jitter = [10 ** (0.12 * (one.number % 11 - 5) / 5) for one in own]
        x = [(one.best_factor or 1.0) * shift for one, shift in zip(own, jitter, strict=True)]
        label = "with validation" if validates else "without"
        axes.scatter(x, [math.exp(log_ratio(one)) for one in own], s=14, alpha=0.6, color=colour, label=label)
    axes.axhline(1.0, color="gray", linewidth=0.8)
    axes.axhline(RUINED, color="tab:red", linewidth=0.8, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="best LR of the sweep / LR that was found")
    axes.set_ylabel("loss of the tuned run / best of the sweep")
    axes.legend()
    return figure
