"""How long one suggestion takes: LRPilot against scikit-optimize, Optuna's GP sampler and BoTorch's defaults.

    python -m benchmarks.suggest --json suggest.json --plot suggest.png

Every method gets the same n observations of a noisy loss over log LR, all but the last of them beforehand, untimed.
What is timed is what a search does between two probes: take in the last observation, give the next LR. That is a
suggestion. LRPilot's is shown with more as well: with the evidence, the curves that a server keeps of each suggestion,
and with the forecast from the losses of the last probe before it. Everything runs in one process on one thread, each
method over all problems in a row after a warm-up. It is processor time that is counted, which other work on the machine
changes little. What one of several suggestions takes that are made together, as a server under load makes them, is
LRPilot's alone.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
import skopt
import torch
from botorch.acquisition.analytic import LogExpectedImprovement as BotorchLogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.optim.optimize import optimize_acqf
from gpytorch.mlls import ExactMarginalLogLikelihood
from rich.console import Console
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has neither stubs nor py.typed

from benchmarks.environment import environment
from tuner_server.core.forecast import ExponentialForecaster, Objective
from tuner_server.core.search.acquisition import Acquisition, LogExpectedImprovement, LowerConfidenceBound
from tuner_server.core.search.gaussian_process.surrogate import FloatArray, Observations
from tuner_server.core.search.suggest import Query, suggest, suggest_all

PACKAGES = ("torch", "gpytorch", "botorch", "scikit-optimize", "optuna", "numpy", "scipy")
"""Whose versions are told beside the figures."""
N_OBSERVATIONS = (5, 10, 20)
LR_BOUNDS = (1e-4, 1.0)
LOG_BOUNDS = (math.log(LR_BOUNDS[0]), math.log(LR_BOUNDS[1]))
NOISE_SD = 0.02
PROBE_STEPS = 100
HORIZON = 1000.0
WARM_UP = 3
"""Untimed calls before the timed ones."""
REFERENCE = "scikit-optimize"
BATCHES = (8, 64)
"""So many suggestions are made together."""
ACQUISITIONS: dict[str, Acquisition] = {
    "LRPilot (LCB)": LowerConfidenceBound(kappa=1e6),
    "LRPilot (log EI)": LogExpectedImprovement(),
}


@dataclass(frozen=True)
class Problem:
    """n observed LRs, and the loss curve of the probe that was the last of them."""

    log_lr: FloatArray
    loss: FloatArray
    probe: FloatArray
    seed: int

    @classmethod
    def draw(cls, n: int, seed: int) -> Problem:
        rng = np.random.default_rng(seed)
        log_lr = rng.uniform(*LOG_BOUNDS, size=n)
        loss = 2.0 + 0.1 * (log_lr - rng.uniform(-6.0, -2.0)) ** 2 + NOISE_SD * rng.normal(size=n)
        decay = np.exp(-0.03 * np.arange(PROBE_STEPS))
        probe = loss[-1] + 0.5 * decay + 0.05 * rng.normal(size=PROBE_STEPS)
        return cls(log_lr, loss, probe, seed)


Prepare = Callable[[Problem], Callable[[], float]]
"""Does what is not timed; gives the call that is, which returns an LR."""


def lrpilot(acquisition: Acquisition, *, with_evidence: bool = False, with_forecast: bool = False) -> Prepare:
    forecaster = ExponentialForecaster(Objective.TRAINING)

    def prepare(problem: Problem) -> Callable[[], float]:
        n = len(problem.log_lr)
        earlier = problem.loss[:-1]

        def call() -> float:
            loss, sd = float(problem.loss[-1]), NOISE_SD
            if with_forecast:
                forecast = forecaster.fit(problem.probe).predict(HORIZON)
                loss, sd = forecast.loss, forecast.sd
            noise_var = np.full(n, NOISE_SD**2)
            noise_var[-1] = sd**2
            observations = Observations(
                problem.log_lr, np.append(earlier, loss), noise_var, np.zeros(n, dtype=np.bool_)
            )
            found = suggest(Query(observations, LOG_BOUNDS, acquisition, seed=problem.seed))
            if with_evidence:
                found.evidence  # noqa: B018 - it is made when it is asked for
            return math.exp(found.log_lr)

        return call

    return prepare


def scikit_optimize(problem: Problem) -> Callable[[], float]:
    """Set up as AutoLRS does: a GP, the lower confidence bound with kappa = 1e6, one initial point."""
    lrs = [[float(lr)] for lr in np.exp(problem.log_lr)]
    losses = problem.loss.tolist()
    optimizer = skopt.Optimizer(
        [skopt.space.Real(*LR_BOUNDS, "log-uniform")],
        "GP",
        n_initial_points=1,
        acq_func="LCB",
        acq_func_kwargs={"kappa": 1e6},
        random_state=problem.seed,
    )
    optimizer.tell(lrs[:-1], losses[:-1], fit=False)

    def call() -> float:
        optimizer.tell(lrs[-1], losses[-1])
        return float(optimizer.ask()[0])

    return call


def optuna_gp(problem: Problem) -> Callable[[], float]:
    """GPSampler with its defaults but for the start-up trials."""
    sampler = optuna.samplers.GPSampler(seed=problem.seed, n_startup_trials=1)
    study = optuna.create_study(sampler=sampler)
    lrs = np.exp(problem.log_lr).tolist()
    distribution = optuna.distributions.FloatDistribution(*LR_BOUNDS, log=True)
    for lr, loss in zip(lrs[:-1], problem.loss[:-1].tolist(), strict=True):
        study.add_trial(optuna.trial.create_trial(params={"lr": lr}, distributions={"lr": distribution}, value=loss))
    study.enqueue_trial({"lr": lrs[-1]})
    last = study.ask({"lr": distribution})

    def call() -> float:
        study.tell(last, float(problem.loss[-1]))
        return float(study.ask().suggest_float("lr", *LR_BOUNDS, log=True))

    return call


def botorch_default(problem: Problem) -> Callable[[], float]:
    """SingleTaskGP, fit_gpytorch_mll and optimize_acqf with its tutorial's restarts and samples."""
    low, high = LOG_BOUNDS
    unit = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    x = torch.from_numpy((problem.log_lr - low) / (high - low)).unsqueeze(-1)
    y = -torch.from_numpy(problem.loss).unsqueeze(-1)

    def call() -> float:
        model = SingleTaskGP(x, y)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        acquisition = BotorchLogExpectedImprovement(model, best_f=y.max())
        candidate, _ = optimize_acqf(acquisition, bounds=unit, q=1, num_restarts=5, raw_samples=20)
        return math.exp(low + (high - low) * float(candidate))

    return call


METHODS: dict[str, Prepare] = {
    **{name: lrpilot(acquisition) for name, acquisition in ACQUISITIONS.items()},
    **{
        f"{name}, with evidence": lrpilot(acquisition, with_evidence=True) for name, acquisition in ACQUISITIONS.items()
    },
    **{
        f"{name}, with evidence and forecast": lrpilot(acquisition, with_evidence=True, with_forecast=True)
        for name, acquisition in ACQUISITIONS.items()
    },
    REFERENCE: scikit_optimize,
    "Optuna GPSampler": optuna_gp,
    "BoTorch defaults": botorch_default,
}


def seconds(prepare: Prepare, problem: Problem) -> float:
    call = prepare(problem)
    # BoTorch and scikit-optimize draw from the global generators.
    torch.manual_seed(problem.seed)
    np.random.seed(problem.seed)
    start = time.process_time()
    lr = call()
    elapsed = time.process_time() - start
    # Whoever returns exp(log bound) may be off by rounding.
    if not LR_BOUNDS[0] * (1 - 1e-9) <= lr <= LR_BOUNDS[1] * (1 + 1e-9):
        raise RuntimeError(f"suggested {lr}, outside of {LR_BOUNDS}")
    return elapsed


def batched_seconds(acquisition: Acquisition, n: int, size: int, seed: int) -> float:
    """The time of one suggestion of `size` that are made together, each with the making of its query."""
    problems = [Problem.draw(n, seed * size + i) for i in range(size)]
    noise_var, censored = np.full(n, NOISE_SD**2), np.zeros(n, dtype=np.bool_)
    start = time.process_time()
    suggest_all(
        [
            Query(Observations(p.log_lr, p.loss, noise_var, censored), LOG_BOUNDS, acquisition, seed=p.seed)
            for p in problems
        ]
    )
    return (time.process_time() - start) / size


def measure(repeats: int, console: Console) -> dict[int, dict[str, list[float]]]:
    """Seconds of every repeat, by number of observations and method."""
    times: dict[int, dict[str, list[float]]] = {}
    for n in N_OBSERVATIONS:
        problems = [Problem.draw(n, seed) for seed in range(repeats)]
        times[n] = {}
        for name, prepare in track(METHODS.items(), f"{n} observations", console=console, transient=True):
            for problem in problems[:WARM_UP]:
                seconds(prepare, problem)
            times[n][name] = [seconds(prepare, problem) for problem in problems]
        for name, acquisition in ACQUISITIONS.items():
            for size in BATCHES:
                batched_seconds(acquisition, n, size, repeats)
                samples = [batched_seconds(acquisition, n, size, seed) for seed in range(repeats)]
                times[n][f"{name}, one of {size}"] = samples
    return times


def summarise(times: dict[int, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """One row for each method and number of observations; ratios are to the reference's median."""
    rows = []
    for n, methods in times.items():
        reference = float(np.median(methods[REFERENCE]))
        for name, samples in methods.items():
            low, median, high = (float(q) for q in np.quantile(samples, (0.25, 0.5, 0.75)))
            rows.append(
                {
                    "n_observations": n,
                    "method": name,
                    "median_s": median,
                    "quartiles_s": [low, high],
                    "times_faster_than_scikit_optimize": reference / median,
                    "samples_s": samples,
                }
            )
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("n", "method", "median ms", "quartiles ms", "skopt / this")
    for column in (0, 2, 3, 4):
        table.columns[column].justify = "right"
    for row in rows:
        low, high = row["quartiles_s"]
        table.add_row(
            str(row["n_observations"]),
            row["method"],
            f"{row['median_s'] * 1e3:.2f}",
            f"{low * 1e3:.2f} - {high * 1e3:.2f}",
            f"{row['times_faster_than_scikit_optimize']:.1f}",
            end_section=row is rows[-1] or row["n_observations"] != rows[rows.index(row) + 1]["n_observations"],
        )
    console.print(table)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    mpl.use("agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in METHODS:
        own = [row for row in rows if row["method"] == name]
        median = np.array([row["median_s"] for row in own]) * 1e3
        quartiles = np.array([row["quartiles_s"] for row in own]).T * 1e3
        axes.errorbar(
            [row["n_observations"] for row in own],
            median,
            yerr=np.abs(quartiles - median),
            marker="o",
            capsize=3,
            linestyle="--" if "with" in name else "-",
            label=name,
        )
    axes.set(yscale="log", xticks=N_OBSERVATIONS, xlabel="observations", ylabel="one suggestion (ms)")
    axes.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how long one suggestion takes.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--repeats", type=int, default=15, help="problems for each number of observations")
    arguments = parser.parse_args()

    console = Console()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with threadpool_limits(1), warnings.catch_warnings():
        # Deprecations and convergence notes of the libraries that are measured.
        warnings.simplefilter("ignore")
        rows = summarise(measure(arguments.repeats, console))
    show(rows, console)
    measured_on = environment(*PACKAGES, threads=torch.get_num_threads())
    arguments.json.write_text(json.dumps({"environment": measured_on, "results": rows}, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
