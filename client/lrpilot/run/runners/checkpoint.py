"""A run in a checkpoint: what a fresh process needs to go on, and how it goes on, to the same end or another."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from lrpilot.arguments import shown
from lrpilot.data.position import DataPosition
from lrpilot.errors import ConfigError
from lrpilot.rng import RandomState
from lrpilot.run.coasting import Coasting, attempt
from lrpilot.run.lease import Lease
from lrpilot.run.measuring import begin_measuring
from lrpilot.run.repetition import Repetition
from lrpilot.run.resumption import check_not_spent, check_resumable, same_budget
from lrpilot.run.rollback import Rollback
from lrpilot.run.run_plan import RunPlan
from lrpilot.run.run_record import RunRecord
from lrpilot.run.runners.population_runner import PopulationRunner
from lrpilot.v1 import tuner_pb2 as pb

STATE_FORMAT = 5
"""The format of `ResumableRunner.state_dict`."""

log = logging.getLogger("lrpilot")


class ResumableRunner(PopulationRunner):
    """Carries out directives, and goes on in another process where a checkpoint was taken."""

    _config: pb.JobConfig
    """The job's, from this tuner's arguments."""

    def state_dict(self) -> dict[str, Any]:
        """All that a fresh process needs to go on, for your checkpoint; take it after `step`.

        It holds the snapshot too (as much again as model and optimizer), the average of the weights if one is kept, and
        inside a search the batches of one probe.
        """
        self._catch_up()
        lease = self._lease
        return {
            "format": STATE_FORMAT,
            "config": self._config.SerializeToString(),
            "session": self._session.state_dict(),
            "finished": self._finished,
            "held": self._rollback.possible,
            "apart": False,
            "coasting": isinstance(lease, Coasting),
            "left": lease.remaining if isinstance(lease, Coasting) else None,
            "directive": lease.directive.SerializeToString(),
            "done": lease.done,
            "losses": attempt(self._backend.peek) or [math.nan] * lease.done,
            "measures": attempt(self._backend.peek_measures) or {},
            "validations": [validation.SerializeToString() for validation in self._validations],
            "elapsed_s": time.monotonic() - self._started,
            "record": self._record.state_dict(),
            "plan": self._plan.state_dict(),
            "snapshot": self._snapshot_state(),
            "ending": self._ending.state_dict(),
            "repetition": self._repetition.state_dict(),
            "position": self._position.state_dict(),
            "random_state": RandomState.capture().state_dict(),
        } | self._round_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was, after its model and optimizer were loaded too, and before `batches`.

        The server takes the job back there; the job that this tuner opened is deleted. With the same data the run
        comes out as if it had not been interrupted.

        With another `total_steps` the end of the run is moved, as by `extend`.

        Args:
            state: what `state_dict` gave.

        Raises:
            ConfigError: the state is of another format, or of a job with other arguments, or more steps have been made
                than `total_steps` are.
            ServerError: the server isn't there, or can't take the job back there, and `strict` is set.
        """
        if not isinstance(state, Mapping) or "format" not in state:
            raise ConfigError(f"state: {shown(state)} is none of a tuner's; give what tuner.state_dict() gave")
        if state["format"] != STATE_FORMAT:
            raise ConfigError(f"state: format {state['format']!r} is not {STATE_FORMAT}, which this LRPilot reads")
        saved = pb.JobConfig.FromString(state["config"])
        check_resumable(saved, self._config)
        record, plan = RunRecord(self._backend.base_lrs), RunPlan.from_state_dict(state["plan"])
        record.load_state_dict(state["record"])
        total_steps = None if same_budget(saved, self._config) else self._config.total_steps
        if total_steps is not None:
            check_not_spent(total_steps, record.steps + (0 if state["finished"] else state["done"]))
        if state["snapshot"] is not None:
            self._backend.load_state_dict(state["snapshot"])
        self._record, self._plan, self._rollback = record, plan, Rollback(possible=state["held"])
        self._session.load_state_dict(state["session"])
        self._position.load_state_dict(state["position"], state["random_state"])
        self._repetition = Repetition.from_state_dict(state["repetition"])
        self._finished = state["finished"]
        directive = pb.Directive.FromString(state["directive"])
        done, left = state["done"], state["left"]
        coasting = state["coasting"]
        lease = Coasting(directive.profile, left, done) if coasting else self._lease_of(directive, done)
        self._lease = lease
        self._compare_changes()
        if state["apart"]:
            self._take_round_again(directive, state)
        else:
            self._take_lease_up(lease, state)
        self._on_resumed()
        if total_steps is not None and total_steps != plan.total_steps:
            self._change(pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_EXTEND, total_steps=total_steps))

    def _take_lease_up(self, lease: Lease, state: Mapping[str, Any]) -> None:
        """Goes on in the middle of a directive."""
        self._backend.begin(lease.room, lease.limit, state["losses"])
        begin_measuring(self._backend, lease.directive, lease.room, state["measures"])
        self._ending.load_state_dict(state["ending"])
        self._validations = [pb.Validation.FromString(each) for each in state["validations"]]
        self._started = time.monotonic() - state["elapsed_s"]
        RandomState.from_state_dict(state["random_state"]).restore()
        if not self._finished:
            self._set_lr(lease.lr())

    def _round_state(self) -> dict[str, Any]:
        """What is otherwise where ranks try probes of their own: the state is that of the round's beginning.

        Their weights differ, and many a program saves those of one rank alone.
        """
        if self._round is None:
            return {}
        return {
            "apart": True,
            "directive": self._round.directive.SerializeToString(),
            "done": 0,
            "losses": [],
            "measures": {},
            "validations": [],
            "repetition": self._repetition.state_dict() | {"drawn": 0},
            "position": DataPosition.at_mark(self._position.state_dict()),
        }

    def _take_round_again(self, directive: pb.Directive, state: Mapping[str, Any]) -> None:
        """Begins a round of which a checkpoint was saved, whatever weights were loaded."""
        self._backend.restore()
        directive.restore = directive.snapshot = False
        self._begin(directive)
        self._repetition = Repetition.from_state_dict(state["repetition"])
        self._position.load_state_dict(DataPosition.at_mark(state["position"]), RandomState.capture().state_dict())

    def _snapshot_state(self) -> dict[str, Any] | None:
        """What is remembered, for a checkpoint; nothing if it can't be put back."""
        if self._rollback.abandoned:
            return None
        try:
            return self._backend.state_dict()
        except Exception as error:
            log.warning("lrpilot: a checkpoint without a snapshot: %s: %s", type(error).__name__, error)
            return None
