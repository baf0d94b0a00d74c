"""The forecasters by name, and how far from the truth they are.

Two kinds: from a constant probe to the loss after tau steps at that LR, and from probes to the loss after a decay over
tau steps. The annealing law is of the second kind only: at a constant LR it is the power law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.regret import annealing
from benchmarks.regret.oracle import StateTable
from benchmarks.regret.views import Goal, Probe, outcomes, probes
from tuner_server.core.forecast import (
    ExponentialCurve,
    ExponentialForecaster,
    LastValueForecaster,
    Objective,
    PowerLawForecaster,
)

INTERVAL = 1.96
"""Standard errors on either side of a forecast that hold 95% of a normal distribution."""


@dataclass(frozen=True)
class Prediction:
    """A forecast; `sd` is None where the method gives none."""

    loss: float
    sd: float | None


Method = Callable[[Probe], Prediction]


def last_value(probe: Probe) -> Prediction:
    """The mean of the last ten losses."""
    forecast = LastValueForecaster().fit(probe.losses).predict(probe.horizon)
    return Prediction(forecast.loss, forecast.sd)


def published(probe: Probe) -> Prediction:
    """The raw fit of AutoLRS (Jin et al., ICLR 2021), however wild."""
    curve = ExponentialForecaster(probe.objective).fit(probe.losses)
    if not isinstance(curve, ExponentialCurve):
        raise ValueError(f"{probe.losses.size} losses are too few for an exponential")
    return Prediction(curve.predict(probe.horizon).raw, None)


def exponential(probe: Probe) -> Prediction:
    """The same within our bounds, with our standard error."""
    forecast = ExponentialForecaster(probe.objective).fit(probe.losses).predict(probe.horizon)
    return Prediction(forecast.loss, forecast.sd)


def power_law(probe: Probe) -> Prediction:
    """The curve c + a * (x + 1)^-alpha, within our bounds."""
    forecast = PowerLawForecaster().fit(probe.losses).predict(probe.horizon)
    return Prediction(forecast.loss, forecast.sd)


METHODS: dict[str, Method] = {
    "last value": last_value,
    "published exponential": published,
    "exponential (ours)": exponential,
    "power law (ours)": power_law,
}


DecayMethod = Callable[[StateTable], Sequence[float | None]]
"""Gives a forecast for every LR, (k,); None where a probe diverged."""

DECAY_METHODS: dict[str, DecayMethod] = {
    "last value of a decayed probe": lambda table: table.probes,
    "annealing law": annealing.decay_ends,
}


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a forecaster, over many probes.

    Attributes:
        n: Probes that were not given up and whose trial did not diverge later.
        median_error: Of |forecast - truth| / truth.
        p90_error: Its 90th percentile.
        coverage: Part of the truths inside the 95% interval; None without a standard error.
        rms_z: Root mean square of (forecast - truth) / sd; 1 is ideal; None likewise.
        median_abs_z: Median of its size; 0.67 is ideal; None likewise.
    """

    n: int
    median_error: float
    p90_error: float
    coverage: float | None
    rms_z: float | None
    median_abs_z: float | None


def accuracy(predictions: Iterable[tuple[Prediction, float]]) -> Accuracy:
    """Compares predictions with positive, finite truths.

    Raises:
        ValueError: There are none.
    """
    pairs = list(predictions)
    if not pairs:
        raise ValueError("accuracy: no predictions")
    errors = np.array([abs(p.loss - truth) / truth for p, truth in pairs])
    z = np.array([(p.loss - truth) / p.sd for p, truth in pairs if p.sd is not None])
    with_sd = z.size == len(pairs)
    return Accuracy(
        n=len(pairs),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        coverage=float(np.mean(np.abs(z) <= INTERVAL)) if with_sd else None,
        rms_z=math.sqrt(float(np.mean(z**2))) if with_sd else None,
        median_abs_z=float(np.median(np.abs(z))) if with_sd else None,
    )


def measure(tables: Iterable[StateTable], method: Method, objective: Objective) -> Accuracy:
    """The accuracy of a forecaster over all LRs of all states."""
    return accuracy(
        (method(probe), probe.truth)
        for table in tables
        for probe in probes(table, objective)
        if probe is not None and math.isfinite(probe.truth)
    )


def measure_decays(tables: Iterable[StateTable], method: DecayMethod) -> Accuracy:
    """The accuracy of a forecaster of decays over all LRs of all states."""
    return accuracy(
        (Prediction(forecast, None), float(truth))
        for table in tables
        for forecast, truth in zip(method(table), outcomes(table, Goal.DECAYED), strict=True)
        if forecast is not None and math.isfinite(truth)
    )
