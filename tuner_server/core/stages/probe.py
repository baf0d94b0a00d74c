"""A probe: the directive that tries an LR, and the candidate that comes of it."""

from __future__ import annotations

import dataclasses

from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.evidence.divergence import level_reached
from tuner_server.core.forecast import Forecast
from tuner_server.core.messages import BatchSource, Candidate, Directive, EarlyWarning, Outcome, Phase, Report
from tuner_server.core.stages.decayed_probe import end_loss


@dataclasses.dataclass(frozen=True, slots=True)
class ProbePlan:
    """What the probes of a search have in common.

    Attributes:
        moving_steps: steps that move the weights, at least 1.
        held_out: steps after them, at LR zero, whose batches say where the probe has come; 0: a validation does, or
            its losses are extrapolated.
        decays: whether the LR falls to zero; if not, it is constant.
        warmup: part of the moving steps in which the LR rises.
        batches: where they come from.
        apart: whether each is on a replica of the model by itself.
        warnings: what ends one before it diverges. It has what they look at measured.
    """

    moving_steps: int
    held_out: int = 0
    decays: bool = True
    warmup: float = 0.0
    batches: BatchSource = BatchSource.REPLAYED
    apart: bool = False
    warnings: tuple[EarlyWarning, ...] = ()

    @property
    def n_steps(self) -> int:
        """What the probe costs."""
        return self.moving_steps + self.held_out

    def validations(self, *, validates: bool, first: bool) -> tuple[int, ...]:
        """The steps after which a decaying probe is validated: at its end, and the first one before it begins, too.

        Args:
            validates: whether the job has a validation. Replicas by themselves have none.
            first: whether it is the first one of its search: it is then known what a probe gains.
        """
        if not validates or self.apart:
            return ()
        return (0, self.moving_steps) if first else (self.moving_steps,)

    def directive(
        self, lr: float, *, stage: int, validate_at: tuple[int, ...], give_up_above: float | None, reason: str
    ) -> Directive:
        """The probe of one LR."""
        n_steps = self.moving_steps
        shape = Shape.LINEAR if self.decays else Shape.CONSTANT
        return Directive(
            phase=Phase.PROBE,
            stage=stage,
            n_steps=self.n_steps,
            profile=Profile.to_zero(shape, lr, n_steps, warmup=min(round(n_steps * self.warmup), n_steps - 1)),
            batches=self.batches,
            apart=self.apart,
            validate_at=validate_at,
            give_up_above=give_up_above,
            measures=tuple(dict.fromkeys(warning.measure for warning in self.warnings)),
            warnings=self.warnings,
            reason=reason,
        )

    def judged(self, directive: Directive, report: Report, start_loss: float | None) -> Candidate:
        """The candidate of a probe that decays, by its end; `start_loss` is what it began with, if that is known."""
        if report.outcome is Outcome.DIVERGED:
            return diverged(directive, report, start_loss)
        return measured(directive, report, self.held_out)


def diverged(directive: Directive, report: Report, start_loss: float | None) -> Candidate:
    """The candidate of a probe that diverged: its loss is at least what was seen."""
    return Candidate(directive_number=directive.number, lr=_peak(directive), at_least=level_reached(report, start_loss))


def measured(directive: Directive, report: Report, held_out: int) -> Candidate:
    """The candidate of a probe that is judged by its end: its validation, or the batches that it held out, or its last.

    It has no standard error: all candidates see the same batches, so what is left is for the surrogate to find out.
    """
    loss = end_loss(report, max(held_out, 1))
    return Candidate(directive_number=directive.number, lr=_peak(directive), forecast=loss, forecast_sd=0.0)


def extrapolated(directive: Directive, forecast: Forecast) -> Candidate:
    """The candidate of a probe that is judged by where its losses lead."""
    return Candidate(
        directive_number=directive.number,
        lr=_peak(directive),
        forecast=forecast.loss,
        forecast_sd=forecast.sd,
        raw_forecast=forecast.raw,
    )


def _peak(directive: Directive) -> float:
    assert directive.profile is not None
    return directive.profile.start_lr
