"""Policy `hypergradient`: no probes; the LR is adapted by the product of each gradient and the direction before it.

The method is hypergradient descent (Baydin et al. 2018, arXiv 1703.04782; `core.stages.hypergradient`). The published
one adapts at every step, before the step. Here the client reports products after every few steps, and the LR of the
next ones follows: it lags by the steps of a directive.

The method is greedy: the LR that lowers the next loss most is one that takes noise away, so it falls too early
(short-horizon bias, Wu et al. 2018, arXiv 1803.02021). So what is adapted is the peak of a linear decay over the whole
run, in its first part alone; then the decay goes on to zero. A run whose end is not known is adapted all the time.

Notation: s, the committed steps so far; R, those that are left; P = R / (s + R), the part of the peak that the LR has.
"""

from __future__ import annotations

import dataclasses
import math

import pydantic
from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.evidence import restart
from tuner_server.core.evidence.divergence import DIVERGENCE_FACTOR
from tuner_server.core.evidence.lessons import Lessons
from tuner_server.core.messages import BatchSource, ChangeKind, Decision, Directive, PlanChange, Report
from tuner_server.core.policies.base import Options, Policy, PolicyState, Progress, Step
from tuner_server.core.stages import committed, final_decay, rewarm
from tuner_server.core.stages.hypergradient import Adapted, Form, Rule, cosine
from tuner_server.core.stages.plan_change import because

PRODUCT, GRADIENT_NORM, UPDATE_NORM = "update_product", "gradient_norm", "update_norm"
"""What the client measures, by the names that clients know."""
NEEDED = {
    Form.MULTIPLICATIVE: (PRODUCT, GRADIENT_NORM, UPDATE_NORM),
    Form.SCALED: (PRODUCT, GRADIENT_NORM),
    Form.ADDITIVE: (PRODUCT,),
}
RATES = {Form.MULTIPLICATIVE: 0.02, Form.SCALED: 0.02, Form.ADDITIVE: 1e-3}
"""The rates by default. That of the additive form is the paper's for SGD on its networks."""
BLIND_FACTOR = 1000.0
"""How far the LR may go from the one that was set, up or down, where no bounds are given."""
FIRST_SNAPSHOT, SNAPSHOTS_APART = 100, 10_000
"""A snapshot is taken when the steps have doubled, from so many on, and after so many at most: a divergence goes back
there."""
PLAIN_STEPS = 1000
"""Steps of a directive that adapts nothing, in a run without an end."""
VALIDATIONS, VALIDATION_STEPS = 10, 500
"""Validations over a run, for those who watch; one every so many steps of a run without an end."""
RISE = 0.05
"""Part of the rest of a run in which the LR rises, where its plan has changed."""


class HypergradientOptions(Options):
    """The constants of the method."""

    form: Form = Form.MULTIPLICATIVE
    """How the LR follows from the products."""
    rate: float | None = pydantic.Field(default=None, gt=0)
    """How fast; None: 0.02, and 0.001 in the additive form."""
    every: int = pydantic.Field(default=10, ge=1, le=1000)
    """Steps between two reports: the LR stays for so many, and then is adapted as many times."""
    adapt_share: float = pydantic.Field(default=0.3, ge=0, le=1)
    """Part of the committed steps in which the LR is adapted, where the end is known."""


class HypergradientState(Lessons, PolicyState):
    """Between two directives."""

    peak: Adapted
    """The LR that is adapted: that of the run's first step, had it been known then."""
    next_snapshot: int = FIRST_SNAPSHOT
    """The committed steps after which one is taken."""


class Hypergradient(Policy[HypergradientOptions, HypergradientState]):
    """Adapts the LR as it goes, from the one that was set."""

    name = "hypergradient"
    options_type = HypergradientOptions
    state_type = HypergradientState

    @property
    def searches(self) -> bool:
        """It tries nothing."""
        return False

    @property
    def rule(self) -> Rule:
        """How the LR is adapted."""
        base, bounds = self.config.base_lr, self.config.lr_bounds
        low, high = (base / BLIND_FACTOR, base * BLIND_FACTOR) if bounds is None else (bounds.min, bounds.max)
        rate = RATES[self.options.form] if self.options.rate is None else self.options.rate
        return Rule(self.options.form, rate, base, min(low, base), max(high, base))

    @property
    def _missing(self) -> str:
        """What the client can't measure; empty: it can measure all that is needed."""
        return ", ".join(name for name in NEEDED[self.options.form] if name not in self.config.measures)

    def start(self, progress: Progress) -> Step[HypergradientState]:
        """The LR that was set."""
        state = HypergradientState(peak=Adapted.begin(self.config.base_lr))
        return self._go_on(state, progress, "the LR that was set, to begin with")

    def advance(
        self, state: HypergradientState, directive: Directive, report: Report, progress: Progress
    ) -> Step[HypergradientState]:
        """Goes on at the LR that the products lead to; at a lower one after committed steps that diverged."""
        if report.outcome.rolls_back:
            return self._after_setback(state, directive, report, progress)
        if not directive.measures:
            return self._go_on(state, progress, "the LR that the run has")
        assert directive.profile is not None
        state = state.taught(directive.profile.peak, report, None)
        peak = self.rule.after(state.peak, *self._series(report))
        reason = self._told(state.peak.lr, peak, report)
        step = self._go_on(state.model_copy(update={"peak": peak}), progress, reason)
        # A piece of the way is decided with the first one; its reason tells what moved the LR.
        return dataclasses.replace(step, decision=None) if step.directive.measures else step

    def rejoin(self, state: HypergradientState, progress: Progress) -> Step[HypergradientState]:
        """Goes on where it was."""
        return self._go_on(state, progress, "joined again")

    def replan(self, state: HypergradientState, change: PlanChange, progress: Progress) -> Step[HypergradientState]:
        """Keeps the peak in the new plan, or has it follow the batch size where that has changed."""
        if change.kind is ChangeKind.ANNEAL:
            answer = super().replan(state, change, progress)
            assert isinstance(answer, Step)
            return answer
        rule = self.rule
        lr = min(max(state.peak.lr * change.lr_factor, rule.low), rule.high)
        state = state.model_copy(update={"peak": Adapted.begin(lr)})
        return self._go_on(state, progress, because(change), present_lr=progress.present_lr)

    def without_search(self, state: HypergradientState, progress: Progress, reason: str) -> Step[HypergradientState]:
        """The LR that was set, which stays."""
        decision = final_decay.lr_that_was_set(state, self.config.base_lr, f"{reason}: the LR that was set")
        return self._plain(state, decision, progress)

    def _series(self, report: Report) -> tuple[tuple[float, ...], ...]:
        """What was reported of products and norms; nothing where one that is needed is missing."""
        names = NEEDED[self.options.form]
        return tuple(report.measures[name] for name in names) if set(names) <= set(report.measures) else ((),)

    def _told(self, before: float, after: Adapted, report: Report) -> str:
        """Why the LR moved as it did."""
        products, *norms = self._series(report)
        known = [product for product in products if math.isfinite(product)]
        if not known:
            return "no product was reported, so the LR stays"
        if self.options.form is Form.MULTIPLICATIVE:
            cosines = [c for c in map(cosine, products, *norms) if not math.isnan(c)]
            mean = math.fsum(cosines) / max(len(cosines), 1)
            evidence = f"the mean cosine of {len(known)} gradients and the steps before them is {mean:+.2f}"
        else:
            evidence = f"the sum of {len(known)} products is {math.fsum(known):+.3g}"
        return f"{evidence}: the peak LR is multiplied by {after.lr / before:.3f}"

    def _go_on(
        self, state: HypergradientState, progress: Progress, reason: str, *, present_lr: float | None = None
    ) -> Step[HypergradientState]:
        """The next steps at the peak that was reached; to zero where there is nothing more to adapt."""
        if state.search_ended or self._missing:
            why = f"{reason}; the client can't measure {self._missing}, so the LR stays" if self._missing else reason
            return self._plain(state, final_decay.lr_that_was_set(state, self.config.base_lr, why), progress)
        done, left = progress.committed_steps, progress.remaining_steps
        until = math.inf if left is None else math.ceil(self.options.adapt_share * (done + left))
        lr = restart.lr_after_setbacks(state.peak.lr * self._part(progress), state.ceiling)
        decision = Decision(stage=0, lr=lr.lr, reason=reason + lr.note, lowered_by=lr.lowered_by)
        if done < until:
            return self._adapting(state, decision, progress, int(min(self.options.every, until - done)))
        return self._plain(state, decision, progress, present_lr)

    def _part(self, progress: Progress) -> float:
        """P: the part of the peak that the LR has now."""
        left = progress.remaining_steps
        return 1.0 if left is None else left / (progress.committed_steps + left)

    def _adapting(
        self, state: HypergradientState, decision: Decision, progress: Progress, n_steps: int
    ) -> Step[HypergradientState]:
        """Some steps of the way, at whose end the products are reported."""
        done, left = progress.committed_steps, progress.remaining_steps
        n_steps = n_steps if left is None else min(n_steps, left)
        profile = Profile.constant(decision.lr, n_steps)
        if left is not None:
            profile = Profile(Shape.LINEAR, decision.lr, decision.lr * (left - n_steps) / left, n_steps)
        apart = VALIDATION_STEPS if left is None else max((done + left) // VALIDATIONS, 1)
        validates = self.config.has_validation and done // apart < (done + n_steps) // apart
        directive = self._committed(state, decision, profile, int(validates))
        update = {"measures": NEEDED[self.options.form], "report_every": 0}
        if done >= state.next_snapshot:
            update["snapshot"] = True
            state = state.model_copy(update={"next_snapshot": done + min(done, SNAPSHOTS_APART)})
        return Step(state, directive.model_copy(update=update), decision)

    def _plain(
        self, state: HypergradientState, decision: Decision, progress: Progress, present_lr: float | None = None
    ) -> Step[HypergradientState]:
        """All that is left, decaying to zero, with nothing adapted; in a run without an end, some steps."""
        left = progress.remaining_steps
        if left is None:
            directive = self._committed(state, decision, Profile.constant(decision.lr, PLAIN_STEPS), 2)
        else:
            warmup = 0 if present_lr is None else int(left * RISE)
            profile = Profile.to_zero(Shape.LINEAR, decision.lr, left, warmup)
            profile = profile if present_lr is None else rewarm.risen(profile, present_lr)
            directive = self._committed(state, decision, profile, VALIDATIONS)
        return Step(state, directive.model_copy(update={"snapshot": True}), decision)

    def _committed(
        self, state: HypergradientState, decision: Decision, profile: Profile, n_validations: int
    ) -> Directive:
        return committed.directive(
            profile,
            stage=0,
            batches=BatchSource.REPLAYED,
            n_validations=n_validations if self.config.has_validation else 0,
            give_up_above=state.give_up_above(DIVERGENCE_FACTOR, decision.lr),
            promise=(),
            reason=decision.reason,
        )

    def _after_setback(
        self, state: HypergradientState, directive: Directive, report: Report, progress: Progress
    ) -> Step[HypergradientState]:
        """A lower LR from the last snapshot on. Raises: DivergenceError: it never helps."""
        setback = restart.setback(directive, report, progress.reported_steps)
        state = state.set_back(setback)
        lr = setback.lr / restart.RETREAT
        peak = Adapted.begin(min(lr / self._part(progress), state.peak.lr))
        state = state.model_copy(update={"peak": peak})
        reason = f"diverged at {setback.lr:.3g}: a lower LR from here on{restart.doubt(state.restarts)}"
        step = self._go_on(state, progress, reason)
        assert step.decision is not None
        decision = step.decision.model_copy(update={"setback": setback, "lowered_by": restart.RETREAT})
        return Step(step.state, step.directive, decision)
