"""What a policy is: the algorithm that turns reports into directives.

A policy is a pure function with explicit state. The job (`core.job.machine`) numbers its directives, counts steps, says
what is rolled back, puts the parts of a long directive together, runs the LR range test before it when the bounds are
unknown, and checks what it asks for. The policy decides what to try and what to commit. It can be driven by a plain
loop with no server.

A policy may ask for measures besides the loss (`Directive.measures`), of those that the job has (`JobConfig.measures`);
one that asks for others breaks the contract. It can't rely on what it asks for: a report may have none of it, where the
client could not measure, and a value of a step may be NaN or infinite. It has to decide all the same.

A policy that needs a suggestion does not compute it: it yields the `Query` and is sent the `Suggestion`. Whoever drives
it may so answer the queries of many jobs in one batch (`core.job.lockstep`), or each at once
(`core.search.suggest.run`). A method that has nothing to ask is a plain one, and returns its step (`Answer`).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Generator
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import pydantic

from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.messages import ChangeKind, Decision, Directive, PlanChange, Report, Value
from tuner_server.core.search.prior import Optimum, Prior
from tuner_server.core.search.suggest import Query, Suggestion
from tuner_server.core.stages import plan_change


class Options(Value):
    """The base of a policy's options: every constant of the method, with its default. All numbers are finite."""

    model_config = pydantic.ConfigDict(allow_inf_nan=False)


class PolicyState(Value):
    """The base of a policy's state. It becomes JSON and back without loss."""

    search_ended: bool = False
    """Whether a rollback was not complete: no probe tells anything, so nothing is tried, nor promised, any more."""


O = TypeVar("O", bound=Options)  # noqa: E741 - the options of a policy; S is its state
S = TypeVar("S", bound=PolicyState)


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is when its policy is asked."""

    committed_steps: int
    search_steps: int
    remaining_steps: int | None
    """Steps that may still be run; None: no end is known."""
    bounds: LrBounds
    first_loss: float | None
    """The first loss of all: nearly the untrained model's."""
    last_loss: float | None
    """The mean of the last committed losses; None before the first."""
    stage: int = -1
    """The stage of the directive that has ended; -1: before the first."""
    total_steps: int | None = None
    """Steps of the run as it is planned now; None: no end is known. That of the config is the plan it began with."""
    present_lr: float | None = None
    """The LR of the step after the last committed one, as its profile has it; None before the first."""
    peak_lr: float | None = None
    """The highest LR of the committed steps; None before the first."""
    best_since_change: float | None = None
    """The lowest mean of ten committed losses in a row since the plan changed last; None before there are so many."""
    wall_time_s: float = 0.0
    """How long the reported steps took, search included."""
    prior: Prior | None = None
    """What earlier jobs of the family tell; a policy need not use it."""
    reported_steps: int = 0
    """Steps of the directive that ended which were reported in parts before its last report."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """A policy's answer: its new state, what to do next, and the evidence if something was decided."""

    state: S
    directive: Directive
    decision: Decision | None = None


Asking: TypeAlias = Generator[Query, Suggestion, Step[S]]
"""The way to a policy's answer: yields what it has to ask first, and returns the answer."""
Answer: TypeAlias = Step[S] | Asking[S]
"""What a method of a policy gives: the answer at once, or the way to it."""


class Policy(abc.ABC, Generic[O, S]):
    """One algorithm, for one job. Instances hold the config and options only, and never change."""

    name: ClassVar[str]
    takes_members: ClassVar[bool] = False
    """Whether it has several probes tried at the same time, where a job has several members."""
    options_type: type[O]
    state_type: type[S]
    keeps_time: ClassVar[bool] = False
    """Whether it ends a job that has a `total_time_s` when that is over."""

    def __init__(self, config: JobConfig) -> None:
        """Reads the options.

        Raises:
            InvalidInputError: an unknown option, a wrong value, or a job that this policy can't tune.
        """
        self.config = config
        try:
            self.options = self.options_type.model_validate(_integral(config.policy_options))
        except pydantic.ValidationError as error:
            known = sorted(self.options_type.model_fields)
            raise InvalidInputError.from_pydantic(error, prefix="policy_options", known=known) from error
        if config.members > 1 and not self.takes_members:
            message = f"policy {self.name} tries one candidate at a time; take budget, or leave out population=True"
            raise InvalidInputError.of("members", message)
        if config.total_time_s is not None and not self.keeps_time:
            message = f"policy {self.name} plans by steps; give total_steps, or leave the policy out"
            raise InvalidInputError.of("total_time_s", message)
        self.check()

    def check(self) -> None:
        """Refuses a config that the options don't fit. Raises: InvalidInputError."""

    @property
    def searches(self) -> bool:
        """Whether this job has a search, and so a use for bounds."""
        return True

    @abc.abstractmethod
    def start(self, progress: Progress) -> Answer[S]:
        """The first directive."""

    @abc.abstractmethod
    def advance(self, state: S, directive: Directive, report: Report, progress: Progress) -> Answer[S]:
        """The next directive.

        Args:
            state: what this policy returned with `directive`.
            directive: the one that ended (as issued, before any part of it was reported).
            report: its report; of a directive reported in parts, the last part, with the measures of the last part.
                Any outcome but PARTIAL, REPLACED and UNREPEATABLE.
            progress: where the job is now, this report included.
        """

    @abc.abstractmethod
    def rejoin(self, state: S, progress: Progress) -> Answer[S]:
        """The next directive for a client that could not ask for a while, and has trained on by itself.

        Args:
            state: what this policy returned with a directive that was then not carried out.
            progress: where the job is now; what came in between is part of it.
        """

    def replan(self, state: S, change: PlanChange, progress: Progress) -> Answer[S]:
        """The next directive of a run whose plan has changed.

        A policy that has nothing better anneals where that is asked for, and otherwise does as on `rejoin`. It must not
        begin a search if `state.search_ended`.

        Args:
            state: what this policy returned with the directive that ended, whose steps stay.
            change: what has changed.
            progress: where the job is now, in the new plan.
        """
        if change.kind is ChangeKind.ANNEAL:
            assert progress.remaining_steps is not None
            directive, decision = plan_change.annealing(
                change,
                progress.present_lr or self.config.base_lr,
                progress.remaining_steps,
                stage=max(progress.stage, 0),
                validates=self.config.has_validation,
            )
            return Step(state, directive, decision)
        return self.rejoin(state, progress)

    def noticed(self, state: S, directive: Directive, report: Report, progress: Progress) -> PlanChange | None:
        """What committed steps say of the plan: the change that they ask for; None: all is as it should be.

        `replan` is then asked for what follows, at once, and not `advance`.

        Args:
            state: what this policy returned with `directive`.
            directive: the one that is carried out, as it was issued.
            report: on a part of it, or on the last of it (COMPLETED).
            progress: where the job was before the steps of that report.
        """
        return None

    def reshape(self, state: S, directive: Directive, report: Report, progress: Progress) -> Step[S] | None:
        """What a part of committed steps changes in the LRs of the rest, or in what it is held to; None: nothing.

        The step's directive is the one that was given, with another profile, reason or promise if need be: it is read
        as if it had been issued so, and the rest of it is carried out. So a profile should go on where the steps that
        lie behind have led. Beside it the state may change, by which a policy keeps what was measured.

        Args:
            state: what this policy returned last, with `directive` or on a part of it.
            directive: the one that is carried out, as it was issued, or as an earlier call has changed it.
            report: on a part of it that is sound (PARTIAL), with the measures of that part.
            progress: where the job is now, this part included; `reported_steps` are those before it.
        """
        return None

    @abc.abstractmethod
    def without_search(self, state: S, progress: Progress, reason: str) -> Answer[S]:
        """Trains at the LR that the user set, over what is left: after a rollback that was not complete.

        From then on this takes the place of `rejoin`, and `advance` begins no search.

        Args:
            state: with `search_ended`, which stays.
            progress: where the job is now.
            reason: why, for people.
        """

    @classmethod
    def optimum(cls, state: S) -> Optimum | None:
        """What the search of a job found, for later jobs of its family (`Progress.prior`).

        None: it is not through, or found what other jobs can't use, as that of most policies does.
        """
        return None


def _integral(options: dict[str, Any]) -> dict[str, Any]:
    """Options with whole floats as ints: JSON numbers that came over the wire (a Struct) are all doubles."""
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in options.items()
    }
