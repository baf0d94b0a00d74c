"""Carries out a tuner's directives on a training run, in whatever framework."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from lrpilot.backends.base import Backend
from lrpilot.backends.distributed import DistributedBackend
from lrpilot.coasting import Coasting, attempt
from lrpilot.credentials import Credentials
from lrpilot.divergence import first_divergence
from lrpilot.errors import ConfigError, ServerError
from lrpilot.job_config import job_config
from lrpilot.job_options import TIMEOUT_S
from lrpilot.lease import Event, Lease, rolls_back
from lrpilot.observer import Observer
from lrpilot.position import Position
from lrpilot.promise import bar_of, is_above
from lrpilot.record import Record
from lrpilot.repetition import Repetition
from lrpilot.resumption import check_resumable, peak_of_rest, remaining_steps, same_budget
from lrpilot.rng import RandomState
from lrpilot.schedule import Schedule
from lrpilot.session import Session
from lrpilot.shared_session import SharedSession
from lrpilot.standing import Standing
from lrpilot.together import together
from lrpilot.transport.base import Transport
from lrpilot.transport.embedded_transport import EmbeddedTransport
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.unsearched import begins_unsearched
from lrpilot.v1 import tuner_pb2 as pb

if TYPE_CHECKING:
    from lrpilot.ranks import Ranks

SERVER_VARIABLE = "LRPILOT_SERVER"
STATE_FORMAT = 2
"""Of `Driver.state_dict`."""

LONGEST_NOTE = 1000
"""Characters of a note on a report, as servers take them."""
LR_TOLERANCE = 0.01
"""A tensor LR may be of half precision."""

Batch = TypeVar("Batch")
log = logging.getLogger("lrpilot")


class Driver:
    """Tunes the LR of a training run: what the tuners of all frameworks share.

    `step` is called after every optimizer step. Between two reports it works alone: no network, no device
    synchronisation.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        server: str | None = None,
        credentials: Credentials | None = None,
        total_steps: int | None = None,
        lr_bounds: tuple[float, float] | None = None,
        policy: str | None = None,
        policy_options: Mapping[str, Any] | None = None,
        name: str = "",
        family: str = "",
        seed: int = 0,
        timeout_s: float = TIMEOUT_S,
        strict: bool = False,
        observers: Sequence[Observer] = (),
        transport: Transport | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Opens a job and sets the LR of the first step.

        `backend` is the run, in its framework's hands; `ranks` are those that train together with this process (None:
        it trains alone). The other arguments are described where users find them: `lrpilot.job_options.JobOptions`.

        Raises:
            ConfigError: an argument can't be accepted.
            RefusedError: the server doesn't accept the job; the message names the field.
            UnavailableError: the server isn't there, and `strict` is set.
        """
        self._backend = backend if ranks is None else DistributedBackend(backend, ranks)
        self._ranks = ranks
        self._total_steps = total_steps
        self._observers = tuple(observers)
        self._validations: list[pb.Validation] = []
        self._position = Position()
        self._finished = False
        self._closed = False
        self._meddled = False
        self._said_over = False
        self._repeats = False
        self._repetition = Repetition()
        self._strict = strict
        self._lease: Lease
        # The last report, then the answer to it, until what it asks for has begun.
        self._due: pb.Report | pb.Directive | None = None
        self._held = False
        self._astray = False
        self._abandoned = False
        self._lr = backend.base_lrs[0]
        config = job_config(
            name=name,
            family=family,
            policy=policy,
            policy_options=policy_options,
            total_steps=total_steps,
            lr_bounds=lr_bounds,
            base_lr=self._lr,
            seed=seed,
            has_validation=backend.has_validation,
        )
        self._config = config
        self._record = Record(backend.base_lrs)

        def connect() -> Session:
            return Session(transport or _connect(server, credentials), config, timeout_s, strict)

        self._session = connect() if ranks is None else SharedSession(ranks, config, connect)
        self._follow(self._session.open(self._standing()))

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Draws from a loader until the budget is spent: across epochs, and back again after a probe.

        May be called again: with the same loader it goes on where it was, with another one it starts at its beginning.

        Args:
            loader: anything that can be iterated anew for every epoch, or that never ends.

        Raises:
            ValueError: the loader is empty, or can't be iterated again.
        """
        buffer, begins = self._position.open(loader)
        if begins and self._lease.done == 0:
            if self._record.steps == 0:
                # What happened since the tuner was made (random numbers, loaded weights) belongs to the start.
                self._backend.take()
            self._repeats = self._position.follow(self._lease.directive)
        if self._finished:
            self._say_over("batches() gives none")
        while not self._finished:
            if not self._catch_up():
                yield buffer.draw()

    def step(self, loss: Any) -> None:
        """Takes the loss of the step that was just made, and prepares the next one.

        A step is an update of the weights: call it once for all micro-batches of one. An update that a registered
        GradScaler skipped is not counted.

        Args:
            loss: a scalar of the framework, on its device (it is not waited for), or a number.

        Raises:
            ValueError: the loss is not a scalar.
            ServerError: a decision can't be had, and `strict` is set.
        """
        if self._finished:
            self._say_over("step() does nothing, and the LR stays where it is")
            return
        if not self._backend.append(loss):
            return
        lease = self._lease
        lease.done += 1
        if lease.done >= lease.next_event:
            self._handle(lease)
        elif not lease.constant:
            self._set_lr(lease.lr())

    def search(self, loader: Iterable[Batch], train_step: Callable[[Batch], Any]) -> None:
        """Runs the search that is due, if one is, in a loop of its own: for frameworks that own the training loop.

        Args:
            loader: the training data; read from its start, and not the framework's own iterator.
            train_step: one optimizer step on a batch; gives its loss.

        Raises:
            ValueError: the loader is empty, or the loss is not a scalar.
            ServerError: a decision can't be had, and `strict` is set.
        """
        if not self.searching:
            return
        for batch in self.batches(loader):
            self.step(train_step(batch))
            if not self.searching:
                break
        self._position.leave()

    @property
    def searching(self) -> bool:
        """Whether the next step will be rolled back."""
        return not (self._finished or self._lease.committed)

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self._finished

    @property
    def closed(self) -> bool:
        """Whether the tuning was ended by `close`."""
        return self._closed

    @property
    def lr(self) -> float:
        """The first group's LR, of the next step."""
        return self._lr

    def get_last_lr(self) -> list[float]:
        """The LR of every group."""
        return self._backend.lrs()

    @property
    def job_id(self) -> str:
        """The server's name of the job; empty as long as no server has it."""
        return self._session.job_id

    @property
    def rank(self) -> int:
        """Of this process among those that train together; 0 if it trains alone."""
        return 0 if self._ranks is None else self._ranks.rank

    @property
    def committed_step(self) -> int:
        """Steps that are in the model, those of an open probe left out."""
        return self._record.committed + (self._open_steps if self._lease.committed else 0)

    @property
    def search_steps(self) -> int:
        """Steps that were, or will be, rolled back."""
        return self._record.searched + (0 if self._lease.committed else self._open_steps)

    @property
    def remaining_steps(self) -> int | None:
        """Steps that may still be run; None: there is no end."""
        return None if self._total_steps is None else self._total_steps - self.committed_step - self.search_steps

    @property
    def _open_steps(self) -> int:
        """Steps that are not in the record yet."""
        return 0 if self._finished else self._lease.done

    @property
    def stage(self) -> int:
        """The stage, from 0; -1 before the first, and without a server."""
        return int(self._lease.directive.stage)

    @property
    def phase(self) -> str:
        """What the present steps are for: warm_up, range_test, probe, train or stop."""
        return pb.Phase.Name(self._lease.directive.phase).removeprefix("PHASE_").lower()

    @property
    def schedule(self) -> Schedule:
        """The schedule so far, as far as it was reported."""
        return self._record.schedule(self.job_id, self._session.config)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from lrpilot.notebook import tuner_html

        return tuner_html(self)

    def keep_lr(self) -> None:
        """Says, once, that something else has set the LR since the tuner did, and sets it again, of all groups.

        Call it where others have their turn in a training loop that is not yours, as at the beginning of an epoch.
        """
        if not self._finished:
            self._look_at_lr()
            self._set_lr(self._lr)

    def decisions(self) -> list[pb.Decision]:
        """What the server decided so far, with the candidates' forecasts; costs a call. For loggers, on rank 0."""
        return self._session.decisions()

    def state_dict(self) -> dict[str, Any]:
        """All that a fresh process needs to go on, for your checkpoint; take it after `step`.

        It holds the snapshot too (as much again as model and optimizer), and inside a search the batches of one probe.
        """
        self._catch_up()
        lease = self._lease
        return {
            "format": STATE_FORMAT,
            "config": self._config.SerializeToString(),
            "session": self._session.state_dict(),
            "finished": self._finished,
            "held": self._held,
            "coasting": isinstance(lease, Coasting),
            "directive": lease.directive.SerializeToString(),
            "done": lease.done,
            "losses": self._backend.peek(),
            "validations": [validation.SerializeToString() for validation in self._validations],
            "elapsed_s": time.monotonic() - self._started,
            "record": self._record.state_dict(),
            "snapshot": self._snapshot_state(),
            "repeats": self._repeats,
            "first_loss": self._repetition.first_loss,
            "position": self._position.state_dict(),
            "random_state": RandomState.capture().state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was, after its model and optimizer were loaded too, and before `batches`.

        The server takes the job back there; the job that this tuner opened is cancelled. With the same data the run
        comes out as if it had not been interrupted.

        With another `total_steps` the run is planned anew, under the job that this tuner opened: there is no further
        search, and the LR goes from where it is to zero at the new end. A run that had come near zero before its new
        end rises first.

        Args:
            state: what `state_dict` gave.

        Raises:
            ConfigError: the state is of another format, or of a job with other arguments, or more steps have been made
                than `total_steps` are.
            RefusedError: the server can't take the job back there.
            ServerError: the server isn't there, and `strict` is set.
        """
        if state.get("format") != STATE_FORMAT:
            raise ConfigError(f"state: format {state.get('format')!r} is not {STATE_FORMAT}, which this LRPilot reads")
        saved = pb.JobConfig.FromString(state["config"])
        check_resumable(saved, self._config)
        anew = not same_budget(saved, self._config)
        self._record.load_state_dict(state["record"])
        if anew and self._total_steps is not None:
            remaining_steps(self._total_steps, self._record.steps + (0 if state["finished"] else state["done"]))
        if not anew:
            self._session.load_state_dict(state["session"])
        self._held = state["held"]
        if state["snapshot"] is not None:
            self._backend.load_state_dict(state["snapshot"])
        self._position.load_state_dict(state["position"], state["random_state"])
        self._repeats, self._repetition = state["repeats"], Repetition(state["first_loss"])
        self._finished = state["finished"]
        directive = pb.Directive.FromString(state["directive"])
        done, left = state["done"], self._standing().remaining
        self._lease = lease = Coasting(directive.profile, left, done) if state["coasting"] else Lease(directive, done)
        self._backend.begin(_room(directive), _limit(directive), state["losses"])
        self._validations = [pb.Validation.FromString(each) for each in state["validations"]]
        self._started = time.monotonic() - state["elapsed_s"]
        RandomState.from_state_dict(state["random_state"]).restore()
        if anew:
            self._plan_anew(state)
        elif not self._finished:
            self._set_lr(lease.lr())

    def _plan_anew(self, state: Mapping[str, Any]) -> None:
        """Ends what was open in a run whose budget was another, and goes on to the new end without a search."""
        lease, restored = self._lease, False
        if not self._finished and lease.done:
            restored = not lease.committed
            outcome = pb.OUTCOME_DIVERGED if restored else pb.OUTCOME_PARTIAL
            self._record.add(lease.directive, self._report(outcome, self._backend.flush()))
        if restored:
            self._backend.restore()
            random_state = RandomState.capture().state_dict()
            self._position.load_state_dict(self._position.rewound(state["position"]), random_state)
        self._finished = False
        lease.expire()
        standing = self._standing()
        assert standing.remaining is not None
        peak = peak_of_rest(self._record.peak_lr, standing.lr, self._record.committed, standing.remaining)
        self._follow(self._session.go_on(self._record.replacements(), standing, peak))

    def close(self) -> None:
        """Ends the tuning where it is: an open probe is rolled back, committed steps are reported. May be repeated.

        Of several ranks all must come here after the same step, unless an exception is on its way up: the others may be
        anywhere then, and none of them is waited for.
        """
        if self._closed or self._session.forked:
            return
        self._closed = True
        for end in (self._end, self._session.close, self._backend.close):
            try:
                end()
            except Exception as error:
                log.warning("lrpilot: closing: %s: %s", type(error).__name__, error)
        self._finished = True

    def _end(self) -> None:
        """Ends what is open."""
        lease = self._lease
        if self._finished:
            return
        if isinstance(lease, Coasting):
            self._settle()
        elif self._astray or not lease.committed:
            if self._held:
                self._backend.restore()
            self._set_lr(self._standing().lr)
        elif lease.done and (self._ranks is None or sys.exception() is None):
            report = self._report(pb.OUTCOME_PARTIAL, self._losses())
            self._book(report)
            self._session.answer(lease.directive, report, self._standing())
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _handle(self, lease: Lease) -> None:
        """What is due after this step besides an LR."""
        self._guarded(lambda: self._carry_on(lease))

    def _guarded(self, act: Callable[[], None]) -> None:
        """Whatever fails in `act` ends the tuning, and not the training.

        Raises:
            ServerError: `strict` is set.
            RuntimeError: another rank has gone, and with it the training.
        """
        try:
            act()
        except Exception as error:
            if (self._strict and isinstance(error, ServerError)) or (self._ranks is not None and self._ranks.lost):
                raise
            self._coast(error)

    def _catch_up(self) -> bool:
        """Does what an interrupt left undone; whether there was something."""
        if self._finished:
            return False
        lease = self._lease
        if self._due is not None:
            self._guarded(self._proceed)
        elif lease.done >= lease.directive.n_steps:
            self._handle(lease)
        else:
            return False
        return True

    def _carry_on(self, lease: Lease) -> None:
        if isinstance(lease, Coasting):
            self._settle()
            self._coast_along(lease.after())
            return
        if self._due is not None:
            raise InterruptedError("a decision was interrupted, and further steps were made meanwhile")
        event = lease.event()
        if (Event.CHECK in event and self._backend.diverged()) or (
            Event.VALIDATE in event and not self._validated(lease)
        ):
            self._advance(pb.OUTCOME_DIVERGED)
        elif Event.END in event:
            self._advance(pb.OUTCOME_COMPLETED)
        elif Event.PART in event:
            self._advance(pb.OUTCOME_PARTIAL)
        else:
            self._set_lr(lease.lr())

    def _advance(self, outcome: pb.Outcome.ValueType) -> None:
        """Reports, and follows the answer."""
        directive, losses = self._lease.directive, self._losses()
        self._look_at_lr()
        if first_divergence(losses, _limit(directive)) is not None:  # on CUDA the watch is a look behind
            outcome = pb.OUTCOME_DIVERGED
        elif outcome != pb.OUTCOME_DIVERGED and self._fell_short(directive, losses):
            outcome = pb.OUTCOME_FELL_SHORT
        note = self._note(losses)
        if note:
            log.warning("lrpilot: there is no further search: %s", note)
            outcome = pb.OUTCOME_UNREPEATABLE
        self._book(self._report(outcome, losses, note))
        self._proceed()

    def _note(self, losses: Sequence[float]) -> str:
        """What speaks against a probe as a repetition of the first one's beginning; empty: nothing."""
        repetition = self._repetition
        if not self._repeats or not repetition.differs(losses[0], self._backend.loss_noise):
            return ""
        return repetition.sentence(losses[0], attempt(self._backend.suspects) or [])[:LONGEST_NOTE]

    def _losses(self) -> list[float]:
        """Of all steps since the last report; those that an interrupt has lost are no numbers."""
        losses = self._backend.flush()
        self._repeats &= len(losses) == self._lease.done
        return [math.nan] * (self._lease.done - len(losses)) + losses

    def _proceed(self) -> None:
        """Asks what follows on the last report, and begins it; from where it was interrupted, if it was."""
        if isinstance(self._due, pb.Report):
            self._due = self._session.answer(self._lease.directive, self._due, self._standing())
        if self._due is not None:
            self._follow(self._due)
        self._due = None

    def _fell_short(self, directive: pb.Directive, losses: Sequence[float]) -> bool:
        """Whether these committed steps did worse than was promised."""
        bar = bar_of(directive.promise, self._lease.done - len(losses))
        validations = [validation.loss for validation in self._validations]
        return bar is not None and is_above(bar, losses, validations, self._record.last_validation)

    def _report(self, outcome: pb.Outcome.ValueType, losses: Sequence[float], note: str = "") -> pb.Report:
        return pb.Report(
            directive_number=self._lease.directive.number,
            outcome=outcome,
            losses=losses,
            validations=self._validations,
            wall_time_s=time.monotonic() - self._started,
            note=note,
        )

    def _book(self, report: pb.Report) -> None:
        lease, record = self._lease, self._record
        start = record.committed if lease.committed else record.searched
        self._astray = self._held and (rolls_back(report) or not lease.committed)
        booked = report
        if rolls_back(report) and not self._held:  # nothing can be taken back
            booked = pb.Report(losses=report.losses, validations=report.validations, outcome=pb.OUTCOME_PARTIAL)
        record.add(lease.directive, booked)
        self._due = report
        lease.expire()
        self._tell(lambda observer: observer.reported(self, lease.directive, report, start))

    def _follow(self, directive: pb.Directive) -> None:
        """Begins a directive. The order is part of the contract: restore, snapshot, then the LR."""
        restored = directive.restore
        if restored:
            directive = self._go_back(directive)
        if directive.phase == pb.PHASE_STOP:
            self._set_lr(self._standing().lr if restored else self._lr)
            self._finish()
            return
        if directive.snapshot:
            directive = self._remember(directive)
        together(self._ranks, lambda: self._begin(directive))
        lease = self._lease
        self._announce(lease)
        self._tell(lambda observer: observer.began(self, directive))
        if lease.validates_first:
            self._validated(lease)

    def _begin(self, directive: pb.Directive) -> None:
        self._repeats = self._position.follow(directive)
        if directive.snapshot:
            self._repetition = Repetition()
        self._lease = lease = Lease(directive)
        self._backend.begin(_room(directive), _limit(directive))
        self._validations = []
        self._started = time.monotonic()
        self._set_lr(lease.lr())

    def _announce(self, lease: Lease) -> None:
        """Says what comes next, and what nobody should overlook where people see it."""
        directive = lease.directive
        if begins_unsearched(directive, self._session.config):
            self._record.unsearched = True
            if self.rank == 0:
                log.warning(
                    "lrpilot: no search: %d steps are too few for one, so the highest LR is the %.3g that was set",
                    directive.n_steps,
                    lease.profile.start_lr,
                )
            return
        decided = lease.committed and lease.profile.offset == 0
        level = logging.INFO if decided else logging.DEBUG
        log.log(level, "lrpilot: directive %d, %s: %.500s", directive.number, self.phase, directive.reason)

    def _remember(self, directive: pb.Directive) -> pb.Directive:
        """Takes a directive's snapshot; where that fails in the middle of a run, the tuning ends, and not the run."""
        try:
            self._backend.take()
        except Exception as error:
            if self._record.steps == 0:
                self._session.close()
                raise  # nothing has begun: there is an argument to change
            self._held = False
            return self._abandon("no snapshot can be taken", error)
        self._held = True
        self._record.mark()
        return directive

    def _go_back(self, directive: pb.Directive) -> pb.Directive:
        """Restores for a directive; where that fails the tuning ends, and the run goes on with what was put back."""
        self._astray = False
        try:
            together(self._ranks, lambda: self._backend.restore(committed=self._lease.committed))
        except Exception as error:
            return directive if self._abandoned else self._abandon("the snapshot can't be put back", error)
        return directive

    def _abandon(self, what: str, error: Exception) -> pb.Directive:
        """What comes in place of a directive that the run, and not the server, has prevented."""
        if self._ranks is not None and (self._ranks.parted or self._ranks.lost):
            raise error
        self._abandoned = True
        return self._session.abandon(f"{what}: {type(error).__name__}: {error}", self._standing())

    def _snapshot_state(self) -> dict[str, Any] | None:
        """What is remembered, for a checkpoint; nothing if it can't be put back."""
        if self._abandoned:
            return None
        try:
            return self._backend.state_dict()
        except Exception as error:
            log.warning("lrpilot: a checkpoint without a snapshot: %s: %s", type(error).__name__, error)
            return None

    def _coast(self, error: Exception) -> None:
        """The tuning has failed in the middle of something: goes on without, over so many steps as are left."""
        log.warning(
            "lrpilot: the tuning has failed; training goes on without it, and anneals its LR: %s: %s",
            type(error).__name__,
            error,
            exc_info=error,
        )
        if self._ranks is not None:
            self._ranks.part()
        remaining = self._standing().remaining
        if remaining is not None:
            remaining = max(remaining - self._lease.done, 0)
        astray = self._settle()
        if astray:
            attempt(lambda: self._backend.restore(committed=self._lease.committed))
        follow = pb.Directive(phase=pb.PHASE_TRAIN, restore=astray, batches=pb.BATCH_SOURCE_REPLAYED)
        attempt(lambda: self._position.follow(follow))
        attempt(self._session.close)
        self._due, self._astray, self._abandoned = None, False, True
        self._coast_along(None if remaining == 0 else Coasting.over(remaining, self._standing().lr))

    def _settle(self) -> bool:
        """Books the steps since the last report, as far as that can be done; whether steps are to be rolled back."""
        lease = self._lease
        losses = attempt(self._losses)
        diverged = self._ranks is None and losses is not None and first_divergence(losses) is not None
        astray = self._astray or (self._held and lease.done > 0 and (diverged or not lease.committed))
        astray &= not isinstance(lease, Coasting)
        report = pb.Report(
            losses=[math.nan] * lease.done if losses is None else losses,
            outcome=pb.OUTCOME_DIVERGED if astray else pb.OUTCOME_PARTIAL,
        )
        if lease.done:
            attempt(lambda: self._record.add(lease.directive, report))
        lease.expire()
        return astray

    def _coast_along(self, lease: Coasting | None) -> None:
        """Goes on with so many steps, or ends after the last one."""
        if lease is None:
            self._finish()
            return
        self._lease, self._validations, self._started = lease, [], time.monotonic()
        attempt(lambda: self._backend.begin(lease.directive.n_steps))
        attempt(lambda: self._set_lr(lease.lr()))

    def _finish(self) -> None:
        self._finished = True
        self._backend.finish()
        log.info("lrpilot: done, %d steps committed and %d rolled back", self._record.committed, self._record.searched)
        self._tell(lambda observer: observer.finished(self))

    def _say_over(self, what: str) -> None:
        """Says, once, that the tuner is used after its end."""
        if not self._said_over:
            self._said_over = True
            spent = "" if self._total_steps is None else f", as the budget of {self._total_steps} steps is spent"
            log.warning("lrpilot: the tuning has ended%s: %s; to train on, make another tuner", spent, what)

    def _standing(self) -> Standing:
        """Where the reported steps have led."""
        record = self._record
        remaining = None if self._total_steps is None else max(self._total_steps - record.steps, 0)
        lr = record.last_lr or self._backend.base_lrs[0]
        return Standing(lr, remaining, warm=record.committed > 0, held=self._held)

    def _set_lr(self, lr: float) -> None:
        try:
            self._backend.set_lr(lr)
        except Exception as error:
            if self._record.steps == 0 and not self._due:
                raise  # nothing has begun: there is an argument to change
            if not self._meddled:
                self._meddled = True
                log.warning("lrpilot: the LR can't be set, and stays: %s: %s", type(error).__name__, error)
            return
        self._lr = lr

    def _look_at_lr(self) -> None:
        """Says, once, that something else sets the LR too."""
        lrs = attempt(self._backend.lrs)
        if not lrs:
            return
        [lr, *_] = lrs
        if not (self._meddled or math.isclose(lr, self._lr, rel_tol=LR_TOLERANCE)):
            self._meddled = True
            log.warning(
                "lrpilot: the LR is %.6g where the tuner had set %.6g: something else sets it too; take out the "
                "scheduler, callback or assignment that does, since the tuner warms up and decays by itself",
                lr,
                self._lr,
            )

    def _validated(self, lease: Lease) -> bool:
        """Validates, where that is possible; false if it shows a divergence in a probe."""
        if not self._backend.has_validation:
            return True
        loss = self._backend.validate()
        if loss is not None:
            self._validations.append(pb.Validation(step=lease.done, loss=loss))
        return loss is not None or lease.committed

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                what(observer)
            except Exception:
                log.warning("lrpilot: %s raised; training goes on", type(observer).__name__, exc_info=True)


def _connect(server: str | None, credentials: Credentials | None) -> Transport:
    target = server or os.environ.get(SERVER_VARIABLE)
    return GrpcTransport(target, credentials or Credentials.from_environment()) if target else EmbeddedTransport()


def _room(directive: pb.Directive) -> int:
    """How many losses come between two reports."""
    return min(directive.report_every or directive.n_steps, directive.n_steps)


def _limit(directive: pb.Directive) -> float:
    return directive.give_up_above if directive.HasField("give_up_above") else math.inf
