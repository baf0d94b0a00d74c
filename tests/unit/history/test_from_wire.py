"""What decided a job comes over the wire whole: a page made elsewhere says what the server's own says."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.schedule_parts import merged
from lrpilot.wire.profile import Profile
from pydantic import BaseModel

from tests.support.jobs.sample_jobs import job_config, stored
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine
from tuner_server.core.messages import (
    MAX_STEPS,
    Asked,
    Candidate,
    Decision,
    Directive,
    Extrapolation,
    Phase,
    PosteriorCurve,
    Setback,
    best_candidate,
)
from tuner_server.core.stop_evidence import Stopping
from tuner_server.history.from_wire import job_and_history
from tuner_server.rpc.schedule_messages import schedule_to_pb
from tuner_server.storage import Entry, KnownHistory

STATE = machine.create(job_config("job")).state
DIRECTIVE = Directive(number=1, phase=Phase.PROBE, n_steps=3, profile=Profile.constant(0.1, 3))

floats = st.floats(allow_nan=False)
maybe = st.none() | floats
counts = st.integers(0, MAX_STEPS)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
lrs = st.floats(0, exclude_min=True, allow_infinity=False)
finite = st.floats(allow_nan=False, allow_infinity=False)


def series(size: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(floats, max_size=size).map(tuple)


def whole(model: type[BaseModel], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[BaseModel]:
    """Values of a model, any of whose fields may have any value: one that is new has to be named here."""
    assert fields.keys() == model.model_fields.keys()
    return st.builds(model, **fields)


def curves(n: int) -> st.SearchStrategy[BaseModel]:
    """Posteriors over n LRs."""
    values = {name: st.tuples(*[lrs if name == "lr" else floats] * n) for name in PosteriorCurve.model_fields}
    return whole(PosteriorCurve, **values)


candidates = whole(
    Candidate,
    directive_number=counts,
    lr=lrs,
    forecast=maybe,
    forecast_sd=maybe,
    raw_forecast=maybe,
    at_least=maybe,
)
points = st.lists(st.tuples(counts, finite), max_size=3)
stoppings = points.flatmap(
    lambda found: whole(
        Stopping,
        worth=lrs,
        gain=finite,
        gain_sd=finite,
        end_step=counts,
        open_ended=st.booleans(),
        floor=finite,
        scale=finite,
        exponent=finite,
        annealing=finite,
        memory=counts,
        layer=finite,
        steps=st.just(tuple(step for step, _ in found)),
        losses=st.just(tuple(loss for _, loss in found)),
    )
)
decisions = whole(
    Decision,
    stage=st.integers(-1, 2**31 - 2),
    lr=lrs,
    reason=texts,
    candidates=st.lists(candidates, max_size=3).map(tuple),
    posterior=st.none() | st.integers(1, 5).flatmap(curves),
    setback=st.none()
    | whole(
        Setback, lr=floats, loss=maybe, bar=maybe, start_loss=maybe, gain=maybe, reached=maybe, validated=st.booleans()
    ),
    forecast=maybe,
    forecast_sd=maybe,
    optimum=st.none() | lrs,
    correction=st.none() | lrs,
    drawn_to=st.none() | lrs,
    lowered_by=st.none() | lrs,
    asked=st.none() | whole(Asked, acquisition=texts, kappa=st.none() | finite, low=lrs, high=lrs),
    extrapolation=st.none() | whole(Extrapolation, forecaster=texts, horizon=counts, losses=series(5)),
    stopping=st.none() | stoppings,
)


@hypothesis.given(decisions)
def test_a_decision_comes_over_the_wire_as_it_is(decision: Decision) -> None:
    response = merged(schedule_to_pb(stored(STATE), KnownHistory([Entry(DIRECTIVE, decision, None)]), full=True))
    _, (entry,) = job_and_history(type(response).FromString(response.SerializeToString()))
    assert entry.decision == decision
    assert Decision.model_validate_json(decision.model_dump_json()) == decision, "and as JSON"


def test_forecasts_that_a_bound_made_equal_have_the_same_winner_here_and_elsewhere() -> None:
    slow, fast = (
        Candidate(directive_number=number, lr=0.1 * number, forecast=0.0, forecast_sd=0.1, raw_forecast=raw)
        for number, raw in ((1, -1.0), (2, -5.0))
    )
    decision = Decision(stage=0, lr=0.2, reason="the lowest forecast", candidates=(slow, fast))
    response = merged(schedule_to_pb(stored(STATE), KnownHistory([Entry(DIRECTIVE, decision, None)]), full=True))
    _, (entry,) = job_and_history(response)
    assert entry.decision is not None
    assert best_candidate(entry.decision.candidates) == best_candidate(decision.candidates) == fast


DECISION = Decision(
    stage=0,
    lr=0.2,
    reason="a coin",
    extrapolation=Extrapolation(forecaster="a ruler", horizon=4, losses=(3.0, 2.0)),
)


def _negative_horizon(response: pb.GetScheduleResponse) -> None:
    response.history[0].decision.extrapolation.horizon = -1


def _step_past_the_end(response: pb.GetScheduleResponse) -> None:
    response.history[0].directive.validate_at.append(9)


def _no_profile(response: pb.GetScheduleResponse) -> None:
    response.history[0].directive.ClearField("profile")


def _profile_of_nothing(response: pb.GetScheduleResponse) -> None:
    response.history[0].directive.profile.start_lr = math.nan


def _bounds_of_nothing(response: pb.GetScheduleResponse) -> None:
    response.job.lr_bounds.min = math.nan


def _bounds_upside_down(response: pb.GetScheduleResponse) -> None:
    response.job.lr_bounds.min = 2 * response.job.lr_bounds.max


def _time_that_never_was(response: pb.GetScheduleResponse) -> None:
    response.job.update_time.seconds = 2**62


def _negative_validation_step(response: pb.GetScheduleResponse) -> None:
    report = response.history[0].report
    report.outcome = pb.OUTCOME_COMPLETED
    report.validations.add(step=-1, loss=1.0)


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (_negative_horizon, "decision.extrapolation.horizon"),
        (_step_past_the_end, "directive"),
        (_no_profile, "directive"),
        (_profile_of_nothing, "directive"),
        (_bounds_of_nothing, "job.lr_bounds"),
        (_bounds_upside_down, "job.lr_bounds"),
        (_time_that_never_was, "job"),
        (_negative_validation_step, "report.validations[0].step"),
    ],
)
def test_what_a_server_gets_wrong_is_refused_by_name(
    spoil: Callable[[pb.GetScheduleResponse], None], field: str
) -> None:
    response = merged(schedule_to_pb(stored(STATE), KnownHistory([Entry(DIRECTIVE, DECISION, None)]), full=True))
    spoil(response)
    with pytest.raises(InvalidInputError) as caught:
        job_and_history(response)
    assert [violation.field for violation in caught.value.violations] == [field]
