"""The hook in a training loop."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, SupportsFloat, TypeVar

import torch
from torch import nn

from lrpilot.embedded import EmbeddedServer
from lrpilot.errors import ConfigError, ServerError
from lrpilot.group_lrs import GroupLrs
from lrpilot.job_config import job_config
from lrpilot.lease import Event, Lease, rest_of
from lrpilot.losses import LossBuffer, is_divergent
from lrpilot.outbox import Outbox
from lrpilot.record import Record
from lrpilot.replay import BatchBuffer
from lrpilot.rng import RandomState
from lrpilot.schedule import Schedule
from lrpilot.snapshot import Snapshot, Stateful
from lrpilot.transport.annealing import AnnealingTransport
from lrpilot.transport.base import Transport
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.validator import Validator

SERVER_VARIABLE = "LRPILOT_SERVER"
STATE_FORMAT = 1
"""Of `Tuner.state_dict`."""
TIMEOUT_S = 30.0
"""For one report, retries included: the longest that a training loop waits for its server."""

Batch = TypeVar("Batch")
log = logging.getLogger("lrpilot")


class Tuner:
    """Tunes the learning rate of a training loop.

    Draw batches from `batches()` and call `step(loss)` after every `optimizer.step()`. Between two reports it works
    alone: no network, no device synchronisation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        server: str | None = None,
        total_steps: int | None = None,
        lr_bounds: tuple[float, float] | None = None,
        policy: str | None = None,
        policy_options: Mapping[str, Any] | None = None,
        validate: Callable[[], SupportsFloat] | None = None,
        register: Mapping[str, Stateful] | None = None,
        name: str = "",
        family: str = "",
        seed: int = 0,
        timeout_s: float = TIMEOUT_S,
        transport: Transport | None = None,
    ) -> None:
        """Opens a job and sets the LR of the first step.

        Args:
            model: what is trained.
            optimizer: one, or several that are stepped together. Their LRs are the base: what is tuned is that of the
                first group of the first one; all others keep their ratios to it.
            server: HOST:PORT; None: `$LRPILOT_SERVER`, or an embedded server that ends with this run.
            total_steps: optimizer steps, search included; None: until you stop.
            lr_bounds: lowest and highest LR of the first group; None: found by a range test.
            policy: the algorithm; None: the server's default.
            policy_options: its options.
            validate: gives the validation loss; called seldom, and once at once, to see that it works. It may use
                random numbers and switch the model to evaluation: both are put back.
            register: what else changes as the model trains: a GradScaler, an average of the weights, a scheduler.
            name: of the job, for people.
            family: of jobs that resemble one another.
            seed: of the search.
            timeout_s: the longest wait for one answer, retries included.
            transport: in place of a server.

        Raises:
            ConfigError: an argument can't be accepted.
            UnavailableError: the server isn't there.
            RefusedError: the server doesn't accept the job; the message names the field.
        """
        optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        self._groups = GroupLrs(optimizers)
        self._snapshot = Snapshot(model, optimizers, dict(register or {}))
        self._total_steps = total_steps
        self._losses = LossBuffer()
        self._validations: list[pb.Validation] = []
        self._buffer: BatchBuffer[Any] | None = None
        self._marked = False
        self._resumed: Mapping[str, Any] | None = None
        self._finished = False
        self._closed = False
        self._lr = self._groups.base_lrs[0]
        config = job_config(
            name=name,
            family=family,
            policy=policy,
            policy_options=policy_options,
            total_steps=total_steps,
            lr_bounds=lr_bounds,
            base_lr=self._lr,
            seed=seed,
            has_validation=validate is not None,
        )
        self._validator = Validator(validate, model) if validate is not None else None
        self._embedded: EmbeddedServer | None = None
        self._transport = transport or self._connect(server, timeout_s)
        try:
            request = pb.CreateJobRequest(request_id=str(uuid.uuid4()), config=config)
            response = self._transport.create_job(request)
        except ServerError:
            self._release()
            raise
        self.job_id: str = response.job.id
        """The server's name of the job."""
        self._timeout_s = timeout_s
        self._outbox = Outbox(self._transport, self.job_id, timeout_s)
        self._record = Record(response.job, self._groups.base_lrs)
        log.info("lrpilot: job %s, policy %s", self.job_id, response.job.config.policy)
        self._follow(response.directive)

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Draws from a loader until the budget is spent: across epochs, and back again after a probe.

        Args:
            loader: anything that can be iterated anew for every epoch, or that never ends.

        Raises:
            ValueError: the loader is empty, or can't be iterated again.
        """
        buffer = BatchBuffer(loader)
        self._buffer = buffer
        if self._resumed is not None:
            buffer.load_state_dict(self._resumed["data"])
            RandomState.from_state_dict(self._resumed["random_state"]).restore()
            self._resumed = None
        elif self._record.steps == 0 and self._lease.done == 0:
            # What happened since the tuner was made (random numbers, loaded weights) belongs to the start.
            self._snapshot.take()
            self._place(self._lease.directive)
        while not self._finished:
            yield buffer.draw()

    def step(self, loss: torch.Tensor | SupportsFloat) -> None:
        """Takes the loss of the step that was just made, and prepares the next one.

        Raises:
            ValueError: the loss is not a scalar.
        """
        if self._finished:
            return
        self._losses.append(loss)
        lease = self._lease
        lease.done += 1
        if lease.done >= lease.next_event:
            self._handle(lease)
        elif not lease.constant:
            self._set_lr(lease.lr())

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self._finished

    @property
    def lr(self) -> float:
        """The first group's LR, of the next step."""
        return self._lr

    def get_last_lr(self) -> list[float]:
        """The LR of every group."""
        return self._groups.get()

    @property
    def committed_step(self) -> int:
        """Steps that are in the model, those of an open probe left out."""
        return self._record.committed + (self._open_steps if self._lease.committed else 0)

    @property
    def search_steps(self) -> int:
        """Steps that were, or will be, rolled back."""
        return self._record.searched + (0 if self._lease.committed else self._open_steps)

    @property
    def _open_steps(self) -> int:
        """Steps that are not in the record yet."""
        return 0 if self._finished else self._lease.done

    @property
    def stage(self) -> int:
        """The stage, from 0; -1 before the first."""
        return int(self._lease.directive.stage)

    @property
    def phase(self) -> str:
        """What the present steps are for: warm_up, range_test, probe, train or stop."""
        return pb.Phase.Name(self._lease.directive.phase).removeprefix("PHASE_").lower()

    @property
    def schedule(self) -> Schedule:
        """The schedule so far, as far as it was reported."""
        return self._record.schedule()

    def state_dict(self) -> dict[str, Any]:
        """All that a fresh process needs to go on, for your checkpoint; take it after `step`.

        It holds the snapshot too (as much again as model and optimizer), and inside a search the batches of one probe.
        """
        lease = self._lease
        return {
            "format": STATE_FORMAT,
            "job_id": self.job_id,
            "finished": self._finished,
            "alone": isinstance(self._transport, AnnealingTransport),
            "directive": lease.directive.SerializeToString(),
            "done": lease.done,
            "losses": self._losses.peek(),
            "waiting": [report.SerializeToString() for report in self._outbox.waiting],
            "validations": [validation.SerializeToString() for validation in self._validations],
            "elapsed_s": time.monotonic() - self._started,
            "record": self._record.state_dict(),
            "snapshot": self._snapshot.state_dict(),
            "marked": self._marked,
            "data": self._buffer.state_dict() if self._buffer else None,
            "random_state": RandomState.capture().state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where another process was, after its model and optimizer were loaded too, and before `batches`.

        The server takes the job back there; the job that this tuner opened is cancelled. With the same data the run
        comes out as if it had not been interrupted.

        Raises:
            ConfigError: the state is of another format.
            ServerError: the server isn't there, or doesn't have the job any more.
        """
        if state.get("format") != STATE_FORMAT:
            raise ConfigError(f"state: format {state.get('format')!r} is not {STATE_FORMAT}, which this LRPilot reads")
        directive = pb.Directive.FromString(state["directive"])
        waiting = [pb.Report.FromString(each) for each in state["waiting"]]
        if not (state["alone"] or state["finished"]):
            self._take_over(state["job_id"], waiting[0].directive_number if waiting else directive.number)
        self.job_id = state["job_id"]
        self._outbox = Outbox(self._transport, self.job_id, self._timeout_s, waiting)
        self._record.load_state_dict(state["record"], self.job_id)
        self._snapshot.load_state_dict(state["snapshot"])
        self._marked, self._finished = state["marked"], state["finished"]
        self._lease = lease = Lease(directive, state["done"])
        self._losses.begin(directive.report_every or directive.n_steps, _limit(directive), state["losses"])
        self._validations = [pb.Validation.FromString(each) for each in state["validations"]]
        self._started = time.monotonic() - state["elapsed_s"]
        self._resumed = state if state["data"] is not None else None
        RandomState.from_state_dict(state["random_state"]).restore()
        if self._finished:
            return
        self._set_lr(lease.lr())
        if state["alone"]:
            if lease.done:
                self._record.add(directive, self._report(pb.OUTCOME_PARTIAL, self._losses.flush()))
            self._follow(self._go_alone("it had ended before the checkpoint", directive.number + 1, restore=False))

    def _take_over(self, job_id: str, number: int) -> None:
        """Has the server take the old job back to directive `number`, and drop the one that was opened meanwhile."""
        self._transport.resume_job(pb.ResumeJobRequest(job_id=job_id, directive_number=number))
        if job_id != self.job_id:
            with contextlib.suppress(ServerError):
                reason = f"its run goes on as job {job_id}"
                self._transport.cancel_job(pb.CancelJobRequest(job_id=self.job_id, reason=reason))

    def close(self) -> None:
        """Ends the tuning where it is: an open probe is rolled back, committed steps are reported. May be repeated."""
        if self._closed:
            return
        self._closed = True
        lease = self._lease
        if not self._finished and not lease.committed:
            self._snapshot.restore()
            self._set_lr(self._record.last_lr or self._groups.base_lrs[0])
        elif not self._finished and lease.done:
            report = self._report(pb.OUTCOME_PARTIAL, self._losses.flush())
            self._record.add(lease.directive, report)
            try:
                self._outbox.send(report)
            except ServerError as error:
                log.warning("lrpilot: the last %d steps could not be reported: %s", lease.done, error)
        self._finished = True
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _handle(self, lease: Lease) -> None:
        """What is due after this step besides an LR."""
        event = lease.event()
        if (Event.CHECK in event and self._losses.check()) or (Event.VALIDATE in event and not self._validated(lease)):
            self._advance(pb.OUTCOME_DIVERGED)
        elif Event.END in event:
            self._advance(pb.OUTCOME_COMPLETED)
        elif Event.PART in event:
            self._advance(pb.OUTCOME_PARTIAL)
        else:
            self._set_lr(lease.lr())

    def _advance(self, outcome: pb.Outcome.ValueType) -> None:
        """Reports, and follows the answer; without an answer, goes on alone."""
        lease, losses = self._lease, self._losses.flush()
        limit = _limit(lease.directive)
        if any(is_divergent(loss, limit) for loss in losses):  # on CUDA the watch is a look behind
            outcome = pb.OUTCOME_DIVERGED
        report = self._report(outcome, losses)
        self._record.add(lease.directive, report)
        try:
            if outcome == pb.OUTCOME_PARTIAL:
                directive = self._outbox.offer(report) or rest_of(lease.directive, lease.done)
            else:
                directive = self._outbox.send(report)
        except ServerError as error:
            rolled_back = not lease.committed or outcome == pb.OUTCOME_DIVERGED
            directive = self._go_alone(str(error), lease.directive.number + 1, rolled_back)
        self._follow(directive)

    def _report(self, outcome: pb.Outcome.ValueType, losses: Sequence[float]) -> pb.Report:
        return pb.Report(
            directive_number=self._lease.directive.number,
            outcome=outcome,
            losses=losses,
            validations=self._validations,
            wall_time_s=time.monotonic() - self._started,
        )

    def _follow(self, directive: pb.Directive) -> None:
        """Begins a directive. The order is part of the contract: restore, snapshot, then the LR."""
        if directive.phase == pb.PHASE_STOP:
            remaining = self._remaining()
            if remaining == 0:
                self._finish(directive)
                return
            directive = self._go_alone(directive.reason, directive.number, directive.restore)
        if directive.restore:
            self._snapshot.restore()
        if directive.snapshot:
            self._snapshot.take()
            self._record.mark()
        self._place(directive)
        self._lease = lease = Lease(directive)
        self._losses.begin(directive.report_every or directive.n_steps, _limit(directive))
        self._validations = []
        self._started = time.monotonic()
        self._set_lr(lease.lr())
        log.debug("lrpilot: directive %d, %s: %s", directive.number, self.phase, directive.reason)
        if lease.validates_first:
            self._validated(lease)

    def _place(self, directive: pb.Directive) -> None:
        """Puts the data where a directive starts."""
        if self._buffer is None:
            return
        replayed = directive.batches == pb.BATCH_SOURCE_REPLAYED
        if directive.phase in (pb.PHASE_WARM_UP, pb.PHASE_TRAIN):
            if directive.restore and self._marked:
                self._buffer.rewind()
            self._buffer.release()
            self._marked = False
        elif directive.snapshot and replayed:
            self._buffer.mark()
            self._marked = True
        elif replayed and self._marked:
            self._buffer.rewind()

    def _finish(self, directive: pb.Directive) -> None:
        if directive.restore:
            self._snapshot.restore()
            self._set_lr(self._record.last_lr or self._groups.base_lrs[0])
        self._finished = True
        log.info("lrpilot: done, %d committed and %d search steps", self._record.committed, self._record.searched)

    def _go_alone(self, why: str, number: int, restore: bool) -> pb.Directive:
        """The tuning ends, the training goes on: what is left is annealed."""
        log.warning("lrpilot: tuning ends, training goes on and anneals its LR: %s", why)
        self._release()
        lr = self._record.last_lr or self._groups.base_lrs[0]
        alone = AnnealingTransport(lr, self._remaining())
        self._transport = alone
        self._outbox = Outbox(alone, self.job_id, self._timeout_s)
        return alone.begin(number, restore)

    def _remaining(self) -> int | None:
        return None if self._total_steps is None else self._total_steps - self._record.steps

    def _set_lr(self, lr: float) -> None:
        self._groups.set(lr)
        self._lr = lr

    def _connect(self, server: str | None, timeout_s: float) -> Transport:
        target = server or os.environ.get(SERVER_VARIABLE)
        if not target:
            self._embedded = EmbeddedServer()
            target = self._embedded.target
        return GrpcTransport(target, timeout_s)

    def _release(self) -> None:
        """Lets go of the server."""
        if hasattr(self, "_transport"):
            self._transport.close()
        if self._embedded is not None:
            self._embedded.close()
            self._embedded = None

    def _validated(self, lease: Lease) -> bool:
        """Validates; false if that shows a divergence in a probe."""
        assert self._validator is not None
        loss = self._validator.loss()
        if loss is not None:
            self._validations.append(pb.Validation(step=lease.done, loss=loss))
        return loss is not None or lease.committed


def _limit(directive: pb.Directive) -> float:
    return directive.give_up_above if directive.HasField("give_up_above") else math.inf
