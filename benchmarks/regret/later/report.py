"""All figures from the table of states: regret of every rule by kind, the best peaks, and what probes say of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks.regret.later.rules import (
    FAMILIES,
    PROPOSED,
    RULES,
    STEP,
    Curve,
    Rule,
    losses,
    reference,
    regret,
    veto_steps,
)
from benchmarks.regret.later.states import PROBE_STEPS, Kind, State
from benchmarks.regret.report import percent, table
from benchmarks.regret.rules import RegretSummary, summarise
from tuner_server.core.forecast import FloatArray

JUDGED = ("decayed", "last", "mean")
"""What a probe may be judged by."""


@dataclass(frozen=True)
class Judged:
    """What one pick came to."""

    rule: str
    state: State
    regret: float
    steps: int


@dataclass(frozen=True)
class Report:
    """What a table of states says.

    Attributes:
        states: Its states.
        rest: The shorter length of rests, on which constants were chosen.
        picks: Of every rule, in every state.
        held_out: Of every family, with the constant that is best on the other workloads' shorter rests.
    """

    states: tuple[State, ...]
    rest: int
    picks: tuple[Judged, ...]
    held_out: tuple[Judged, ...]

    def summary(self, rule: str, kind: Kind, *, rest: int) -> RegretSummary | None:
        """The regret of a rule in the states of a kind; None: there are none."""
        found = [
            (pick.state.key.workload, pick.regret)
            for pick in (*self.picks, *self.held_out)
            if (pick.rule, pick.state.key.kind, pick.state.key.rest) == (rule, kind, rest)
        ]
        return summarise(found) if found else None

    def over_kinds(self, rule: str, *, rest: int) -> float:
        """Mean over kinds of the mean regret."""
        return fmean(found.mean for kind in Kind if (found := self.summary(rule, kind, rest=rest)) is not None)

    def failures(self, rule: str, *, rest: int) -> int:
        """States in which a rule's regret reached the cap."""
        return sum(found.failures for kind in Kind if (found := self.summary(rule, kind, rest=rest)) is not None)

    def steps(self, rule: str, *, rest: int) -> float:
        """Mean of what a rule's probes cost, as a share of the rest."""
        found = [pick.steps for pick in (*self.picks, *self.held_out) if _of(pick, rule, rest)]
        return fmean(found) / rest

    def above_proposed(self, rule: str, *, rest: int) -> tuple[float, float | None]:
        """Regret above that of the proposed rule, paired by state: mean over workloads, and its standard error."""
        base = {pick.state.key: pick.regret for pick in self.picks if _of(pick, PROPOSED, rest)}
        pairs = sorted(
            (pick.state.key.workload, pick.regret - base[pick.state.key])
            for pick in (*self.picks, *self.held_out)
            if _of(pick, rule, rest)
        )
        means = [fmean(value for _, value in group) for _, group in groupby(pairs, key=lambda pair: pair[0])]
        se = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else None
        return fmean(means), se

    @property
    def rests(self) -> list[int]:
        """Lengths of rests, ascending."""
        return sorted({state.key.rest for state in self.states})

    @property
    def held_out_rules(self) -> list[str]:
        """Names of the families."""
        return [_held_out_name(family) for family in FAMILIES]


def _of(pick: Judged, rule: str, rest: int) -> bool:
    return pick.rule == rule and pick.state.key.rest == rest


def _held_out_name(family: str) -> str:
    return f"{family} (chosen elsewhere)"


def evaluate(states: Sequence[State]) -> Report:
    """Applies every rule, and every family with constants that were chosen on other workloads."""
    rest = min(state.key.rest for state in states)
    picks = tuple(judged for name, rule in RULES.items() for judged in _judge(name, rule, states))
    held_out = []
    for name, (values, pick) in FAMILIES.items():
        by_value = [_judge(_held_out_name(name), partial(pick, constant=value), states) for value in values]
        for workload in sorted({state.key.workload for state in states}):
            held_out.extend(_held_out(by_value, workload, rest))
    return Report(tuple(states), rest, picks, tuple(held_out))


def _judge(name: str, rule: Rule, states: Iterable[State]) -> list[Judged]:
    return [Judged(name, state, regret(state, (pick := rule(state)).x), pick.steps) for state in states]


def _held_out(by_value: Sequence[Sequence[Judged]], workload: str, rest: int) -> list[Judged]:
    """The workload's picks with the constant that has the least regret on the others; of equals, the middle one."""
    scores = [
        fmean(j.regret for j in judged if j.state.key.workload != workload and j.state.key.rest == rest)
        for judged in by_value
    ]
    equals = [i for i, score in enumerate(scores) if math.isclose(score, min(scores))]
    chosen = by_value[equals[len(equals) // 2]]
    return [judged for judged in chosen if judged.state.key.workload == workload]


def best_peak(state: State) -> float:
    """The best peak for the rest, relative to the state's reference.

    It is the vertex of the parabola through the lowest loss of the grid and its neighbours; next to one that diverged,
    the grid's.
    """
    return math.exp(_vertex(np.log(state.lrs), np.log(losses(state.ends))) - reference(state))


def probes_peak(state: State, judged: str, n: int) -> float:
    """The best peak as probes of n steps have it, likewise."""
    ends = losses([getattr(probe, judged) for probe in state.probes[n]])
    return math.exp(_vertex(np.log(state.lrs), np.log(ends)) - reference(state))


def _vertex(xs: FloatArray, ys: FloatArray) -> float:
    best = int(np.argmin(ys))
    around = slice(best - 1, best + 2)
    if not 0 < best < len(xs) - 1 or not np.isfinite(ys[around]).all():
        return float(xs[best])
    curvature, slope, _ = np.polyfit(xs[around], ys[around], 2)
    return min(max(-float(slope) / (2 * float(curvature)), float(xs[best - 1])), float(xs[best + 1]))


def gap(state: State) -> float:
    """What a veto looks at: by how much the probe of the reference ends above that a step below it."""
    curve, x = Curve(state, "decayed", veto_steps(state)), reference(state)
    return math.expm1(float(curve.at(x) - curve.at(x - STEP)))


def gain_of_lower(state: State) -> float:
    """What the step down would truly bring: the regret of the reference, less that of a step below it."""
    x = reference(state)
    return regret(state, x) - regret(state, x - STEP)


def as_json(report: Report) -> dict[str, Any]:
    """The report in plain values."""
    return {
        "picks": [
            {
                "rule": pick.rule,
                "kind": pick.state.key.kind.value,
                "workload": pick.state.key.workload,
                "seed": pick.state.key.seed,
                "rest": pick.state.key.rest,
                "regret": pick.regret,
                "steps": pick.steps,
            }
            for pick in (*report.picks, *report.held_out)
        ],
        "best_peaks": [
            {
                "kind": state.key.kind.value,
                "workload": state.key.workload,
                "seed": state.key.seed,
                "rest": state.key.rest,
                "best": best_peak(state),
                "gap": gap(state),
                "gain_of_lower": gain_of_lower(state),
            }
            for state in report.states
        ],
    }


def _kinds(report: Report, rest: int) -> list[Kind]:
    present = {state.key.kind for state in report.states if state.key.rest == rest}
    return [kind for kind in Kind if kind in present]


def _regrets(report: Report, rest: int) -> str:
    kinds = _kinds(report, rest)
    rows = []
    for rule in (*RULES, *report.held_out_rules):
        cells = []
        for kind in kinds:
            summary = report.summary(rule, kind, rest=rest)
            assert summary is not None  # every rule was applied to every state
            cells.append(percent(summary.mean) if summary.se is None else _plus_minus(summary.mean, summary.se))
        above, se = report.above_proposed(rule, rest=rest)
        difference = "-" if rule == PROPOSED else _plus_minus(above, se)
        rows.append(
            [
                rule,
                percent(report.steps(rule, rest=rest)),
                *cells,
                percent(report.over_kinds(rule, rest=rest)),
                str(report.failures(rule, rest=rest)),
                difference,
            ]
        )
    return table(("rule", "steps", *kinds, "mean", "failures", "above the proposed"), rows)


def _plus_minus(mean: float, se: float | None) -> str:
    return percent(mean) if se is None else f"{percent(mean)} ± {percent(se)}"


def _geometric(values: Iterable[float]) -> str:
    return f"{math.exp(fmean(map(math.log, values))):.2f}"


def _peaks(report: Report) -> str:
    rows = []
    for kind in _kinds(report, report.rest):
        states = [state for state in report.states if (state.key.kind, state.key.rest) == (kind, report.rest)]
        best = [best_peak(state) for state in states]
        means = (
            _geometric(probes_peak(state, judged, n) for state in states) for judged in JUDGED for n in PROBE_STEPS
        )
        rows.append([kind, _geometric(best), f"{min(best):.2f} to {max(best):.2f}", *means])
    return table(("state", "best", "range", *(f"{judged} {n}" for judged in JUDGED for n in PROBE_STEPS)), rows)


def as_markdown(report: Report) -> str:
    """Regret of all rules by kind for every length, and where the best peaks are."""
    parts = []
    for rest in report.rests:
        n = sum(state.key.rest == rest for state in report.states)
        parts.append(
            f"Regret over {n} states with {rest} steps ahead: mean ± standard error over workloads. Steps: of the "
            "probes, as a share of the rest. Failures: states with a regret of 100%."
        )
        parts.append(_regrets(report, rest))
    parts.append(
        f"The best peak for {report.rest} steps, relative to the reference, and where probes have it (geometric means)."
    )
    parts.append(_peaks(report))
    return "\n\n".join(parts)


def plot(report: Report, path: Path) -> None:
    """The best peak of every state and where probes have it; what a veto looks at, and what it should have seen."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    kinds = _kinds(report, report.rest)
    series: dict[str, Callable[[State], float]] = {
        "best for the rest": best_peak,
        "decayed probe, 25 steps": lambda state: probes_peak(state, "decayed", 25),
        "mean weights, 100 steps": lambda state: probes_peak(state, "mean", 100),
    }
    of_rest = [state for state in report.states if state.key.rest == report.rest]
    for shift, (label, peak) in zip((-0.25, 0.0, 0.25), series.items(), strict=True):
        at = [kinds.index(state.key.kind) + shift for state in of_rest]
        left.plot(at, [peak(state) for state in of_rest], "o", ms=4, alpha=0.6, label=label)
    left.axhline(1.0, color="black", lw=1)
    left.set(yscale="log", ylabel="peak / reference", xticks=range(len(kinds)), xticklabels=kinds)
    for kind in kinds:
        states = [state for state in of_rest if state.key.kind is kind]
        # A probe that blew up is shown at the edge.
        gaps = [min(max(100 * gap(state), -50.0), 1000.0) for state in states]
        right.plot(gaps, [100 * gain_of_lower(state) for state in states], "o", ms=5, alpha=0.7, label=kind)
    right.axvline(20.0, color="black", lw=1, ls="--", label="margin")
    right.axhline(0.0, color="black", lw=1)
    right.set(
        xlabel="loss of the reference's probe above that of the lower one (%)", ylabel="true gain of the lower (%)"
    )
    right.set_xscale("symlog", linthresh=10)
    right.set_yscale("symlog", linthresh=1)
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)
