"""Nothing is lost between the core's values and the wire's messages."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import struct
from collections.abc import Mapping
from typing import Any

import hypothesis
import pytest
from google.protobuf import struct_pb2
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from hypothesis import strategies as st
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.early_warning import EarlyWarning, WarningRule
from lrpilot.wire.messages.directives import rest_of
from lrpilot.wire.messages.profiles import profile_from_proto, profile_to_proto
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.text.plain_text import plain

from tests.support.servers.wire_client import directive_from_pb, report_to_pb
from tests.support.shapes import shapes
from tuner_server.core.config import JobConfig, LrBounds, StopWhen
from tuner_server.core.errors import InvalidInputError, NotFoundError
from tuner_server.core.job.life import Signs
from tuner_server.core.job.machine import JobState, Status
from tuner_server.core.job.schedule import Segment
from tuner_server.core.messages import (
    MAX_MEASURES,
    MAX_NOTE,
    MAX_STEPS,
    Average,
    Bar,
    BatchSource,
    Candidate,
    Decision,
    Directive,
    Ending,
    Outcome,
    Phase,
    PosteriorCurve,
    Replacement,
    Report,
    RoundStep,
    Setback,
    Validation,
    Weights,
)
from tuner_server.rpc import convert, schedule_messages, untrusted
from tuner_server.rpc.decision_messages import decision_to_pb
from tuner_server.storage import Entry, StoredJob, StoredReport
from tuner_server.storage.codec import series

NOW = datetime.datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=datetime.UTC)

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)
positive_lrs = st.floats(1e-12, 1e6)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).map(plain)
profiles = st.builds(
    Profile,
    shapes,
    positive_lrs,
    positive_lrs,
    length=st.integers(9, 2**40),
    offset=counts,
    warmup=st.integers(0, 8),
)
bounds = st.tuples(positive_lrs, positive_lrs).filter(lambda b: b[0] < b[1]).map(lambda b: LrBounds(min=b[0], max=b[1]))


bars = st.builds(
    Bar,
    from_step=counts,
    loss=st.floats(allow_nan=False),
    validation=st.just(math.inf) | st.floats(allow_nan=False),
)


measure_names = st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True)
rounds = st.builds(RoundStep, factor=finite, momentum=finite)
averages = st.builds(Average, memory_steps=st.floats(1, 1e12), every=st.integers(1, 2**40))
endings = st.builds(
    Ending,
    last=st.none() | finite,
    average=st.none() | finite,
    adopted=st.sampled_from(Weights),
    memory_steps=st.floats(1, 1e12),
)
measures = st.lists(measure_names, max_size=MAX_MEASURES, unique=True).map(tuple)


warnings = st.builds(
    EarlyWarning,
    measure=st.just(""),
    rule=st.sampled_from(WarningRule),
    level=st.floats(1, 1e12, exclude_min=True),
    row=st.integers(1, 1000),
    ends=st.booleans(),
)


@st.composite
def directives(draw: st.DrawFn) -> Directive:
    stop = draw(st.booleans())
    n_steps = 0 if stop else draw(st.integers(1, 2**40))
    phase = Phase.STOP if stop else draw(st.sampled_from([phase for phase in Phase if phase is not Phase.STOP]))
    asked = draw(measures)
    warned = [dataclasses.replace(draw(warnings), measure=name) for name in asked[: draw(st.integers(0, 4))]]
    return Directive(
        number=draw(counts),
        phase=phase,
        stage=draw(st.integers(-1, 1000)),
        n_steps=n_steps,
        profile=None if stop else draw(profiles),
        restore=draw(st.booleans()),
        snapshot=draw(st.booleans()),
        batches=draw(st.sampled_from(BatchSource)),
        validate_at=tuple(sorted(draw(st.sets(st.integers(0, n_steps), max_size=4)))),
        give_up_above=draw(st.none() | finite),
        report_every=draw(counts),
        promise=tuple(draw(st.lists(bars, max_size=4))),
        measures=asked,
        warnings=tuple(warned) if phase is Phase.PROBE else (),
        average=draw(st.none() | averages) if phase.committed else None,
        round=draw(st.none() | rounds) if phase.committed else None,
        reason=draw(texts),
    )


validations = st.builds(Validation, step=counts, loss=st.floats())
replacements = st.builds(Replacement, profile=st.none() | profiles, wasted_steps=counts)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    losses = draw(st.lists(st.floats(width=32), max_size=20))
    series = st.lists(st.floats(width=32), min_size=len(losses), max_size=len(losses)).map(tuple)
    return Report(
        directive_number=draw(counts),
        outcome=draw(st.sampled_from(Outcome)),
        losses=tuple(losses),
        validations=tuple(draw(st.lists(validations, max_size=3))),
        wall_time_s=draw(finite),
        replacement=draw(st.none() | replacements),
        note=draw(texts | st.just("\N{GRINNING FACE}" * MAX_NOTE)),
        measures=draw(st.dictionaries(measure_names, series, max_size=3)),
        ending=draw(st.none() | endings),
    )


option_numbers = st.floats(-convert.MAX_OPTION, convert.MAX_OPTION)
option_values = st.recursive(
    option_numbers | texts | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
ends: st.SearchStrategy[dict[str, Any]] = (
    st.just({})
    | st.integers(1, 2**40).map(lambda steps: {"total_steps": steps})
    | st.floats(1e-6, 1e9).map(lambda seconds: {"total_time_s": seconds})
)
configs_without_end = st.builds(
    JobConfig,
    name=texts,
    family=texts,
    policy=texts,
    policy_options=st.dictionaries(texts, option_values, max_size=4),
    lr_bounds=st.none() | bounds,
    base_lr=positive_lrs,
    seed=st.integers(0, 2**63 - 1),
    has_validation=st.booleans(),
    measures=measures,
    has_average=st.booleans(),
)
worths = st.none() | st.builds(StopWhen, gain=st.floats(1e-9, 1e9)) | st.builds(StopWhen, share=st.floats(1e-9, 0.99))


def config_of(config: JobConfig, end: dict[str, Any], recorded: int, stop_when: StopWhen | None) -> JobConfig:
    can_stop = config.has_validation and "total_time_s" not in end
    update = {"recorded": config.measures[:recorded], "stop_when": stop_when if can_stop else None}
    return config.model_copy(update={**end, **update})


configs = st.builds(config_of, configs_without_end, ends, st.integers(0, 2), worths)
quickly = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    ("table", "values", "wire", "unspecified"),
    [
        (convert.PHASES, Phase, pb.Phase, "PHASE_UNSPECIFIED"),
        (convert.BATCH_SOURCES, BatchSource, pb.BatchSource, "BATCH_SOURCE_UNSPECIFIED"),
        (convert.OUTCOMES, Outcome, pb.Outcome, "OUTCOME_UNSPECIFIED"),
        (convert.WEIGHTS, Weights, pb.Weights, "WEIGHTS_UNSPECIFIED"),
        (convert.STATES, Status, pb.JobState, "JOB_STATE_UNSPECIFIED"),
    ],
)
def test_enum_tables_are_complete_both_ways_and_go_by_name(
    table: Mapping[Any, int], values: Any, wire: EnumTypeWrapper, unspecified: str
) -> None:
    assert set(table) == set(values)
    assert sorted(table.values()) == sorted(set(wire.values()) - {0})
    assert wire.Name(0) == unspecified
    prefix = unspecified.removesuffix("UNSPECIFIED")
    assert all(wire.Name(number) == prefix + value.name for value, number in table.items())
    for value, number in table.items():
        assert untrusted.known("field", table, number) is value


@pytest.mark.parametrize("number", [0, 99, -1])
def test_an_enum_value_that_is_not_known_is_refused(number: int) -> None:
    with pytest.raises(InvalidInputError) as caught:
        untrusted.known("report.outcome", convert.OUTCOMES, number)
    assert caught.value.violations[0].field == "report.outcome"


@quickly
@hypothesis.given(profiles)
def test_profile(profile: Profile) -> None:
    message = pb.Profile.FromString(profile_to_proto(profile).SerializeToString())
    assert profile_from_proto(message) == profile


@quickly
@hypothesis.given(directives())
def test_directive(directive: Directive) -> None:
    message = pb.Directive.FromString(convert.directive_to_pb(directive).SerializeToString())
    assert directive_from_pb(message) == directive


@quickly
@hypothesis.given(reports())
def test_report(report: Report) -> None:
    message = pb.Report.FromString(report_to_pb(report).SerializeToString())
    assert repr(convert.report_from_pb(message)) == repr(report)  # NaN equals nothing, but looks the same
    stored = StoredReport(
        report.outcome,
        report.n_steps,
        report.validations,
        report.wall_time_s,
        NOW,
        series(report.losses),
        report.replacement,
        report.note,
        {name: series(values) for name, values in report.measures.items()},
        report.change,
        report.ending,
    )
    again = pb.Report.FromString(convert.report_to_pb(report.directive_number, stored).SerializeToString())
    assert repr(convert.report_from_pb(again)) == repr(report)


@quickly
@hypothesis.given(configs)
def test_config(config: JobConfig) -> None:
    message = pb.JobConfig.FromString(convert.config_to_pb(config).SerializeToString())
    assert convert.config_from_pb(message) == config


@quickly
@hypothesis.given(
    state=st.builds(
        JobState,
        config=configs,
        status=st.sampled_from(Status),
        directive=directives(),
        lease=directives(),
        committed_steps=counts,
        search_steps=counts,
        given_back_steps=counts,
        bounds=st.none() | bounds,
        last_loss=st.none() | finite,
        best_loss=st.none() | finite,
        last_validation=st.none() | finite,
        best_validation=st.none() | finite,
        wall_time_s=finite,
        policy_state=st.none(),
        message=texts,
        ending=st.none() | endings,
    )
)
def test_job(state: JobState) -> None:
    later = NOW + datetime.timedelta(microseconds=1)
    message = convert.job_to_pb(StoredJob("an id", "default", state, 7, NOW, later, Signs(later)))
    assert message.id == "an id"
    assert convert.config_from_pb(message.config) == state.config
    assert untrusted.known("state", convert.STATES, message.state) is state.status
    assert message.create_time.ToDatetime(datetime.UTC) == NOW
    assert message.update_time.ToDatetime(datetime.UTC) == later
    assert (message.committed_steps, message.search_steps) == (state.committed_steps, state.search_steps)
    assert message.given_back_steps == state.given_back_steps
    assert message.stage == state.directive.stage + 1
    assert directive_from_pb(message.directive) == state.directive
    assert message.wall_time_s == state.wall_time_s
    assert message.message == state.message
    assert (convert.ending_from_pb(message.ending) if message.HasField("ending") else None) == state.ending
    for name in ("last_loss", "best_loss", "last_validation", "best_validation"):
        found = getattr(message, name) if message.HasField(name) else None
        assert found == getattr(state, name)
    if state.bounds is None:
        assert not message.HasField("lr_bounds")
    else:
        assert (message.lr_bounds.min, message.lr_bounds.max) == (state.bounds.min, state.bounds.max)


CANDIDATES = (
    Candidate(directive_number=3, lr=0.1, forecast=0.5, forecast_sd=0.01, raw_forecast=-0.5),
    Candidate(directive_number=4, lr=0.2, forecast=0.0, forecast_sd=0.0),
    Candidate(directive_number=5, lr=0.4, at_least=0.0),
)


def test_decision_keeps_absent_apart_from_zero() -> None:
    curve = PosteriorCurve(lr=(0.1, 0.2), mean=(1.0, 2.0), sd=(0.5, 0.25), acquisition=(-1.0, 0.0))
    decision = Decision(stage=2, lr=0.1, reason="why", candidates=CANDIDATES, posterior=curve)
    message = decision_to_pb(6, decision)
    assert (message.directive_number, message.stage, message.lr, message.reason) == (6, 3, 0.1, "why")
    read = [
        Candidate(
            directive_number=c.directive_number,
            lr=c.lr,
            forecast=c.forecast if c.HasField("forecast") else None,
            forecast_sd=c.forecast_sd if c.HasField("forecast_sd") else None,
            at_least=c.at_least if c.HasField("at_least") else None,
            raw_forecast=c.raw_forecast if c.HasField("raw_forecast") else None,
        )
        for c in message.candidates
    ]
    assert tuple(read) == CANDIDATES
    posterior = message.posterior
    assert [*posterior.lr, *posterior.mean, *posterior.sd, *posterior.acquisition] == [
        *curve.lr,
        *curve.mean,
        *curve.sd,
        *curve.acquisition,
    ]
    assert not decision_to_pb(1, Decision(stage=0, lr=0.1, reason="")).HasField("posterior")


SETBACKS = (
    Setback(lr=0.3),
    Setback(lr=0.3, loss=0.0, bar=0.0, start_loss=0.0, gain=0.0),
    Setback(lr=0.3, loss=2.5, bar=math.inf, start_loss=3.0, gain=1.0, validated=True),
)


@pytest.mark.parametrize("setback", SETBACKS)
def test_a_setback_keeps_absent_apart_from_zero(setback: Setback) -> None:
    message = decision_to_pb(6, Decision(stage=0, lr=0.1, reason="why", setback=setback)).setback
    found = {
        name: getattr(message, name) if message.HasField(name) else None
        for name in ("loss", "bar", "start_loss", "gain")
    }
    assert Setback(lr=message.lr, validated=message.validated, **found) == setback


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(["forecast", "forecast_sd"], [None, 0.0, -2.5]),
        *itertools.product(["optimum", "correction", "drawn_to", "lowered_by"], [None, 5e-324, 2.5]),
    ],
)
def test_what_a_decision_expects_is_absent_or_what_it_is(name: str, value: float | None) -> None:
    message = decision_to_pb(6, Decision(stage=0, lr=0.1, reason="why", **{name: value}))
    found = {
        field.name: getattr(message, field.name)
        for field, _ in message.ListFields()
        if field.name not in ("directive_number", "stage", "lr", "reason")
    }
    assert found == ({} if value is None else {name: value})


def test_a_bar_without_a_level_for_validations_has_none_on_the_wire() -> None:
    profile = Profile.constant(0.1, 9)
    promise = (Bar(from_step=1, loss=2.0), Bar(from_step=2, loss=math.inf, validation=0.0))
    message = convert.directive_to_pb(Directive(phase=Phase.TRAIN, n_steps=9, profile=profile, promise=promise))
    assert [bar.HasField("validation") for bar in message.promise] == [False, True]


@quickly
@hypothesis.given(directives(), st.data())
def test_what_a_client_takes_for_the_rest_of_a_directive_is_what_the_server_does(
    directive: Directive, data: st.DataObject
) -> None:
    if directive.n_steps < 2:
        return
    done = data.draw(st.integers(1, directive.n_steps - 1))
    rest = directive.after(done).model_copy(update={"number": directive.number + 1})
    assert rest_of(convert.directive_to_pb(directive), done) == convert.directive_to_pb(rest)


def test_segment() -> None:
    profile = Profile(Shape.COSINE, 0.3, 0.1, 50, 5)
    message = schedule_messages.segment_to_pb(Segment(100, 45, profile, Phase.TRAIN, 3))
    assert (message.start_step, message.n_steps, message.stage) == (100, 45, 3)
    assert message.phase == pb.PHASE_TRAIN
    assert profile_from_proto(message.profile) == profile


def test_entry_that_is_outstanding_has_no_report_and_one_without_losses_has_none() -> None:
    directive = Directive(number=4, phase=Phase.TRAIN, n_steps=3, profile=Profile.constant(0.1, 3))
    message = schedule_messages.entry_to_pb(Entry(directive, None, None), committed=False)
    assert not message.HasField("report")
    assert not message.HasField("decision")
    assert not message.committed
    report = StoredReport(Outcome.COMPLETED, 3, (), 0.5, NOW, losses=None)
    decision = Decision(stage=0, lr=0.1, reason="why")
    message = schedule_messages.entry_to_pb(Entry(directive, decision, report), committed=True)
    assert message.committed
    assert message.report.directive_number == message.decision.directive_number == 4
    assert len(message.report.losses) == 0


# --- what is refused --------------------------------------------------------------------------------------------------


def test_losses_arrive_as_the_float32_they_were_sent_as() -> None:
    message = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, losses=[0.1])
    assert convert.report_from_pb(message).losses == (struct.unpack("<f", struct.pack("<f", 0.1))[0],)


def test_a_report_without_outcome_is_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        convert.report_from_pb(pb.Report(directive_number=1, losses=[1.0]))
    assert caught.value.violations[0].field == "report.outcome"


def test_a_validation_before_the_start_is_refused_by_its_place() -> None:
    validations = [pb.Validation(step=1, loss=1.0), pb.Validation(step=-1, loss=1.0)]
    with pytest.raises(InvalidInputError) as caught:
        convert.report_from_pb(pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, validations=validations))
    assert [violation.field for violation in caught.value.violations] == ["report.validations[1].step"]


def test_a_config_without_lr_is_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        convert.config_from_pb(pb.JobConfig())
    assert [violation.field for violation in caught.value.violations] == ["base_lr"]


def test_total_steps_of_zero_is_not_the_same_as_none() -> None:
    assert convert.config_from_pb(pb.JobConfig(base_lr=0.1)).total_steps is None
    with pytest.raises(InvalidInputError, match="total_steps"):
        convert.config_from_pb(pb.JobConfig(base_lr=0.1, total_steps=0))


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_options_that_are_no_json_are_refused(number: float) -> None:
    options = struct_pb2.Struct(fields={"kappa": struct_pb2.Value(number_value=number)})
    with pytest.raises(InvalidInputError, match="policy_options"):
        convert.config_from_pb(pb.JobConfig(base_lr=0.1, policy_options=options))


@pytest.mark.parametrize("number", [1e13, -1e300])
def test_options_that_no_policy_has_are_refused(number: float) -> None:
    options = struct_pb2.Struct(fields={"tau": struct_pb2.Value(number_value=number)})
    with pytest.raises(InvalidInputError, match="policy_options"):
        convert.config_from_pb(pb.JobConfig(base_lr=0.1, policy_options=options))


def test_options_are_neither_large_nor_deep() -> None:
    large, deep = struct_pb2.Struct(), struct_pb2.Struct()
    large.update({"tau": "x" * convert.MAX_OPTIONS_BYTES})
    inner = deep
    for _ in range(convert.MAX_OPTIONS_DEPTH):
        inner = inner.fields["tau"].struct_value
        inner.SetInParent()
    with pytest.raises(InvalidInputError, match="bytes"):
        convert.config_from_pb(pb.JobConfig(base_lr=0.1, policy_options=large))
    assert convert.config_from_pb(pb.JobConfig(base_lr=0.1, policy_options=deep)).policy_options
    inner.fields["tau"].bool_value = True
    with pytest.raises(InvalidInputError, match="deeper"):
        convert.config_from_pb(pb.JobConfig(base_lr=0.1, policy_options=deep))


def test_what_is_worth_going_on_for_needs_validations_and_an_amount() -> None:
    for stop_when, has_validation in ((pb.StopWhen(gain=0.1), False), (pb.StopWhen(), True)):
        config = pb.JobConfig(base_lr=0.1, stop_when=stop_when, has_validation=has_validation)
        with pytest.raises(InvalidInputError) as caught:
            convert.config_from_pb(config)
        assert [violation.field for violation in caught.value.violations] == ["stop_when"]


def test_an_option_without_a_value_is_refused() -> None:
    options = struct_pb2.Struct(fields={"tau": struct_pb2.Value()})
    with pytest.raises(InvalidInputError, match="policy_options"):
        convert.config_from_pb(pb.JobConfig(base_lr=0.1, policy_options=options))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": ""}, "not known"),
        ({"shape": "bent"}, "'bent' is not known"),
        ({"shape": "rex", "parameters": [math.nan]}, "not finite"),
        ({"shape": "rex", "parameters": [1.0, 1.0]}, "2 parameters"),
        ({"shape": "linear", "parameters": [1.0]}, "no parameters"),
        ({"shape": "points", "parameters": [0.0, 1.0, 0.7, 1.0, 0.3, 1.0, 1.0, 0.0]}, "don't ascend"),
        ({"shape": "points", "parameters": [0.0, 1.0] * 513}, "pairs"),
        ({"shape": "exponential"}, "never reaches zero"),
    ],
)
def test_a_replacement_along_no_shape_is_refused(fields: dict[str, Any], words: str) -> None:
    profile = pb.Profile(**{"start_lr": 0.1, "end_lr": 0.0, "length": 9, **fields})
    report = pb.Report(
        directive_number=1, outcome=pb.OUTCOME_REPLACED, losses=[1.0], replacement=pb.Replacement(profile=profile)
    )
    with pytest.raises(InvalidInputError) as caught:
        convert.report_from_pb(report)
    (violation,) = caught.value.violations
    assert violation.field == "report.replacement.profile"
    assert words in violation.description


@pytest.mark.parametrize("steps", [-1, MAX_STEPS + 1, 2**63 - 1])
def test_steps_that_nobody_ran_are_refused(steps: int) -> None:
    report = pb.Report(directive_number=1, outcome=pb.OUTCOME_REPLACED, replacement=pb.Replacement(wasted_steps=steps))
    with pytest.raises(InvalidInputError, match="wasted_steps"):
        convert.report_from_pb(report)


@pytest.mark.parametrize("note", ["x" * (MAX_NOTE + 1)])
def test_a_note_that_can_not_be_kept_is_refused(note: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        convert.report_from_pb(pb.Report(directive_number=1, outcome=pb.OUTCOME_UNREPEATABLE, losses=[1.0], note=note))
    assert [violation.field for violation in caught.value.violations] == ["report.note"]


def test_validations_are_not_without_number() -> None:
    validations = [pb.Validation()] * (convert.MAX_VALIDATIONS + 1)
    with pytest.raises(InvalidInputError, match=r"report\.validations"):
        convert.report_from_pb(pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, validations=validations))


@pytest.mark.parametrize("value", ["", "nope", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", "\0" * 32, "é" * 32])
def test_what_is_no_id_is_not_looked_for(value: str) -> None:
    with pytest.raises(NotFoundError):
        convert.job_id(value)


@pytest.mark.parametrize("value", ["x" * 501, "a\0b"])
def test_a_text_that_can_not_be_kept_is_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match="reason"):
        untrusted.text("reason", value)


@pytest.mark.parametrize(
    ("measures", "field"),
    [
        ([pb.Measure(name="norm"), pb.Measure(name="norm")], "report.measures[1].name"),
        ([pb.Measure(name=f"m{i}") for i in range(MAX_MEASURES + 1)], "report.measures"),
    ],
)
def test_measures_are_few_and_each_comes_once(measures: list[pb.Measure], field: str) -> None:
    message = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, measures=measures)
    with pytest.raises(InvalidInputError) as caught:
        convert.report_from_pb(message)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize("name", ["", "Norm", "1norm", "a b", "=norm", "norm\n", "nörm", "n" * 41])
def test_a_measure_has_the_name_of_a_column(name: str) -> None:
    message = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, measures=[pb.Measure(name=name)])
    with pytest.raises(InvalidInputError, match="measures"):
        convert.report_from_pb(message)
    with pytest.raises(InvalidInputError, match="measures"):
        convert.config_from_pb(pb.JobConfig(base_lr=0.1, measures=[name]))


@pytest.mark.parametrize("names", [["norm", "norm"], [f"m{i}" for i in range(MAX_MEASURES + 1)]])
def test_a_job_has_few_measures_and_each_once(names: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="measures"):
        convert.config_from_pb(pb.JobConfig(base_lr=0.1, measures=names))
