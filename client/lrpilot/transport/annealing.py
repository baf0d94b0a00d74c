"""The server's stand-in when there is none to ask any more: what is left of the budget is annealed to zero.

A tuner that lost its server (or whose tuning was cancelled) goes on with this, and its loop notices nothing.
"""

from __future__ import annotations

from lrpilot.lease import rest_of
from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb

PART = 1000
"""Steps between two looks; losses are buffered for so long."""
RETREAT = 0.5
"""What a divergence multiplies the LR by."""


class AnnealingTransport(Transport):
    """Directives for `remaining_steps` from `lr` linearly to zero; without a known end, at `lr` for ever."""

    def __init__(self, lr: float, remaining_steps: int | None) -> None:
        """Starts at `lr`; `remaining_steps` None: there is no end."""
        self._lr = lr
        self._remaining = remaining_steps
        self._open = pb.Directive()

    def begin(self, number: int, restore: bool) -> pb.Directive:
        """The first directive."""
        if self._remaining == 0:
            return pb.Directive(number=number, phase=pb.PHASE_STOP, restore=restore, reason="the budget is spent")
        n_steps = PART if self._remaining is None else self._remaining
        constant = self._remaining is None
        self._open = pb.Directive(
            number=number,
            phase=pb.PHASE_TRAIN,
            stage=-1,
            n_steps=n_steps,
            profile=pb.Profile(
                shape=pb.PROFILE_SHAPE_CONSTANT if constant else pb.PROFILE_SHAPE_LINEAR,
                start_lr=self._lr,
                end_lr=self._lr if constant else 0.0,
                length=n_steps,
            ),
            restore=restore,
            batches=pb.BATCH_SOURCE_REPLAYED,
            report_every=PART,
            reason="without a server: annealing",
        )
        return self._open

    def create_job(self, request: pb.CreateJobRequest) -> pb.CreateJobResponse:
        """Never called: a job that has no server to begin with is refused."""
        raise NotImplementedError

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        """The rest after a part; after the end, the stop; after a divergence, half the LR from the snapshot."""
        report, done = request.report, len(request.report.losses)
        number = report.directive_number + 1
        if report.outcome == pb.OUTCOME_PARTIAL:
            self._open = rest_of(self._open, done)
        else:
            diverged = report.outcome == pb.OUTCOME_DIVERGED
            self._lr *= RETREAT if diverged else 1.0
            if self._remaining is not None:
                self._remaining -= self._open.profile.offset + done
            self._open = self.begin(number, restore=diverged)
        return pb.AdvanceResponse(directive=self._open)

    def close(self) -> None:
        """Nothing to let go of."""
