"""Policy `fedhyper`: federated averaging whose global step, or whose local LR, follows from products of updates.

The method is FedHyper (Wang, Wang, Li 2024, arXiv 2310.03156; `core.stages.fedhyper`). Each client of a federation is a
job of its own (`lrpilot.federated.Client`), and decides by its own reports. The global update is the same on all, and
so is what follows from it.

A directive is a round of so many local steps, or with CL a part of one. What came of a round is reported with its last
step, and the next directive says how it is taken on (`Directive.round`). A snapshot is taken at the beginning of every
round: a client whose losses are no numbers goes back there, at a lower LR, and the others wait for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import pydantic
from lrpilot.wire.profile import Profile

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence import restart
from tuner_server.core.evidence.lessons import Lessons
from tuner_server.core.messages import (
    BatchSource,
    ChangeKind,
    Directive,
    PlanChange,
    Report,
    RoundStep,
)
from tuner_server.core.policies.base import Options, Policy, PolicyState, Progress, Step
from tuner_server.core.stages import committed, final_decay
from tuner_server.core.stages.fedhyper import Variant, added, momentum_weight, multiplied
from tuner_server.core.stages.hypergradient import cosine
from tuner_server.core.stages.plan_change import because
from tuner_server.core.values import Number

ROUND_NORM, ROUND_PRODUCT = "round_norm", "round_product"
MOMENTUM_NORM, MOMENTUM_PRODUCT = "round_momentum_norm", "round_momentum_product"
LOCAL_NORM, LOCAL_BEFORE_NORM = "local_norm", "local_before_norm"
LOCAL_PRODUCT, LOCAL_ROUND_PRODUCT = "local_product", "local_round_product"
"""What clients measure, by the names that they know: |D_t|, <D_t, D_(t-1)>, |M_(t-1)|, <D_t, M_(t-1)>; |d_k|,
|d_(k-1)|, <d_k, d_(k-1)>, <d_k, D_(t-1)>."""
NEEDED = {
    Variant.G: (ROUND_NORM, ROUND_PRODUCT),
    Variant.GM: (ROUND_NORM, MOMENTUM_NORM, MOMENTUM_PRODUCT),
    Variant.SL: (ROUND_NORM, ROUND_PRODUCT),
    Variant.CL: (ROUND_NORM, LOCAL_NORM, LOCAL_BEFORE_NORM, LOCAL_PRODUCT, LOCAL_ROUND_PRODUCT),
}
VALIDATION_STEPS = 500
"""Steps between two validations."""


class FedHyperOptions(Options):
    """The constants of the method."""

    variant: Variant = Variant.GM
    """What is adapted, and how."""
    local_steps: int = pydantic.Field(default=20, ge=1, le=1_000_000)
    """Local steps of a round."""
    published: bool = False
    """Whether products count as they are; otherwise their cosines do, times `rate`."""
    rate: float = pydantic.Field(default=0.3, gt=0, le=1)
    """What cosines are multiplied by."""
    every: int = pydantic.Field(default=5, ge=1, le=1_000_000)
    """Local steps between two reports of CL."""
    clients: int = pydantic.Field(default=10, ge=1)
    """Clients of a round, which share the weight of the global update in CL."""
    lowest: float | None = pydantic.Field(default=None, gt=0)
    """The lowest factor; None: 0.2 for G, 0.8 for GM, 0.1 for SL and CL."""
    highest: float | None = pydantic.Field(default=None, gt=0)
    """The highest factor; None: 5 for G and GM, 10 for SL and CL."""


class FedHyperState(Lessons, PolicyState):
    """Between two directives."""

    factor: Number = 1.0
    """a_t of G and GM; what the local LR is multiplied by with SL and CL."""
    round_norm: Number | None = None
    """|D_t| of the last round that told it."""


class FedHyper(Policy[FedHyperOptions, FedHyperState]):
    """One client of a federation."""

    name = "fedhyper"
    options_type = FedHyperOptions
    state_type = FedHyperState

    def check(self) -> None:
        """Refuses a job that is no client, and bounds that hold nothing. Raises: InvalidInputError."""
        missing = ", ".join(name for name in NEEDED[self.options.variant] if name not in self.config.measures)
        if missing:
            message = f"policy fedhyper needs {missing}: use lrpilot.federated.Client, or leave the policy out"
            raise InvalidInputError.of("measures", message)
        low, high = self._bounds
        if not low <= 1.0 <= high:
            message = f"the factor begins at 1, which is not between {low:g} and {high:g}"
            raise InvalidInputError.of("policy_options.lowest", message)

    @property
    def searches(self) -> bool:
        """It tries nothing."""
        return False

    @property
    def _bounds(self) -> tuple[float, float]:
        low, high = self.options.variant.bounds
        return self.options.lowest or low, self.options.highest or high

    @property
    def _local(self) -> bool:
        """Whether it is the local LR that is adapted."""
        return self.options.variant in (Variant.SL, Variant.CL)

    def start(self, progress: Progress) -> Step[FedHyperState]:
        """The first round, at the LR that was set."""
        return self._go_on(FedHyperState(), progress, "the first round, at the LR that was set")

    def advance(
        self, state: FedHyperState, directive: Directive, report: Report, progress: Progress
    ) -> Step[FedHyperState]:
        """The next round or part of one; after losses that were no numbers, at a lower LR."""
        setback = restart.setback(directive, report, progress.reported_steps) if report.outcome.rolls_back else None
        if setback is not None:
            state = state.set_back(setback)
        state, reason, ended = self._after(state, report)
        if setback is not None:
            reason = f"diverged at {setback.lr:.3g}: a lower LR from here on{restart.doubt(state.restarts)}"
        step = self._go_on(state, progress, reason, ended=ended)
        if setback is None or step.decision is None:
            # A round is decided with the first one; its reason tells what moved the factor.
            return dataclasses.replace(step, decision=None)
        update = {"setback": setback, "lowered_by": restart.RETREAT}
        return Step(step.state, step.directive, step.decision.model_copy(update=update))

    def rejoin(self, state: FedHyperState, progress: Progress) -> Step[FedHyperState]:
        """Goes on where it was; the rounds in between were averaged as they are."""
        return self._go_on(self._begun_round(state), progress, "joined again")

    def replan(self, state: FedHyperState, change: PlanChange, progress: Progress) -> Step[FedHyperState]:
        """Goes on in the new plan."""
        if change.kind is ChangeKind.ANNEAL:
            answer = super().replan(state, change, progress)
            assert isinstance(answer, Step)
            return answer
        return self._go_on(self._begun_round(state), progress, because(change))

    def without_search(self, state: FedHyperState, progress: Progress, reason: str) -> Step[FedHyperState]:
        """Goes on at the LR that was set."""
        return self._go_on(state.model_copy(update={"factor": 1.0}), progress, f"{reason}: the LR that was set")

    def _begun_round(self, state: FedHyperState) -> FedHyperState:
        """The state at the beginning of a round: CL begins each at the LR that was set."""
        return state.model_copy(update={"factor": 1.0}) if self.options.variant is Variant.CL else state

    def _after(self, state: FedHyperState, report: Report) -> tuple[FedHyperState, str, bool]:
        """The state after a report, why, and whether a round has ended with it."""
        own = {name: report.measures.get(name, (math.nan,) * report.n_steps) for name in NEEDED[self.options.variant]}
        before, norm = state.factor, own[ROUND_NORM][-1] if report.n_steps else math.nan
        ended = math.isfinite(norm)
        if self.options.variant is Variant.CL:
            factor = self._multiplied(state, own)
            what = "the local LR"
        else:
            factor = added(before, self._product(state, own), self._bounds) if ended else before
            what = "the local LR" if self._local else "the global step"
        update: dict[str, float] = {"factor": factor} | ({"round_norm": norm} if ended else {})
        state = state.model_copy(update=update)
        reason = f"{what} goes from {before:.3f} to {factor:.3f} times what it is without"
        if factor == before:
            reason = f"{what} stays at {factor:.3f} times what it is without"
        return (self._begun_round(state) if ended else state), reason, ended

    def _product(self, state: FedHyperState, own: Mapping[str, Sequence[float]]) -> float:
        """The product that a round tells, or the cosine times the rate."""
        momentum = self.options.variant is Variant.GM
        product = own[MOMENTUM_PRODUCT if momentum else ROUND_PRODUCT][-1]
        if self.options.published:
            return product
        other = own[MOMENTUM_NORM][-1] if momentum else state.round_norm
        return self.options.rate * cosine(product, own[ROUND_NORM][-1], math.nan if other is None else other)

    def _multiplied(self, state: FedHyperState, own: Mapping[str, Sequence[float]]) -> float:
        """The factor of CL after some local steps."""
        whole, local = own[LOCAL_ROUND_PRODUCT], own[LOCAL_PRODUCT]
        if not self.options.published:
            rate, norm = self.options.rate, math.nan if state.round_norm is None else state.round_norm
            whole = [rate * cosine(x, d, norm) for x, d in zip(whole, own[LOCAL_NORM], strict=True)]
            pairs = zip(local, own[LOCAL_NORM], own[LOCAL_BEFORE_NORM], strict=True)
            local = [rate * cosine(*pair) for pair in pairs]
        return multiplied(state.factor, whole, local, self.options.clients, self._bounds)

    def _go_on(
        self, state: FedHyperState, progress: Progress, reason: str, *, ended: bool = False
    ) -> Step[FedHyperState]:
        """The next steps, after the end of a round or within one."""
        done, left = progress.committed_steps, progress.remaining_steps
        begun = done % self.options.local_steps
        n_steps = self.options.local_steps - begun
        if self.options.variant is Variant.CL:
            n_steps = min(n_steps, self.options.every)
        n_steps = n_steps if left is None else min(n_steps, left)
        base = final_decay.lr_that_was_set(state, self.config.base_lr * (state.factor if self._local else 1.0), reason)
        decision = base.model_copy(update={"stage": 0})
        validates = self.config.has_validation and done // VALIDATION_STEPS < (done + n_steps) // VALIDATION_STEPS
        directive = committed.directive(
            Profile.constant(decision.lr, n_steps),
            stage=0,
            batches=BatchSource.FRESH,
            n_validations=int(validates),
            give_up_above=None,
            promise=(),
            reason=decision.reason,
        )
        update = {
            "measures": NEEDED[self.options.variant],
            "report_every": 0,
            "snapshot": begun == 0,
            "round": self._taken_on(state) if ended else None,
        }
        return Step(state, directive.model_copy(update=update), decision)

    def _taken_on(self, state: FedHyperState) -> RoundStep:
        """How the update of the round that has ended is taken on."""
        if self._local:
            return RoundStep(factor=1.0)
        momentum = momentum_weight(state.factor) if self.options.variant is Variant.GM else 0.0
        return RoundStep(factor=state.factor, momentum=momentum)
