"""A tuner's server without a server: the job's state machine, called directly."""

from __future__ import annotations

from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState
from tuner_server.core.search.prior import Prior
from tuner_server.rpc import convert


class LocalTransport(Transport):
    """One job in this process. Its decisions are the server's, bit for bit."""

    def __init__(self, prior: Prior | None = None) -> None:
        """A job that starts from `prior`."""
        self._prior = prior
        self._state: JobState | None = None

    @property
    def state(self) -> JobState:
        """The job's; there is one once it was created."""
        assert self._state is not None
        return self._state

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        transition = machine.create(convert.config_from_pb(request.config), self._prior)
        self._state = transition.state
        directive = convert.directive_to_pb(transition.directive)
        config = convert.config_to_pb(transition.state.config)
        return pb.CreateJobResponse(job=pb.Job(id="local", config=config), directive=directive)

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        transition = machine.advance(self.state, convert.report_from_pb(request.report))
        self._state = transition.state
        return pb.AdvanceResponse(directive=convert.directive_to_pb(transition.directive))

    def close(self) -> None:
        """Nothing to let go of."""
