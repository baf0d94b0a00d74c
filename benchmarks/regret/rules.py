"""Rules that pick an LR from tau' steps, and their regret.

Notation: x, the natural log of an LR; the regret of a pick is its loss over that of the grid's best LR, minus 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
from scipy.interpolate import PchipInterpolator

from benchmarks.regret import annealing
from benchmarks.regret.forecasts import METHODS, Method
from benchmarks.regret.oracle import StateTable
from benchmarks.regret.views import Goal, give_up_above, outcomes, probes
from tuner_server.core.forecast import FloatArray, Objective
from tuner_server.core.messages import Candidate
from tuner_server.core.policies.budget_options import BudgetOptions
from tuner_server.core.search.acquisition import LowerConfidenceBound
from tuner_server.core.search.observations import observations
from tuner_server.core.search.suggest import Query, suggest

CAP = 1.0
"""Largest regret: a diverged trial has no loss, and one near it any. Twice the best loss is a failure either way."""

Pick = Callable[[StateTable], float]
"""Gives x."""


def in_use(table: StateTable) -> float:
    """Keeps the workload's nominal LR: not a guess, but somebody's hand tuning."""
    return math.log(table.lr_in_use)


def by_forecast(table: StateTable, method: Method, objective: Objective) -> float:
    """The LR with the lowest forecast from constant probes; the lowest LR if all were given up."""
    losses = [math.inf if probe is None else method(probe).loss for probe in probes(table, objective)]
    return math.log(table.lrs[int(np.argmin(losses))])


def by_annealing_law(table: StateTable) -> float:
    """The LR with the lowest forecast of the end of a decay; the lowest LR if there is none."""
    losses = [math.inf if loss is None else loss for loss in annealing.decay_ends(table)]
    return math.log(table.lrs[int(np.argmin(losses))])


def correction(table: StateTable) -> float:
    """What policy budget adds to x, because the best peak LR falls with the length of a decay."""
    return BudgetOptions().length_exponent * math.log(table.key.tau_prime / table.key.tau)


def length_effect(table: StateTable) -> float:
    """What a correction would have to add to x: from the best decay over tau' steps to the best over tau."""
    x = math.log(table.lrs[int(np.argmin(outcomes(table, Goal.DECAYED)))])
    return x - best_decayed_probe(table, corrected=False)


def best_decayed_probe(table: StateTable, *, corrected: bool) -> float:
    """The LR of the decayed probe that ended lowest."""
    losses = [math.inf if loss is None else loss for loss in table.probes]
    x = math.log(table.lrs[int(np.argmin(losses))])
    return x + correction(table) if corrected else x


def surrogate_of_decayed_probes(table: StateTable, *, corrected: bool) -> float:
    """The lowest mean of policy budget's surrogate between the best decayed probe's neighbours."""
    level = give_up_above(table)
    candidates = [
        Candidate(directive_number=i, lr=lr, at_least=level)
        if loss is None or loss > level
        else Candidate(directive_number=i, lr=lr, forecast=loss, forecast_sd=0.0)
        for i, (lr, loss) in enumerate(zip(table.lrs, table.probes, strict=True))
    ]
    if all(candidate.diverged for candidate in candidates):
        return math.log(table.lrs[0])
    best = min(range(len(candidates)), key=lambda i: math.inf if (f := candidates[i].forecast) is None else f)
    bracket = (table.lrs[max(best - 1, 0)], table.lrs[min(best + 1, len(candidates) - 1)])
    found = suggest(
        Query(
            observations(candidates),
            (math.log(bracket[0]), math.log(bracket[1])),
            LowerConfidenceBound(kappa=0.0),
            seed=0,
            min_separation=0.0,
        )
    )
    return found.log_lr + correction(table) if corrected else found.log_lr


RULES: dict[str, Pick] = {
    "LR in use": in_use,
    **{
        f"{name}, {objective.value}": partial(by_forecast, method=method, objective=objective)
        for objective in Objective
        for name, method in METHODS.items()
    },
    "annealing law": by_annealing_law,
    "decayed probe": partial(best_decayed_probe, corrected=False),
    "decayed probe, corrected": partial(best_decayed_probe, corrected=True),
    "decayed probes' surrogate": partial(surrogate_of_decayed_probes, corrected=False),
    "decayed probes' surrogate, corrected (budget)": partial(surrogate_of_decayed_probes, corrected=True),
}


def regret(table: StateTable, goal: Goal, x: float) -> float:
    """Regret of the LR exp(x): see `regret_between`. Raises: ValueError: there is none."""
    return regret_between(table.lrs, outcomes(table, goal), x, str(table.key))


def regret_between(lrs: Sequence[float], losses: FloatArray, x: float, what: str) -> float:
    """Regret of the LR exp(x) where a grid of LRs led to these losses, at most `CAP`.

    Between the LRs of the grid log(1 + regret) is interpolated by a monotone cubic (PCHIP) over x, which has its
    lowest point at the grid's best LR; beyond the ends of the grid their regrets hold.

    Args:
        lrs: (k,) the grid, ascending.
        losses: (k,) infinity for a diverged trial.
        x: what is judged.
        what: names the state, for a refusal.

    Raises:
        ValueError: all trials diverged, or the best loss is not positive.
    """
    best = float(losses.min())
    if not 0.0 < best < math.inf:
        raise ValueError(f"{what}: no regret relative to a best loss of {best}")
    grid = np.log(lrs)
    log_ratio = np.log(np.minimum(losses / best, 1.0 + CAP))
    at = min(max(x, float(grid[0])), float(grid[-1]))
    return math.expm1(float(PchipInterpolator(grid, log_ratio)(at)))


@dataclass(frozen=True)
class RegretSummary:
    """The regret of a rule over many states.

    Attributes:
        mean: Over the states.
        se: Standard error of the mean over workloads; the states of one are alike. None with one workload.
        median: Over the states.
        p90: 90th percentile.
        failures: States in which it reached `CAP`.
        n: States.
    """

    mean: float
    se: float | None
    median: float
    p90: float
    failures: int
    n: int


def summarise(regrets: Iterable[tuple[str, float]]) -> RegretSummary:
    """Summarises pairs of workload and regret, of which each workload must have equally many.

    Raises:
        ValueError: There are none.
    """
    pairs = sorted(regrets)
    if not pairs:
        raise ValueError("summarise: no regrets")
    values = np.array([value for _, value in pairs])
    of_workloads = [np.mean([value for _, value in group]) for _, group in groupby(pairs, key=lambda pair: pair[0])]
    n = len(of_workloads)
    return RegretSummary(
        mean=float(values.mean()),
        se=float(np.std(of_workloads, ddof=1)) / math.sqrt(n) if n > 1 else None,
        median=float(np.median(values)),
        p90=float(np.quantile(values, 0.9)),
        failures=int(np.sum(np.isclose(values, CAP))),
        n=len(pairs),
    )
