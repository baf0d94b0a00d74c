"""Directives, reports and the evidence behind them: the values that pass between client, job and policy.

All are immutable, compare by value, and become JSON and back without loss.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import pydantic

# What clients read alike is part of the messages, too.
from lrpilot.wire.early_warning import EarlyWarning as EarlyWarning
from lrpilot.wire.limits import MAX_NOTE as MAX_NOTE
from lrpilot.wire.limits import MAX_STEPS as MAX_STEPS
from lrpilot.wire.messages.directive_steps import bar_begins, validations_left
from lrpilot.wire.outcome import Outcome as Outcome
from lrpilot.wire.phase import Phase as Phase
from lrpilot.wire.plan_change import BatchScaling as BatchScaling
from lrpilot.wire.plan_change import ChangeKind as ChangeKind
from lrpilot.wire.plan_change import ChangeOrigin as ChangeOrigin
from lrpilot.wire.weights import Weights as Weights

from tuner_server.core.plan_change import MAX_CHANGE_REASON as MAX_CHANGE_REASON
from tuner_server.core.plan_change import MAX_REQUEST_ID as MAX_REQUEST_ID
from tuner_server.core.plan_change import PlanChange as PlanChange
from tuner_server.core.profiles import ProfileField
from tuner_server.core.stop_evidence import Stopping
from tuner_server.core.values import Lr as Lr
from tuner_server.core.values import Number as Number
from tuner_server.core.values import Steps as Steps
from tuner_server.core.values import Text as Text
from tuner_server.core.values import Value as Value


class BatchSource(enum.StrEnum):
    """Where the batches of a directive come from."""

    FRESH = "fresh"
    REPLAYED = "replayed"


LOSS_WINDOW = 10
"""Committed losses that are averaged for "the loss", as in the published code's logs: one batch says little."""
MAX_MEASURES = 16
"""Measures of a job: each adds as much to every report as the losses do."""
LONGEST_PROFILE = 2**62
"""Length and offset of a profile are int64 on the wire, and so is what is left of it after further steps."""
DirectiveNumber = Annotated[int, pydantic.Field(ge=0, le=2**63 - 1)]
"""It is an int64 on the wire."""
StageNumber = Annotated[int, pydantic.Field(ge=-1, le=2**31 - 2)]
"""It counts from 0; -1: no stage. On the wire, and wherever people read it, it is one more, an int32."""
MeasureName = Annotated[str, pydantic.Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""It becomes the name of a column where measures are exported."""
Measures = Annotated[tuple[MeasureName, ...], pydantic.Field(max_length=MAX_MEASURES)]


class Bar(Value):
    """What a report that begins at or after `from_step` must not be above. Infinity: nothing is."""

    from_step: Steps
    loss: float
    """The bar for the median of the report's losses."""
    validation: float = math.inf
    """The bar for the report's last validation; it counts only if the one before was above it, too."""
    reached: float | None = None
    """The lowest level that the run had itself, if `loss` is held to that (`evidence.reached`), and not to a probe."""


class Average(Value):
    """An exponential average of the weights, to be kept over committed steps."""

    memory_steps: Annotated[float, pydantic.Field(ge=1, allow_inf_nan=False)]
    """After so many steps a change of the weights is in it but for a part of 1/e."""
    every: Annotated[int, pydantic.Field(ge=1, le=MAX_STEPS)]
    """It is brought up to date after so many steps."""


class RoundStep(Value):
    """How the update of a federation's round is taken on: what `RoundStep` of the proto tells."""

    factor: Number
    """What the global update is multiplied by."""
    momentum: Number = 0.0
    """What the sum of the updates before it is multiplied by."""


class Directive(Value):
    """A lease: what the client does next, alone. The fields are those of the proto."""

    number: int = 0
    phase: Phase
    stage: StageNumber = -1
    n_steps: Steps
    profile: ProfileField | None = None
    restore: bool = False
    snapshot: bool = False
    batches: BatchSource = BatchSource.FRESH
    validate_at: tuple[Steps, ...] = ()
    give_up_above: float | None = None
    report_every: Steps = 0
    promise: tuple[Bar, ...] = ()
    """Ascending by `from_step`; the last bar that a report has reached counts."""
    measures: Measures = ()
    """What is measured at every step besides the loss, by name."""
    warnings: tuple[EarlyWarning, ...] = ()
    """What a probe ends by before it diverges, of what it measures."""
    alongside: tuple[Directive, ...] = ()
    """The next directives, which the members of a population try at the same time as this one."""
    taken_along: bool = False
    """Whether it was told beforehand, and tried by then: its steps are none of the job's."""
    apart: bool = False
    """Whether it is a probe on a replica of the model by itself; otherwise all replicas are as one."""
    change: PlanChange | None = None
    """The change of the plan that takes effect with it; its `total_steps` is that of the run from here on."""
    average: Average | None = None
    """What average of the weights is kept from the first step on; its rest goes on with it."""
    round: RoundStep | None = None
    """How the round of a federation that has ended is taken on before the first step; None: none has."""
    reason: Text = ""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Directive:
        if (self.phase is Phase.STOP) != (self.n_steps == 0):
            raise ValueError("a directive has steps, unless it says stop")
        if (self.profile is None) != (self.n_steps == 0):
            raise ValueError("a directive with steps has a profile")
        if self.profile is not None and max(self.profile.length, self.profile.offset) > LONGEST_PROFILE:
            raise ValueError(f"a profile has no more than {LONGEST_PROFILE} steps")
        if self.validate_at and max(self.validate_at) > self.n_steps:
            raise ValueError("validation past the end of the directive")
        if len(set(self.measures)) < len(self.measures):
            raise ValueError("a measure is asked for twice")
        if self.average is not None and not self.phase.committed:
            raise ValueError("an average is of steps that stay")
        if self.round is not None and not self.phase.committed:
            raise ValueError("a round of a federation begins with steps that stay")
        if self.warnings:
            if self.phase is not Phase.PROBE:
                raise ValueError("an early warning is for a probe")
            if {warning.measure for warning in self.warnings} - set(self.measures):
                raise ValueError("an early warning looks at what is measured")
        return self

    @pydantic.model_validator(mode="after")
    def _alike(self) -> Directive:
        if self.apart and (self.phase is not Phase.PROBE or self.validate_at or self.measures):
            raise ValueError("replicas have probes by themselves, with no validation and no measure")
        if (self.alongside or self.taken_along) and not self.apart:
            raise ValueError("what is tried at the same time is tried on a replica by itself")
        for other in self.alongside:
            if not other.apart:
                raise ValueError("what is tried at the same time is tried on a replica by itself")
            if (other.n_steps, other.batches) != (self.n_steps, self.batches):
                raise ValueError("probes that are tried at the same time have as many steps, on the same batches")
            if other.alongside:
                raise ValueError("a probe that is told beforehand tells no further ones")
        return self

    def next_alongside(self) -> Directive:
        """The next one of those that were tried at the same time as this one."""
        first, *others = self.alongside
        return first.model_copy(update={"alongside": tuple(others), "taken_along": True})

    def after(self, n_steps: int) -> Directive:
        """The rest of this directive once `n_steps` of it are done (numbered anew by the job)."""
        assert self.profile is not None
        return self.model_copy(
            update={
                "n_steps": self.n_steps - n_steps,
                "profile": self.profile.after(n_steps),
                "restore": False,
                "snapshot": False,
                "change": None,
                "round": None,
                "validate_at": tuple(validations_left(self.validate_at, n_steps)),
                "promise": tuple(
                    bar.model_copy(update={"from_step": bar_begins(bar.from_step, n_steps)}) for bar in self.promise
                ),
            }
        )


class Validation(Value):
    """A validation loss, after `step` steps of the directive."""

    step: Steps
    loss: float


class Replacement(Value):
    """What a client did instead of a directive."""

    profile: ProfileField | None = None
    """The profile of the steps whose losses are reported; None if there are none."""
    wasted_steps: Steps = 0
    """Further steps, which were rolled back."""


class Ending(Value):
    """What came of an average of the weights, at the end of the committed steps that it was kept over."""

    last: float | None = None
    """The validation of the last weights; None: they can't be validated, or that failed."""
    average: float | None = None
    """The validation of the average."""
    adopted: Weights
    """Which of them the model is left with if the run ends here."""
    memory_steps: Annotated[float, pydantic.Field(ge=1, allow_inf_nan=False)]
    """That of the directive's average."""


class Report(Value):
    """What came of directive `directive_number`: the loss of every step that was run."""

    directive_number: int
    outcome: Outcome
    losses: tuple[float, ...]
    validations: tuple[Validation, ...] = ()
    wall_time_s: float = 0.0
    replacement: Replacement | None = None
    """What a report with outcome REPLACED tells."""
    note: str = pydantic.Field(default="", max_length=MAX_NOTE)
    """What the client saw, and what it may be: with outcome UNREPEATABLE, or of a directive's warnings."""
    measures: Mapping[MeasureName, tuple[float, ...]] = pydantic.Field(default_factory=dict, max_length=MAX_MEASURES)
    """Series by name: one value a step, NaN where a step has none. A measure that could not be taken is missing."""
    change: PlanChange | None = None
    """A change of the plan; after steps that are not to stay it waits until steps are committed again."""
    ending: Ending | None = None
    """What came of the directive's average; None: it has none, or could not keep it, or is not at its end."""

    @property
    def n_steps(self) -> int:
        """How many steps were run."""
        return len(self.losses)

    @property
    def run_steps(self) -> int:
        """How many steps were run, those included that a client rolled back by itself."""
        return self.n_steps + (0 if self.replacement is None else self.replacement.wasted_steps)


def opening_loss(losses: Sequence[float]) -> float | None:
    """The loss that a report begins with; None: it has none, or that is no number."""
    return losses[0] if len(losses) and math.isfinite(losses[0]) else None


class Candidate(Value):
    """One try of a stage, as the policy judged it: a forecast, or, of a probe that diverged, only `at_least`."""

    directive_number: DirectiveNumber
    lr: Lr
    forecast: float | None = None
    forecast_sd: float | None = None
    raw_forecast: float | None = None
    """The forecast as the curve gave it, before any bound. It ranks forecasts that a bound made equal."""
    at_least: float | None = None
    """What the loss of a probe that diverged is known to have reached."""

    @property
    def loss(self) -> float:
        """What candidates are compared by: the forecast; infinite for a probe that diverged."""
        return math.inf if self.forecast is None else self.forecast

    @property
    def rank(self) -> tuple[float, float]:
        """What the best candidate has lowest: the loss; where a bound made some equal, what the curve itself said."""
        return self.loss, self.loss if self.raw_forecast is None else self.raw_forecast

    @property
    def diverged(self) -> bool:
        """Whether the probe gave no forecast."""
        return self.forecast is None

    @property
    def measured(self) -> bool:
        """Whether the forecast is the probe's own end: a measurement, which has no standard error."""
        return self.forecast is not None and not self.forecast_sd


def best_candidate(candidates: Iterable[Candidate]) -> Candidate | None:
    """The candidate with the lowest loss; None: there is none, or all diverged."""
    sound = (candidate for candidate in candidates if not candidate.diverged)
    return min(sound, key=lambda candidate: candidate.rank, default=None)


class PosteriorCurve(Value):
    """What the surrogate thought, over a grid of LRs."""

    lr: Annotated[tuple[Lr, ...], pydantic.Field(min_length=1)]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    acquisition: tuple[float, ...]

    @pydantic.model_validator(mode="after")
    def _of_one_length(self) -> PosteriorCurve:
        if not len(self.lr) == len(self.mean) == len(self.sd) == len(self.acquisition):
            raise ValueError("lr, mean, sd and acquisition have one value for every LR")
        return self


class Asked(Value):
    """What a decision asked of the search: the LR with the highest acquisition between two others."""

    acquisition: Text
    """The name of the acquisition function, in the words that pages show."""
    kappa: Number | None = None
    """How many standard deviations the lower confidence bound lies below the mean; None: it is another acquisition."""
    low: Lr
    """The lowest LR that could be chosen."""
    high: Lr
    """The highest one."""


class Extrapolation(Value):
    """Where the losses of a probe were said to lead, had its LR been kept."""

    forecaster: Text
    """What extrapolated them, as the registry of forecasters names it."""
    horizon: Steps
    """How many committed steps, from the start of the stage on, it reaches over."""
    losses: tuple[float, ...]
    """The curve, at points that are evenly apart from the first of those steps to the last one."""


class Setback(Value):
    """Committed steps that were rolled back."""

    lr: float
    """Their peak."""
    loss: float | None = None
    """The median loss of the last report, or its last validation; None: they diverged."""
    bar: float | None = None
    """The bar that the loss is above."""
    start_loss: float | None = None
    """The mean loss before the first step."""
    gain: float | None = None
    """What the best probe gained from there; what the run itself had gained, if `reached` is told."""
    reached: float | None = None
    """The lowest level that the run had itself and has lost; None: it fell short of its best probe, or diverged."""
    validated: bool = False
    """Whether all of these are validations, and not training losses."""


class Decision(Value):
    """The evidence behind a directive: what was known, what was thought, what was chosen and why."""

    stage: StageNumber
    lr: Lr
    reason: Text
    candidates: tuple[Candidate, ...] = ()
    posterior: PosteriorCurve | None = None
    setback: Setback | None = None
    """Why committed steps begin anew."""
    forecast: float | None = None
    """The loss that the committed steps should end below, as the search has seen it; validation where there is one."""
    forecast_sd: float | None = None
    optimum: Lr | None = None
    """The best LR over a probe."""
    correction: Lr | None = None
    """What the optimum was multiplied by for the length of the run. `lr` differs from their product only as `drawn_to`
    and `lowered_by` say."""
    drawn_to: Lr | None = None
    """The LR that the user had set, where `lr` was drawn towards it."""
    lowered_by: Lr | None = None
    """What `lr` was divided by, as committed steps at higher LRs had been rolled back."""
    asked: Asked | None = None
    """None: nothing was asked of the search."""
    extrapolation: Extrapolation | None = None
    """What the best candidate was judged by; None: it was measured, or nothing is committed yet."""
    stopping: Stopping | None = None
    """Why the run is annealed before its end; None: it is not, or somebody asked for that."""
