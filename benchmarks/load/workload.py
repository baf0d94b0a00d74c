"""The jobs of the benchmark: what they ask for, what they report, and when. All of it follows from a seed.

Jobs take turns in policy, `budget` and `autolrs`, both with their defaults, training loss only, bounds given and
`TOTAL_STEPS` steps. So `budget` makes some 6 reports on probes and 20 on parts of its committed steps; `autolrs` makes
10 on probes and 20 on parts in every stage. A job that has ended is followed by a new one at once, so as many are live
at any time as were asked for.

A report holds the losses of every step of its directive, or of its next part: those of a recorded training curve,
resampled to that length, and scaled so that all begin alike: they come from different moments of a training, and a job
that jumped between these would diverge at every turn. Like a client, the job gives up when its losses stay above
the directive's limit, as curves that were recorded at too high an LR do in probes.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lrpilot.session.job_config import job_config
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.divergence import first_divergence

TOTAL_STEPS = 20_000
LR_BOUNDS = (1e-4, 1.0)
BASE_LR = 0.1
POLICIES = ("budget", "autolrs")
STEP_SD = 0.2
"""The spread of the log of a directive's time over its expected one: machines and batches differ."""
PLACES = 30
"""Jobs begin the measurement so far into their lives, drawn evenly: a stage of `autolrs` has so many reports, and a
whole life of `budget` about as many."""
CURVES_FILE = Path(__file__).parents[2] / "tests" / "data" / "forecasts.json"
CURVE_STEPS = 100
START_LOSS = 2.3
"""The loss of a classifier of ten classes that has learnt nothing."""

SOUND_RISE = 1.5
"""How far above its beginning the curve of committed steps may go: half as far as policies allow."""

Curve = tuple[float, ...]


class Kind(enum.StrEnum):
    """What a call asks of the server."""

    SEARCH = "search"
    PLAIN = "plain"
    CREATE = "create"


def kind_of(reported: pb.Phase.ValueType, answer: pb.Phase.ValueType) -> Kind:
    """Whether a report was answered by a search, as far as a client can see.

    A report on a probe is judged, and answered by the next probe or by the LR that is committed; a stage that ends is
    answered by a probe. All else (the next part of the same steps, the end) takes no thought. The first probes of
    `budget`, which step outward without a surrogate, count as search too: the wire doesn't tell them apart.
    """
    return Kind.SEARCH if pb.PHASE_PROBE in (reported, answer) else Kind.PLAIN


def load_curves(path: Path = CURVES_FILE) -> tuple[Curve, ...]:
    """Recorded training losses, `CURVE_STEPS` each, from `START_LOSS` on."""
    series = json.loads(path.read_text())["series"]
    recorded = [one["losses"] for one in series if one["objective"] == "training" and len(one["losses"]) == CURVE_STEPS]
    return tuple(tuple(START_LOSS * loss / curve[0] for loss in curve) for curve in recorded)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What makes one job differ from the others; `place` is where in its life it begins."""

    index: int
    policy: str
    seed: int
    place: int


def plans(n_jobs: int, seed: int) -> list[Plan]:
    """The jobs of one run. A job alone has the one policy or the other, by the seed."""
    generator = random.Random(seed)
    policies = [POLICIES[(i + seed) % len(POLICIES)] for i in range(n_jobs)]
    return [Plan(i, policies[i], generator.getrandbits(31), generator.randrange(PLACES)) for i in range(n_jobs)]


class SimulatedJob:
    """A training run that takes no time: says what is reported, and how long the steps would have taken."""

    def __init__(self, plan: Plan, curves: Sequence[Curve]) -> None:
        """Takes its losses from `curves`."""
        self.plan = plan
        self._curves = [np.array(curve) for curve in curves]
        # Of committed steps: curves that rose belong to LRs that no search would have picked.
        self._sound = [curve for curve in self._curves if curve.max() <= SOUND_RISE * curve[0]]
        self._random = random.Random(plan.seed)
        self._life = 0

    def request(self) -> pb.CreateJobRequest:
        """Opens the next job in this one's place."""
        self._life += 1
        config = job_config(
            policy=self.plan.policy,
            policy_options=None,
            lr_bounds=LR_BOUNDS,
            total_steps=TOTAL_STEPS,
            seed=self._life,
            name=f"load-{self.plan.index}-{self._life}",
            base_lr=BASE_LR,
        )
        return pb.CreateJobRequest(request_id=f"load-{self.plan.seed}-{self.plan.index}-{self._life}", config=config)

    def report(self, directive: pb.Directive) -> pb.Report:
        """The report on a directive, or on its next part."""
        n_steps = min(directive.report_every or directive.n_steps, directive.n_steps)
        curve = self._random.choice(self._curves if directive.phase == pb.PHASE_PROBE else self._sound)
        losses = np.interp(np.linspace(0, CURVE_STEPS - 1, n_steps), np.arange(CURVE_STEPS), curve)
        limit = directive.give_up_above if directive.HasField("give_up_above") else math.inf
        diverged = first_divergence(losses, limit)
        if diverged is not None:
            losses, outcome = losses[: diverged + 1], pb.OUTCOME_DIVERGED
        else:
            outcome = pb.OUTCOME_COMPLETED if n_steps == directive.n_steps else pb.OUTCOME_PARTIAL
        return pb.Report(directive_number=directive.number, outcome=outcome, losses=losses.tolist())

    def think_s(self, report: pb.Report, step_s: float) -> float:
        """Seconds that the steps of a report would have taken, at `step_s` each on average."""
        return len(report.losses) * step_s * self._random.lognormvariate(-(STEP_SD**2) / 2, STEP_SD)

    def phase(self) -> float:
        """The part of its think time that is left when the measurement begins."""
        return self._random.random()
