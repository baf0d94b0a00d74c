"""What a policy gives is held to its contract before anything of it is kept.

A policy may be somebody else's: whatever it raises, yields or returns ends its own job at most. A policy that computes
for ever is the one thing that can't be stopped, as a thread can't be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import pydantic
import pydantic_core

from tuner_server.core.errors import PolicyError
from tuner_server.core.faults import guarded
from tuner_server.core.messages import Decision, Directive, Value
from tuner_server.core.policies.base import Answer, Asking, Policy, PolicyState, S, Step
from tuner_server.core.search.suggest import Query, Suggestion
from tuner_server.core.stop_evidence import Stopping

V = TypeVar("V", bound=Value)

MAX_QUERIES = 100
"""Queries of one decision. A search asks once or twice; a hundred take a fifth of a second, in which others wait."""
MAX_CHARACTERS = 2**20
"""Characters of a directive, a decision or a state as JSON. Theirs are some thousands; a gRPC message has four
million at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """A policy's answer that keeps the contract."""

    state: dict[str, Any]
    """The new state of the policy as JSON."""
    directive: Directive
    decision: Decision | None

    def with_evidence(self, evidence: Stopping) -> Answered:
        """The answer whose decision has the evidence for a stopping; it has a decision, then."""
        lr = self.directive.profile.peak if self.directive.profile is not None else 0.0
        decision = self.decision or Decision(stage=self.directive.stage, lr=lr, reason=self.directive.reason)
        return dataclasses.replace(self, decision=decision.model_copy(update={"stopping": evidence}))


def answered(method: str, call: Callable[[], Answer[S]]) -> Asking[S]:
    """The way to the answer of a policy's method, whether the method had something to ask or not.

    Args:
        method: its name.
        call: calls it.

    Raises:
        PolicyError: What it gave is no answer, it asks without end, or it raised what is no `Exception`.
    """
    with guarded(f"`{method}`"):
        given = call()
    step: Any = (yield from _asked(method, given)) if isinstance(given, Generator) else given
    if not isinstance(step, Step):
        raise PolicyError(
            f"`{method}` gave {type(step).__name__}; it has to return a Step, or to be a generator that yields queries "
            "and returns a Step"
        )
    return step


def checked(step: Step[Any], state_type: type[PolicyState]) -> Answered:
    """What is kept of a policy's answer: its values as they are read back once they were stored.

    Raises:
        PolicyError: They could not be read back.
    """
    state, _ = _read_back(state_type, step.state, "state")
    _, directive = _read_back(Directive, step.directive, "directive")
    decision = None
    if step.decision is not None:
        _, decision = _read_back(Decision, step.decision, "decision")
    return Answered(pydantic_core.from_json(state), directive, decision)


def read_state(policy: type[Policy[Any, S]] | Policy[Any, S], stored: dict[str, Any]) -> S:
    """The state of a policy that was stored as JSON. Raises: whatever the class of the state refuses it with."""
    with guarded("reading its state"):
        return policy.state_type.model_validate(stored)


def read_back(kind: type[V], value: object, what: str) -> V:
    """A value as it is read back from JSON. Raises: PolicyError: it is none of that kind, or can't be read back."""
    return _read_back(kind, value, what)[1]


def _asked(method: str, way: Generator[Any, Any, Any]) -> Generator[Query, Suggestion, Any]:
    """Passes on what a policy asks, as often as it may."""
    answer: Suggestion | Exception | None = None
    try:
        for _ in range(MAX_QUERIES + 1):
            try:
                with guarded(f"`{method}`"):
                    query = way.throw(answer) if isinstance(answer, Exception) else way.send(answer)
            except StopIteration as done:
                return done.value
            if not isinstance(query, Query):
                raise PolicyError(f"`{method}` yielded {type(query).__name__}; it has to yield queries")
            try:
                answer = yield query
            except Exception as error:
                answer = error
        raise PolicyError(f"`{method}` asked more than {MAX_QUERIES} times for one decision")
    finally:
        _close(way)


def _close(way: Generator[Any, Any, Any]) -> None:
    """Ends what a policy runs. One that does not let itself be ended is left where it stands."""
    try:
        with guarded("its end"):
            way.close()
    except Exception:
        return


def _read_back(kind: type[V], value: object, what: str) -> tuple[str, V]:
    """A value as JSON, and as it is read back from there."""
    if not isinstance(value, kind):
        raise PolicyError(f"its {what} is {type(value).__name__}; it has to be a {kind.__name__}")
    with guarded(f"its {what}"):
        text = value.model_dump_json(warnings=False)
        if len(text) > MAX_CHARACTERS:
            raise PolicyError(f"its {what} has {len(text)} characters as JSON; {MAX_CHARACTERS} at most")
        try:
            return text, kind.model_validate_json(text)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join([what, *map(str, first["loc"])])
            raise PolicyError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
