"""How a run ends: with its last weights, or with an average of them that validates better."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lrpilot.backends.base import Backend
from lrpilot.distributed.together import together
from lrpilot.errors import LRPilotError
from lrpilot.run.coasting import attempt
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.weights import Weights

if TYPE_CHECKING:
    from lrpilot.backends.weight_average import WeightAverage
    from lrpilot.distributed.ranks import Ranks

log = logging.getLogger("lrpilot")


class Ending:
    """Has the backend keep the average that a directive asks for, and puts the better weights into the model.

    An average belongs to one directive, and to what is left of it after a part. So steps that are rolled back take
    theirs with them: what follows begins anew, at the weights of the snapshot. Where anything fails there is no
    average, and the last weights stay.
    """

    def __init__(self, backend: Backend, ranks: Ranks | None, *, adopt: bool) -> None:
        """Averages nothing yet; `adopt`: whether the model may be left with other weights than the last ones."""
        self._backend = backend
        self._ranks = ranks
        self._adopt = adopt
        self._in_parts = False
        # Whether the present directive, or what it is the rest of, began an average; the same on all ranks.
        self._begun = False
        self._decided: pb.Ending | None = None
        self.adopted: Weights | None = None
        """The weights that the run has ended with; None: it goes on, or has had no average."""

    @property
    def _average(self) -> WeightAverage | None:
        return self._backend.average

    def reported(self, outcome: pb.Outcome.ValueType) -> None:
        """Steps are over."""
        self._in_parts = outcome == pb.OUTCOME_PARTIAL
        if outcome != pb.OUTCOME_COMPLETED:
            self._decided = None

    def reopen(self) -> None:
        """Puts the last weights back where the run goes on after it has ended."""
        self.adopted = self._decided = None
        if self._average is not None:
            self._average.undo()

    def begin(self, directive: pb.Directive | None) -> None:
        """Steps begin, before the first of which no weights have moved; None: they are nobody's directive."""
        average = self._average
        if average is None:
            return
        if directive is None or not directive.HasField("average"):
            self._begun = False
            average.end()
        elif not (self._in_parts and self._begun):
            self._begun, wanted = True, directive.average
            self._tried("kept", lambda: average.begin(wanted.memory_steps, wanted.every))

    def decide(self, directive: pb.Directive, validations: Sequence[pb.Validation]) -> None:
        """Finds out which weights are better, once a directive is over.

        Args:
            directive: that is over.
            validations: of the steps since the last report.
        """
        average = self._average
        if average is None or not directive.HasField("average") or self._decided is not None:
            return
        average.undo()  # it may be in the model since an interrupt
        validates, end = self._backend.has_validation, directive.n_steps
        found = pb.Ending(adopted=pb.WEIGHTS_LAST, memory_steps=directive.average.memory_steps)
        last = mean = None
        if end in directive.validate_at:
            last = next((validation.loss for validation in validations if validation.step == end), None)
        elif validates:
            last = self._backend.validate()
        if not self._tried("validated", average.adopt):
            return
        try:
            if validates:
                mean = self._backend.validate()
        finally:
            average.undo()
        _fill(found, last, mean)
        better = not validates if mean is None else last is None or mean < last
        if better and self._adopt:
            found.adopted = pb.WEIGHTS_AVERAGE
        self._decided = found

    @property
    def decided(self) -> pb.Ending | None:
        """What was found out, for the report on a directive that is completed; None: it has no average."""
        return self._decided

    def conclude(self) -> None:
        """The run is over: leaves the model with the better weights."""
        average, decided = self._average, self._decided
        if average is None or decided is None:
            return
        self.adopted = Weights.LAST
        if decided.adopted == pb.WEIGHTS_AVERAGE and self._tried("adopted", average.adopt):
            self.adopted = Weights.AVERAGE

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model holds the average inside. Raises: LRPilotError: there is none."""
        average = self._average
        if average is None or not average.active:
            raise LRPilotError(
                "averaged: there is no average of the weights: it is kept from the first committed step until close(), "
                'if the policy wants one, as "budget" does with `validate` or policy_options={"ending": "averaged"}'
            )
        inside = average.adopted
        try:
            average.adopt()
            yield
        finally:
            if not inside:
                average.undo()

    def state_dict(self) -> dict[str, Any]:
        """The average, and what was found out, as plain values and arrays."""
        average = self._average
        return {
            "average": None if average is None else average.state_dict(),
            "in_parts": self._in_parts,
            "begun": self._begun,
            "decided": None if self._decided is None else self._decided.SerializeToString(),
            "adopted": None if self.adopted is None else self.adopted.value,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with what `state_dict` gave. Raises: ConfigError: it is of another model."""
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._in_parts, self._begun = state["in_parts"], state["begun"]
        self._decided = None if state["decided"] is None else pb.Ending.FromString(state["decided"])
        self.adopted = None if state["adopted"] is None else Weights(state["adopted"])

    def _tried(self, what: str, act: Callable[[], object]) -> bool:
        """Whether something was done with the average, on all ranks; if not, there is none any more."""
        average = self._average
        assert average is not None
        try:
            together(self._ranks, act)
        except Exception as error:
            log.warning(
                "lrpilot: no average of the weights can be %s, the last ones stay: %s: %s",
                what,
                type(error).__name__,
                error,
            )
            attempt(average.undo)
            attempt(average.end)
            return False
        return True


def _fill(found: pb.Ending, last: float | None, average: float | None) -> None:
    if last is not None:
        found.last = last
    if average is not None:
        found.average = average
