"""Carries out a tuner's directives on a training run, in whatever framework."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar

from lrpilot.backends.base import Backend
from lrpilot.credentials import Credentials
from lrpilot.distributed.session import SharedSession
from lrpilot.narration.narrator import Narrator
from lrpilot.narration.screen import screen
from lrpilot.run.argument_check import checked, maximises
from lrpilot.run.observer import Observer
from lrpilot.run.options import TIMEOUT_S
from lrpilot.run.run_plan import planned_steps
from lrpilot.run.runners.drawing import DrawingRunner
from lrpilot.schedule.from_proto import ending_from_proto
from lrpilot.schedule.schedule import Schedule
from lrpilot.session.job_config import job_config
from lrpilot.session.session import Session
from lrpilot.transport.base import Transport
from lrpilot.transport.embedded_transport import EmbeddedTransport
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.schedule_data import Validation
from lrpilot.wire.text.job_names import called
from lrpilot.wire.text.plain_text import plain
from lrpilot.wire.weights import Weights

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks

SERVER_VARIABLE = "LRPILOT_SERVER"

Batch = TypeVar("Batch")
log = logging.getLogger("lrpilot")


class Driver(DrawingRunner):
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
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        total_time_s: float | None = None,
        stop_when: float | str | None = None,
        mode: Literal["min", "max"] = "min",
        lr_bounds: tuple[float, float] | None = None,
        policy: str | None = None,
        policy_options: Mapping[str, Any] | None = None,
        name: str = "",
        family: str = "",
        seed: int = 0,
        record: Sequence[str] = (),
        timeout_s: float = TIMEOUT_S,
        strict: bool = False,
        adopt: bool = True,
        observers: Sequence[Observer] = (),
        progress: bool | None = None,
        transport: Transport | None = None,
        ranks: Ranks | None = None,
        population: bool = False,
    ) -> None:
        """Opens a job and sets the LR of the first step.

        `backend` is the run, in its framework's hands; `ranks` are those that train together with this process (None:
        it trains alone), and with `population` each tries probes of its own. The other arguments are described where
        users find them: `lrpilot.run.options.JobOptions`.

        Raises:
            ConfigError: an argument can't be accepted.
            RefusedError: the server finds fault with an argument, which the message names; or with `strict` it refuses.
            UnavailableError: the server isn't there, and `strict` is set.
        """
        given = checked(
            total_steps=planned_steps(total_steps, epochs, steps_per_epoch),
            total_time_s=total_time_s,
            timeout_s=timeout_s,
            strict=strict,
            adopt=adopt,
            population=population,
            observers=observers,
            progress=progress,
            credentials=credentials,
            transport=transport,
        )
        told = checked(
            name=name, family=family, policy=policy, policy_options=policy_options, lr_bounds=lr_bounds, seed=seed
        )
        ends = {name: given[name] for name in ("total_steps", "total_time_s")}
        super().__init__(backend, ranks, **ends, **{name: given[name] for name in ("strict", "adopt", "population")})
        self._observers = given["observers"]
        self._closing = False
        self._config = config = job_config(
            **told, **ends, **self._traits(mode), stop_when=stop_when, recorded=checked(record=record)["record"]
        )

        def connect() -> Session:
            return Session(transport or _connect(server, credentials), config, given["timeout_s"], given["strict"])

        self._session = connect() if ranks is None else SharedSession(ranks, config, connect)
        first = self._session.open(self._run_state())
        seen = screen(progress) if self.rank == 0 else None
        self._narrator = None if seen is None else Narrator(seen)
        if self._narrator is not None:
            self._narrator.opened(self, _whereabouts(server, transport), name, self._session.config.policy)
        self._follow(first)
        if isinstance(self._session, Session):
            weakref.finalize(self, _leave, self._session).atexit = False  # the session sees to that itself

    def _traits(self, mode: Literal["min", "max"]) -> dict[str, Any]:
        """What a job's config tells of the run itself, besides what the user chose."""
        backend = self._backend
        return {
            "base_lr": self._lr.now,
            "has_validation": backend.has_validation,
            "maximises": maximises(mode, validates=backend.has_validation),
            "measures": backend.measures,
            "members": self._members if self._members > 1 else 0,
            "has_average": backend.average is not None,
        }

    def step(self, loss: Any) -> None:
        """Takes the loss of the step that was just made, and prepares the next one.

        A step is an update of the weights: call it once for all micro-batches of one. An update that a registered
        GradScaler skipped is not counted.

        Args:
            loss: a scalar of the framework, on its device (it is not waited for), or a number.

        Raises:
            ValueError: the loss is not a scalar.
            ConfigError: the ranks are a population, and the loop draws batches by itself.
            ServerError: a decision can't be had, and `strict` is set.
        """
        if self._finished:
            self._say_over("step() does nothing, and the LR stays where it is")
            return
        self._drawn = 0
        self._check_data()
        if not self._backend.append(loss):
            return
        lease = self._lease
        lease.done += 1
        if time.monotonic() >= self._session.beat_due:
            self._session.beat(lease.done)
        if lease.done >= lease.next_event:
            self._handle(lease)
        elif not lease.constant:
            self._lr.set(lease.lr(), begun=True)

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
        try:
            for batch in self.batches(loader):
                self.step(train_step(batch))
                if not self.searching:
                    break
        finally:
            self._position.leave()

    @property
    def finished(self) -> bool:
        """Whether the budget is spent. What an interrupt has left undone is done before this is said."""
        if self._interrupted:
            self._catch_up()
        return self._finished

    @property
    def closed(self) -> bool:
        """Whether the tuning was ended by `close`."""
        return self._closed

    @property
    def lr(self) -> float:
        """The first group's LR, of the next step."""
        return self._lr.now

    def get_last_lr(self) -> list[float]:
        """The LR of every group."""
        return self._backend.lrs()

    @property
    def job_id(self) -> str:
        """The server's name of the job; empty as long as no server has it."""
        return self._session.job_id

    @property
    def rank(self) -> int:
        """The number of this process among those that train together; 0 if it trains alone."""
        return 0 if self._ranks is None else self._ranks.rank

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the run, search included, by its plan and the changes that wait; None: there is no end."""
        return self._plan.latest_total_steps

    @property
    def stage(self) -> int:
        """The stage, from 1; 0 before the first, and without a server."""
        return int(self._lease.directive.stage)

    @property
    def mode(self) -> str:
        """Whether what `validate` gives is minimised, "min", or maximised, "max"."""
        return "max" if self._config.maximises else "min"

    @property
    def phase(self) -> str:
        """What the present steps are for: warm_up, range_test, probe, train or stop."""
        return pb.Phase.Name(self._lease.directive.phase).removeprefix("PHASE_").lower()

    @property
    def schedule(self) -> Schedule:
        """The schedule so far, as far as it was reported."""
        return self._record.schedule(self.job_id, self._session.config, self._plan.total_steps)

    def __repr__(self) -> str:
        """What a person wants to know: the job, how far it is, and what it does."""
        name = called(self._config.name, self.job_id)
        named = f" {name!r}" if name else ""
        end = "" if self.total_steps is None else f" of {self.total_steps:,}"
        steps = f"{self.committed_step:,} committed and {self.search_steps:,} search steps{end}"
        state = "finished" if self._finished else f"{self.phase} at LR {self.lr:.3g}"
        job = plain(self.job_id[:8]) or "at no server"
        return f"<{type(self).__name__}{named}: job {job}, {steps}, {state}>"

    def __reduce__(self) -> NoReturn:
        """Raises: TypeError: always; a tuner belongs to a running loop."""
        raise TypeError(
            f"a {type(self).__name__} can't be pickled or copied: it belongs to a training loop that runs; save its "
            "state_dict(), and load that into one that is made anew"
        )

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from lrpilot.schedule.notebook import tuner_html

        return tuner_html(self)

    @property
    def adopted(self) -> str | None:
        """The weights that the run has ended with: "last" or "average". None: it goes on, or has had no average."""
        return self._ending.adopted

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model holds the average of its weights, in training too; then it has its own again.

        Where the average was adopted the model holds it already.

        Raises:
            LRPilotError: no average is kept: the policy asks for none, or the tuner was closed.
        """
        return self._ending.averaged()

    def keep_lr(self) -> None:
        """Says, once, that something else has set the LR since the tuner did, and sets it again, of all groups.

        Call it where others have their turn in a training loop that is not yours, as at the beginning of an epoch.
        """
        if not self._finished:
            self._lr.look()
            self._set_lr(self._lr.now)

    def decisions(self) -> list[pb.Decision]:
        """What the server decided so far, with the candidates' forecasts; costs a call. For loggers, on rank 0."""
        return self._session.decisions()

    def close(self) -> None:
        """Ends the tuning where it is: an open probe is rolled back, committed steps are reported. May be repeated.

        A server is told that the run has stopped, unless that was its end.

        Of several ranks all must come here after the same step, unless an exception is on its way up: the others may be
        anywhere then, and none of them is waited for.
        """
        if self._closed or self._session.forked:
            return
        self._closing = not self._finished
        for end in (self._end, self._session.close, self._backend.close):
            try:
                end()
            except Exception as error:
                log.warning("lrpilot: closing: %s: %s", type(error).__name__, error)
        self._finished = self._closed = True
        self._tell_end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _on_drawn(self) -> None:
        if self._narrator is not None and time.monotonic() >= self._narrator.due:
            self._narrator.look(self)

    def _on_begun(self, directive: pb.Directive) -> None:
        self._tell(lambda observer: observer.began(self, directive))

    def _on_decided(self, directive: pb.Directive) -> None:
        if self._narrator is not None:
            peak_lr = self._lease.profile.highest_lr(directive.n_steps) or self.lr
            self._narrator.decided(self, peak_lr, directive.n_steps, directive.reason)

    def _on_resumed(self) -> None:
        if self._narrator is not None:
            self._narrator.resumed(self, self._config.name)

    def _on_reported(self, directive: pb.Directive, report: pb.Report, start: int) -> None:
        if self._narrator is not None:
            self._narrator.reported(list(report.losses))
        self._tell(lambda observer: observer.reported(self, directive, report, start))

    def _on_finished(self) -> None:
        decided = self._ending.decided
        if decided is not None and self._ending.adopted is Weights.AVERAGE:
            ending = ending_from_proto(decided)
            log.info("lrpilot: the run ends with %s", (ending.turned() if self.mode == "max" else ending).words)
        self._tell_end()
        self._tell(lambda observer: observer.finished(self))

    def _tell_end(self) -> None:
        """Tells whoever watches of the end, once."""
        if self._narrator is not None:
            found, decided = list(self._record.validations), self._ending.decided
            if decided is not None and self._ending.adopted is Weights.AVERAGE and decided.HasField("average"):
                found.append(Validation(self.committed_step, decided.average))  # of the weights that the model has now
            validations = [each.turned() if self.mode == "max" else each for each in found]
            self._narrator.finished(self, self._record.peak_lr, validations, "closed" if self._closing else "done")
            self._narrator = None

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                what(observer)
            except Exception:
                log.warning("lrpilot: %s raised; training goes on", type(observer).__name__, exc_info=True)


def _leave(session: Session) -> None:
    """Says that a job is left whose tuner is gone with nobody having closed it, as where a notebook's cell ran again.

    In a thread: it may be called anywhere, and nobody is to wait.
    """
    if not session.forked:
        with contextlib.suppress(RuntimeError):  # the interpreter is about to end
            threading.Thread(target=session.end, daemon=True).start()


def _target(server: str | None) -> str | None:
    """The server that is named, by the argument or by the environment; None: an embedded one is to be started."""
    return server or os.environ.get(SERVER_VARIABLE)


def _connect(server: str | None, credentials: Credentials | None) -> Transport:
    target = _target(server)
    return GrpcTransport(target, credentials or Credentials.from_environment()) if target else EmbeddedTransport()


def _whereabouts(server: str | None, transport: Transport | None) -> str:
    """Where a job is, in words."""
    if transport is not None:
        return "on a transport of its own"
    target = _target(server)
    return f"on {target}" if target else "on an embedded server"
