"""All figures from a table, as values, Markdown and a plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from rich.progress import track

from benchmarks.regret.forecasts import DECAY_METHODS, METHODS, Accuracy, measure, measure_decays
from benchmarks.regret.oracle import StateKey, StateTable
from benchmarks.regret.rules import RULES, RegretSummary, length_effect, regret, summarise
from benchmarks.regret.views import Goal
from tuner_server.core.forecast import Objective

DECAYED = "decayed"
"""The series of the forecasters of decays."""


@dataclass(frozen=True)
class Judged:
    """What one pick of a rule came to."""

    rule: str
    goal: Goal
    key: StateKey
    lr: float
    regret: float


@dataclass(frozen=True)
class Report:
    """What a table says of every rule and forecaster.

    Attributes:
        keys: Its states.
        picks: Of every rule, in every state, judged by every goal.
        accuracies: By forecaster and series.
        length_effects: By step, the geometric mean over states of the best peak LR over tau steps, relative to the
            best one over tau' steps.
    """

    keys: tuple[StateKey, ...]
    picks: tuple[Judged, ...]
    accuracies: dict[tuple[str, str], Accuracy]
    length_effects: dict[int, float]

    @property
    def workloads(self) -> list[str]:
        """Names, in order."""
        return sorted({key.workload for key in self.keys})

    def summary(self, rule: str, goal: Goal, *, workload: str | None = None, step: int | None = None) -> RegretSummary:
        """The regret of a rule; of one workload or one step only, if that is given."""
        return summarise(
            (pick.key.workload, pick.regret)
            for pick in self.picks
            if (pick.rule, pick.goal) == (rule, goal)
            and workload in (None, pick.key.workload)
            and step in (None, pick.key.step)
        )


def evaluate(tables: Sequence[StateTable]) -> Report:
    """Applies every rule and every forecaster to every state."""
    picks: list[Judged] = []
    for rule, pick in track(RULES.items(), "rules"):
        for table in tables:
            x = pick(table)
            picks.extend(Judged(rule, goal, table.key, math.exp(x), regret(table, goal, x)) for goal in Goal)
    accuracies = {
        (name, objective.value): measure(tables, method, objective)
        for objective in Objective
        for name, method in track(METHODS.items(), f"forecasters, {objective.value}")
    }
    accuracies |= {(name, DECAYED): measure_decays(tables, method) for name, method in DECAY_METHODS.items()}
    length_effects = {
        step: math.exp(fmean(length_effect(table) for table in tables if table.key.step == step))
        for step in sorted({table.key.step for table in tables})
    }
    return Report(tuple(table.key for table in tables), tuple(picks), accuracies, length_effects)


def as_json(report: Report) -> dict[str, Any]:
    """The report in plain values."""
    return {
        "regret": [
            {"rule": rule, "goal": goal.name.lower(), **asdict(report.summary(rule, goal))}
            for rule in RULES
            for goal in Goal
        ],
        "forecasts": [
            {"forecaster": name, "series": series, **asdict(accuracy)}
            for (name, series), accuracy in report.accuracies.items()
        ],
        "length_effect": [{"step": step, "factor": factor} for step, factor in report.length_effects.items()],
        "picks": [
            {
                "rule": pick.rule,
                "goal": pick.goal.name.lower(),
                **asdict(pick.key),
                "lr": pick.lr,
                "regret": pick.regret,
            }
            for pick in report.picks
        ],
    }


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(_row(cells) for cells in (head, rule, *rows))


def percent(value: float) -> str:
    """A share in per cent, at one decimal, or at two digits where it is large."""
    return f"{100 * value:.1f}%" if value < 10 else f"{100 * value:.2g}%"


def _or_dash(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def _cell(summary: RegretSummary) -> str:
    se = _or_dash(summary.se, percent)
    return f"{percent(summary.mean)} ± {se} ({percent(summary.median)}; {summary.failures})"


def as_markdown(report: Report) -> str:
    """Regret of all rules, that of decayed runs by step and workload, the effect of length, errors of forecasters."""
    regret_rows = [[rule, *(_cell(report.summary(rule, goal)) for goal in Goal)] for rule in RULES]
    split_rows = [
        [
            rule,
            *(percent(report.summary(rule, Goal.DECAYED, step=step).mean) for step in report.length_effects),
            *(percent(report.summary(rule, Goal.DECAYED, workload=w).mean) for w in report.workloads),
        ]
        for rule in RULES
    ]
    split_head = ("rule", *(f"step {step}" for step in report.length_effects), *report.workloads)
    effect_rows = [[f"step {step}", f"{factor:.2f}"] for step, factor in report.length_effects.items()]
    forecast_rows = [
        [
            name,
            series,
            str(a.n),
            percent(a.median_error),
            percent(a.p90_error),
            _or_dash(a.coverage, "{:.2f}".format),
            _or_dash(a.rms_z, "{:.3g}".format),
            _or_dash(a.median_abs_z, "{:.2f}".format),
        ]
        for (name, series), a in report.accuracies.items()
    ]
    forecast_head = (
        "forecaster",
        "series",
        "n",
        "median error",
        "90th percentile",
        "coverage",
        "rms z",
        "median abs z",
    )
    return "\n\n".join(
        (
            f"Regret over {len(report.keys)} states, by what the pick is judged by: mean ± standard error over "
            "workloads (median; failures).",
            table(("rule", *(goal.value for goal in Goal)), regret_rows),
            f"Mean regret by the state's step and by workload, {Goal.DECAYED.value}.",
            table(split_head, split_rows),
            "The best peak LR of a decay over tau steps, relative to the best one over tau' steps (geometric mean).",
            table(("state", "factor"), effect_rows),
            "Forecasts of the loss after tau steps, at a constant LR or decayed.",
            table(forecast_head, forecast_rows),
        )
    )


def plot(report: Report, path: Path) -> None:
    """Mean regret of every rule; median and 90th percentile of the error of every forecaster."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained", width_ratios=(2, 1))
    rules = list(RULES)
    for shift, goal in zip((-0.2, 0.0, 0.2), Goal, strict=True):
        summaries = [report.summary(rule, goal) for rule in rules]
        left.errorbar(
            [100 * s.mean for s in summaries],
            [i + shift for i in range(len(rules))],
            xerr=[100 * (s.se or 0.0) for s in summaries],
            fmt="o",
            capsize=2,
            label=goal.value,
        )
    left.set(xlabel="mean regret (%), ± standard error over workloads", yticks=range(len(rules)), yticklabels=rules)
    left.set_xlim(left=0)
    at = range(len(report.accuracies))
    names = [f"{name}, {series}" for name, series in report.accuracies]
    right.plot([100 * a.median_error for a in report.accuracies.values()], at, "o", label="median")
    right.plot([100 * a.p90_error for a in report.accuracies.values()], at, "|", ms=12, label="90th percentile")
    right.set(xscale="log", xlabel="forecast error (%)", yticks=at, yticklabels=names)
    for axes in (left, right):
        axes.invert_yaxis()
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    figure.savefig(path, dpi=150)
    plt.close(figure)
