"""A server's stand-in that answers from a script: for tests and benchmarks of what follows directives."""

from __future__ import annotations

from collections.abc import Iterable

from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb


class ScriptedTransport(Transport):
    """Gives out directives in order, whatever the reports say, and then a stop.

    Attributes:
        config: the job's, once it is created.
        reports: what came in, oldest first.
        closed: whether the tuner has let go.
    """

    def __init__(self, directives: Iterable[pb.Directive]) -> None:
        """Takes the directives, which it numbers from 1 on, as a server does."""
        self._directives = iter(directives)
        self._n_sent = 0
        self.config = pb.JobConfig()
        self.reports: list[pb.Report] = []
        self.closed = False

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        """The first directive."""
        self.config = request.config
        directive = self._next()
        return pb.CreateJobResponse(
            job=pb.Job(id="scripted", config=self.config, directive=directive), directive=directive
        )

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        """Keeps the report; the next directive."""
        self.reports.append(request.report)
        return pb.AdvanceResponse(directive=self._next())

    def close(self) -> None:
        """Notes that it was let go of."""
        self.closed = True

    def _next(self) -> pb.Directive:
        directive = pb.Directive()
        directive.CopyFrom(next(self._directives, pb.Directive(phase=pb.PHASE_STOP, reason="the script has ended")))
        self._n_sent += 1
        directive.number = self._n_sent
        return directive
