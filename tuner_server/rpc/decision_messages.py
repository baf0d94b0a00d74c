"""Between the wire's decisions and the core's, both ways side by side."""

from __future__ import annotations

from typing import Any

from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.core.messages import Asked, Candidate, Decision, Extrapolation, PosteriorCurve, Setback
from tuner_server.core.stop_evidence import Stopping
from tuner_server.rpc.untrusted import optional, read_as


def decision_from_pb(message: pb.Decision) -> Decision:
    """A decision. Raises: InvalidInputError."""
    with read_as("decision"):
        return Decision(
            stage=message.stage - 1,
            lr=message.lr,
            reason=message.reason,
            candidates=tuple(_candidate_from_pb(candidate) for candidate in message.candidates),
            posterior=_posterior_from_pb(message.posterior) if message.HasField("posterior") else None,
            setback=_setback_from_pb(message.setback) if message.HasField("setback") else None,
            forecast=optional(message, "forecast"),
            forecast_sd=optional(message, "forecast_sd"),
            optimum=optional(message, "optimum"),
            correction=optional(message, "correction"),
            drawn_to=optional(message, "drawn_to"),
            lowered_by=optional(message, "lowered_by"),
            asked=_asked_from_pb(message.asked) if message.HasField("asked") else None,
            extrapolation=_extrapolation_from_pb(message.extrapolation) if message.HasField("extrapolation") else None,
            stopping=_stopping_from_pb(message.stopping) if message.HasField("stopping") else None,
        )


def decision_to_pb(number: int, decision: Decision) -> pb.Decision:
    """The evidence behind directive `number`."""
    return pb.Decision(
        directive_number=number,
        stage=decision.stage + 1,
        lr=decision.lr,
        reason=decision.reason,
        candidates=map(_candidate_to_pb, decision.candidates),
        posterior=_posterior_to_pb(decision.posterior) if decision.posterior else None,
        setback=_setback_to_pb(decision.setback) if decision.setback else None,
        forecast=decision.forecast,
        forecast_sd=decision.forecast_sd,
        optimum=decision.optimum,
        correction=decision.correction,
        drawn_to=decision.drawn_to,
        lowered_by=decision.lowered_by,
        asked=_asked_to_pb(decision.asked) if decision.asked else None,
        extrapolation=_extrapolation_to_pb(decision.extrapolation) if decision.extrapolation else None,
        stopping=pb.Stopping(**dict(decision.stopping)) if decision.stopping else None,
    )


def _candidate_from_pb(message: pb.Candidate) -> Candidate:
    return Candidate(
        directive_number=message.directive_number,
        lr=message.lr,
        forecast=optional(message, "forecast"),
        forecast_sd=optional(message, "forecast_sd"),
        at_least=optional(message, "at_least"),
        raw_forecast=optional(message, "raw_forecast"),
    )


def _candidate_to_pb(candidate: Candidate) -> pb.Candidate:
    return pb.Candidate(
        directive_number=candidate.directive_number,
        lr=candidate.lr,
        forecast=candidate.forecast,
        forecast_sd=candidate.forecast_sd,
        at_least=candidate.at_least,
        raw_forecast=candidate.raw_forecast,
    )


def _posterior_from_pb(message: pb.Posterior) -> PosteriorCurve:
    return PosteriorCurve(
        lr=tuple(message.lr), mean=tuple(message.mean), sd=tuple(message.sd), acquisition=tuple(message.acquisition)
    )


def _posterior_to_pb(curve: PosteriorCurve) -> pb.Posterior:
    return pb.Posterior(lr=curve.lr, mean=curve.mean, sd=curve.sd, acquisition=curve.acquisition)


def _setback_from_pb(message: pb.Setback) -> Setback:
    return Setback(
        lr=message.lr,
        loss=optional(message, "loss"),
        bar=optional(message, "bar"),
        start_loss=optional(message, "start_loss"),
        gain=optional(message, "gain"),
        reached=optional(message, "reached"),
        validated=message.validated,
    )


def _setback_to_pb(setback: Setback) -> pb.Setback:
    return pb.Setback(
        lr=setback.lr,
        loss=setback.loss,
        bar=setback.bar,
        start_loss=setback.start_loss,
        gain=setback.gain,
        reached=setback.reached,
        validated=setback.validated,
    )


def _asked_from_pb(message: pb.Asked) -> Asked:
    return Asked(acquisition=message.acquisition, kappa=optional(message, "kappa"), low=message.low, high=message.high)


def _asked_to_pb(asked: Asked) -> pb.Asked:
    return pb.Asked(acquisition=asked.acquisition, kappa=asked.kappa, low=asked.low, high=asked.high)


def _extrapolation_from_pb(message: pb.Extrapolation) -> Extrapolation:
    with read_as("decision.extrapolation"):
        return Extrapolation(forecaster=message.forecaster, horizon=message.horizon, losses=tuple(message.losses))


def _extrapolation_to_pb(curve: Extrapolation) -> pb.Extrapolation:
    return pb.Extrapolation(forecaster=curve.forecaster, horizon=curve.horizon, losses=curve.losses)


def _stopping_from_pb(message: pb.Stopping) -> Stopping:
    with read_as("decision.stopping"):
        return Stopping.model_validate({name: _plain(getattr(message, name)) for name in Stopping.model_fields})


def _plain(value: Any) -> Any:
    """A field of a message; a repeated one as a tuple."""
    return value if isinstance(value, (int, float)) else tuple(value)
