"""The contestants that tune: our policies, their ablations, and the same with another range.

Each is one run through the real client, search included in its steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lrpilot import Tuner

from benchmarks.quality.contestant import Contestant
from benchmarks.quality.local import LocalTransport
from benchmarks.quality.training import Curve, update
from benchmarks.quality.workloads import Session, Workload


@dataclass(frozen=True)
class Variant:
    """A policy with options; the range and the LR that the optimizer carries may be moved, validation left out.

    Attributes:
        policy: Its name.
        options: Its options.
        low: Factor on the lower end of the workload's range.
        high: Factor on the upper end.
        bounded: Whether the tuner is given a range at all.
        validated: Whether the tuner may validate.
        base: Factor on the LR that the optimizer carries when the tuner is made.
    """

    policy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    low: float = 1.0
    high: float = 1.0
    validated: bool = True
    base: float = 1.0
    bounded: bool = True

    def tuner(
        self, session: Session, workload: Workload, n_steps: int | None, seed: int, transport: LocalTransport
    ) -> Tuner:
        """A tuner of `session`, a run of `workload` without a tuner so far. Its LR range is the workload's, moved."""
        torch.manual_seed(seed)
        for group in session.optimizer.param_groups:
            group["lr"] *= self.base
        low, high = workload.lr_range
        return Tuner(
            session.model,
            session.optimizer,
            transport=transport,
            total_steps=n_steps,
            lr_bounds=(low * self.low, high * self.high) if self.bounded else None,
            policy=self.policy,
            policy_options=self.options,
            validate=session.validate if self.validated else None,
            seed=seed,
        )

    def run(self, workload: Workload, lr: float | None, n_steps: int, seed: int) -> Curve:
        """Trains one run; its `lr` is none of ours to choose."""
        assert lr is None
        return self.job(workload, n_steps, seed, LocalTransport())

    def job(self, workload: Workload, n_steps: int, seed: int, transport: LocalTransport) -> Curve:
        """Trains one run as the job of a server."""
        session = workload.build(seed)
        started = time.perf_counter()
        tuner = self.tuner(session, workload, n_steps, seed, transport)
        for batch in tuner.batches(session.batches()):
            tuner.step(update(session, batch))
        final = session.judge()
        schedule = tuner.schedule
        return Curve(
            final_val_loss=final if math.isfinite(final) else math.inf,
            diverged=not math.isfinite(final),
            val_steps=[v.step + tuner.search_steps for v in schedule.validations],
            val_losses=[v.loss for v in schedule.validations],
            wall_s=time.perf_counter() - started,
            search_steps=tuner.search_steps,
            peak_lr=max(segment.profile.start_lr for segment in schedule.segments),
            validation_s=session.validation_s,
        )


TO_ZERO: Mapping[str, Any] = {"ending": "zero"}
"""As `budget` was before it ended with an average: what is compared with `budget, ending zero` has that ending, too."""
VARIANTS: dict[str, Variant] = {
    "budget": Variant("budget"),
    "budget, ending zero": Variant("budget", TO_ZERO),
    "autolrs": Variant("autolrs"),
    "hypergradient": Variant("hypergradient"),
    # Sensitivity: the range moved or widened tenfold.
    "budget, range x10": Variant("budget", TO_ZERO, low=10, high=10),
    "budget, range /10": Variant("budget", TO_ZERO, low=0.1, high=0.1),
    "budget, range wider": Variant("budget", TO_ZERO, low=0.1, high=10),
    # ... and an optimizer with a wrong LR, of which nobody knows that it is wrong.
    "budget, LR x30": Variant("budget", TO_ZERO, base=30),
    "budget, LR /30": Variant("budget", TO_ZERO, base=1 / 30),
    # Ablations: one ingredient left out.
    "budget, no validation": Variant("budget", TO_ZERO, validated=False),
    "budget, fresh batches": Variant("budget", {**TO_ZERO, "batches": "fresh"}),
    "budget, constant probes": Variant("budget", {**TO_ZERO, "decayed_probes": False}),
    "budget, no decay": Variant("budget", {**TO_ZERO, "decay": "constant"}),
    "budget, gamma 0": Variant("budget", {**TO_ZERO, "length_exponent": 0.0}),
    "budget, gamma 0.25": Variant("budget", {**TO_ZERO, "length_exponent": 0.25}),
    "budget, cosine": Variant("budget", {**TO_ZERO, "decay": "cosine"}),
    "budget, probes of 100": Variant("budget", {**TO_ZERO, "probe_steps": 100}),
    "budget, 1 refinement": Variant("budget", {**TO_ZERO, "refinements": 1}),
    # The published method with one robust piece each.
    "autolrs, last value": Variant("autolrs", {"forecaster": "last_value"}),
    "autolrs, log EI": Variant("autolrs", {"acquisition": "log_ei"}),
    "autolrs, decayed probes": Variant("autolrs", {"decayed_probes": True}),
    "autolrs, final decay": Variant("autolrs", {"final_decay": True}),
    # The correction has a decay to correct, so that it is to be compared with the row above.
    "autolrs, length exponent": Variant("autolrs", {"final_decay": True, "length_exponent": 0.2}),
    # ... and all of them. Not the correction: in the middle of a run its direction is wrong (docs/regret.md).
    "autolrs, all": Variant("autolrs", {"acquisition": "log_ei", "decayed_probes": True, "final_decay": True}),
}
TUNERS: dict[str, Contestant] = {
    name: Contestant(name, variant.run, takes_lr=False) for name, variant in VARIANTS.items()
}
