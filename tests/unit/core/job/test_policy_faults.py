"""A policy's fault is its job's business alone: whatever it raises or returns, the job fails with a sentence."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.simulated_training import config
from tuner_server.core import policies
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import lockstep, machine
from tuner_server.core.job.lockstep import PendingSearch
from tuner_server.core.job.machine import JobState, Status, Transition
from tuner_server.core.messages import Candidate, Decision, Directive, Outcome, Phase, PosteriorCurve, Report
from tuner_server.core.policies.base import Options, Policy, PolicyState, Progress, Step
from tuner_server.core.policies.contract import MAX_CHARACTERS, MAX_QUERIES
from tuner_server.core.search.acquisition import LogExpectedImprovement
from tuner_server.core.search.observations import observations
from tuner_server.core.search.prior import Optimum
from tuner_server.core.search.suggest import Query
from tuner_server.service.family import optimum_of, prior_from

DIRECTIVE = Directive(phase=Phase.TRAIN, stage=0, n_steps=10, profile=Profile.constant(0.1, 10), reason="trains")
DECISION = Decision(stage=0, lr=0.1, reason="decided")
Act = Callable[["Faulty"], Any]


class FaultyState(PolicyState):
    """A state that may hold anything."""

    anything: Any = None


GOOD = Step(FaultyState(), DIRECTIVE, DECISION)


class Faulty(Policy[Options, FaultyState]):
    """Does what a test says, where it says so; everywhere else it does well."""

    name = "faulty"
    options_type = Options
    state_type = FaultyState
    where = ""
    act: Act

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._at("__init__")

    def check(self) -> None:
        self._at("check")

    @property
    def searches(self) -> bool:
        return bool(self._at("searches"))

    def start(self, progress: Progress) -> Any:
        return self._at("start")

    def advance(self, state: FaultyState, directive: Directive, report: Report, progress: Progress) -> Any:
        return self._at("advance")

    def rejoin(self, state: FaultyState, progress: Progress) -> Any:
        return self._at("rejoin")

    def without_search(self, state: FaultyState, progress: Progress, reason: str) -> Any:
        return self._at("without_search")

    @classmethod
    def optimum(cls, state: FaultyState) -> Any:
        return cls.act(None) if cls.where == "optimum" else None  # type: ignore[arg-type]

    def _at(self, where: str) -> Any:
        return type(self).act(self) if where == self.where else GOOD


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Act], None]:
    """Says where the policy does what."""

    def put(where: str, act: Act) -> None:
        monkeypatch.setattr(Faulty, "where", where)
        monkeypatch.setattr(Faulty, "act", staticmethod(act), raising=False)

    monkeypatch.setitem(policies.POLICIES, Faulty.name, Faulty)
    return put


def apart(function: Callable[[], Any]) -> Any:
    """What a function returns in another thread, as servers run policies: an interrupt there is not the user's."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(60)
    return found[0]


def create() -> Transition:
    return machine.create(config(600).model_copy(update={"policy": "faulty"}))


def report_on(state: JobState, outcome: Outcome = Outcome.COMPLETED) -> Report:
    losses = () if outcome is Outcome.REPLACED else (1.0,) * 10
    fields: dict[str, Any] = {"note": "seen"} if outcome is Outcome.UNREPEATABLE else {}
    if outcome is Outcome.REPLACED:
        fields["replacement"] = {"wasted_steps": 3}
    return Report(directive_number=state.directive.number, outcome=outcome, losses=losses, **fields)


def failure(outcome: Outcome = Outcome.COMPLETED) -> str:
    """The message of a job that fails when the report on its first directive comes in."""
    state = create().state
    end = apart(lambda: machine.advance(state, report_on(state, outcome)))
    assert end.state.status is Status.FAILED
    assert end.directive.phase is Phase.STOP
    assert end.directive.reason == end.state.message
    text = end.state.model_dump_json()
    assert JobState.model_validate_json(text) == end.state
    assert "\0" not in end.state.message
    message: str = end.state.message
    return message


def refusal() -> str:
    """Why a job is refused whose policy does not even begin."""

    def refused() -> InvalidInputError:
        with pytest.raises(InvalidInputError) as caught:
            create()
        return caught.value

    (violation,) = apart(refused).violations
    assert violation.field == "policy"
    description: str = violation.description
    assert description.startswith("policy 'faulty' can't tune this job: ")
    return description


def raising(error: BaseException) -> Act:
    def act(_policy: Faulty) -> Any:
        raise error

    return act


class UnsayableError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


FATAL = [SystemExit(3), KeyboardInterrupt("keys"), GeneratorExit("end"), StopIteration("end"), UnsayableError()]


@pytest.mark.parametrize("error", FATAL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("where", "outcome"),
    [("advance", Outcome.COMPLETED), ("rejoin", Outcome.REPLACED), ("__init__", Outcome.COMPLETED)],
)
def test_whatever_is_raised_fails_the_job(
    where: str, outcome: Outcome, error: BaseException, faulty: Callable[[str, Act], None]
) -> None:
    faulty("", raising(error))
    state = create().state
    faulty(where, raising(error))
    end = apart(lambda: machine.advance(state, report_on(state, outcome)))
    assert end.state.status is Status.FAILED
    assert "policy faulty: " in end.state.message


@pytest.mark.parametrize("error", [*FATAL, RuntimeError("why \0 \ud800")], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["__init__", "check", "start"])
def test_a_policy_that_fails_before_the_first_directive_is_refused(
    where: str, error: BaseException, faulty: Callable[[str, Act], None]
) -> None:
    faulty(where, raising(error))
    said = refusal()
    said.encode()
    assert "\0" not in said


def test_a_users_own_interrupt_passes(faulty: Callable[[str, Act], None]) -> None:
    faulty("start", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        create()


def query() -> Query:
    return Query(observations([]), (-3.0, 0.0), LogExpectedImprovement(), seed=1)


def endless(_policy: Faulty) -> Iterator[Query]:
    while True:
        yield query()


def stubborn(_policy: Faulty) -> Iterator[Query]:
    n_ends = 0
    while n_ends < 3:
        try:
            yield query()
        except BaseException:
            n_ends += 1


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("act", [endless, stubborn])
def test_a_policy_that_asks_without_end_fails_its_own_job(act: Act, faulty: Callable[[str, Act], None]) -> None:
    faulty("advance", act)
    assert failure() == f"policy faulty: PolicyError: `advance` asked more than {MAX_QUERIES} times for one decision"
    begun = lockstep.begin(create().state, report_on(create().state))
    assert isinstance(begun, PendingSearch)
    (end,) = lockstep.finish_all([begun])
    assert end.state.status is Status.FAILED


class Exits(LogExpectedImprovement):
    def evaluate(self, posterior: Any, best: float) -> Any:
        raise SystemExit("in the search")


def exits(_policy: Faulty) -> Iterator[Query]:
    seen = observations([Candidate(directive_number=i, lr=0.01 * i, forecast=1.0 / i) for i in (1, 2)])
    yield Query(seen, (-3.0, 0.0), Exits(), seed=1)


def test_what_a_query_raises_fails_its_own_job(faulty: Callable[[str, Act], None]) -> None:
    faulty("advance", exits)
    assert "raised SystemExit: in the search" in failure()
    state = create().state
    begun = lockstep.begin(state, report_on(state))
    assert isinstance(begun, PendingSearch)
    (end,) = lockstep.finish_all([begun])
    assert "raised SystemExit: in the search" in end.state.message


def returning(**fields: Any) -> Act:
    return lambda _policy: Step(FaultyState(), DIRECTIVE.model_copy(update=fields))


def deciding(**fields: Any) -> Act:
    return lambda _policy: Step(FaultyState(), DIRECTIVE, DECISION.model_copy(update=fields))


def bent(**fields: Any) -> Profile:
    profile = Profile(Shape.CONSTANT, 0.1, 0.1, 10)
    for name, value in fields.items():
        object.__setattr__(profile, name, value)
    return profile


NONSENSE: dict[str, tuple[Act, str]] = {
    "nothing": (lambda _: None, "`advance` gave NoneType"),
    "no state": (lambda _: Step(None, DIRECTIVE), "its state is NoneType"),
    "another's state": (lambda _: Step(PolicyState(), DIRECTIVE), "its state is PolicyState"),
    "state that is no JSON": (lambda _: Step(FaultyState(anything=object()), DIRECTIVE), "serialize unknown type"),
    "large state": (lambda _: Step(FaultyState(anything="x" * MAX_CHARACTERS), DIRECTIVE), "characters as JSON"),
    "no directive": (lambda _: Step(FaultyState(), None), "its directive is NoneType"),  # type: ignore[arg-type]
    "a decision in words": (lambda _: Step(FaultyState(), DIRECTIVE, "x"), "its decision is str"),  # type: ignore[arg-type]
    "no steps": (returning(n_steps=0), "a directive has steps, unless it says stop"),
    "negative steps": (returning(n_steps=-10), "directive.n_steps"),
    "half a step": (returning(n_steps=10.5), "directive.n_steps"),
    "reports before the start": (returning(report_every=-3), "directive.report_every"),
    "no profile": (returning(profile=None), "a directive with steps has a profile"),
    "negative LR": (returning(profile=bent(start_lr=-1.0)), "LRs must be finite and not negative"),
    "NaN as LR": (returning(profile=bent(end_lr=math.nan)), "LRs must be finite and not negative"),
    "stage on no wire": (returning(stage=2**31 - 1), "directive.stage"),
    "stage below none": (returning(stage=-2), "directive.stage"),
    "measure twice": (returning(measures=("norm", "norm")), "a measure is asked for twice"),
    "surrogate in the reason": (returning(reason="\ud800"), "surrogates not allowed"),
    "profile on no wire": (returning(profile=bent(length=2**63)), "a profile has no more than"),
    "NUL in the reason": (returning(reason="a\0b"), "directive.reason"),
    "long reason": (returning(reason="x" * MAX_CHARACTERS), "characters as JSON"),
    "decided on no wire": (deciding(stage=2**31 - 1), "decision.stage"),
    "decided in surrogates": (deciding(reason="\ud800"), "surrogates not allowed"),
    "decided with NUL": (deciding(reason="\0"), "decision.reason"),
    "decided on NaN": (deciding(lr=math.nan), "decision.lr"),
    "no optimum": (deciding(optimum=0.0), "decision.optimum"),
    "negative correction": (deciding(correction=-1.0), "decision.correction"),
    "infinite divisor": (deciding(lowered_by=math.inf), "decision.lowered_by"),
    "candidate without LR": (
        deciding(candidates=(Candidate(directive_number=1, lr=1.0).model_copy(update={"lr": 0.0}),)),
        "decision.candidates.0.lr",
    ),
    "uneven posterior": (
        deciding(posterior=PosteriorCurve.model_construct(lr=(1.0,), mean=(), sd=(1.0,), acquisition=(1.0,))),
        "one value for every LR",
    ),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_never_stored(kind: str, faulty: Callable[[str, Act], None]) -> None:
    act, why = NONSENSE[kind]
    faulty("advance", act)
    said = failure()
    assert why in said
    assert "\n" not in said
    faulty("start", act)
    assert why.replace("`advance`", "`start`") in refusal()


def test_what_is_no_query_is_not_passed_on(faulty: Callable[[str, Act], None]) -> None:
    faulty("advance", lambda _: iter_of("a question"))
    assert "`advance` yielded str; it has to yield queries" in failure()


def iter_of(value: object) -> Iterator[object]:
    yield value


@pytest.mark.parametrize(
    "found",
    [
        "nonsense",
        Optimum.model_construct(log_lr=math.nan, probe_steps=1, good_end=True),
        Optimum.model_construct(log_lr=1e300, probe_steps=1, good_end=True),
        Optimum.model_construct(log_lr=0.0, probe_steps=0, good_end=True),
        Optimum.model_construct(log_lr=0.0, probe_steps=10**400, good_end=True),
        SystemExit(1),
        KeyboardInterrupt(),
    ],
    ids=lambda found: repr(found)[:60],
)
def test_an_optimum_that_is_none_counts_as_none(found: Any, faulty: Callable[[str, Act], None]) -> None:
    faulty("optimum", raising(found) if isinstance(found, BaseException) else lambda _: found)
    state = create().state
    assert apart(lambda: optimum_of(state)) is None
    assert apart(lambda: prior_from([state])) is None


def test_what_is_kept_is_what_is_read_back(faulty: Callable[[str, Act], None]) -> None:
    faulty("advance", lambda _: Step(FaultyState(anything=[1, (2,)]), DIRECTIVE.model_copy(update={"n_steps": 10.0})))
    state = create().state
    kept = machine.advance(state, report_on(state)).state
    assert kept.policy_state == {"search_ended": False, "anything": [1, [2]]}
    assert type(kept.directive.n_steps) is int
    json.dumps(kept.policy_state)
