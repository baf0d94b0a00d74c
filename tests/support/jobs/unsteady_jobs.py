"""Jobs whose server is away now and then: before it has heard a call, or before its answer has arrived."""

from __future__ import annotations

from lrpilot.errors import UnavailableError
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.jobs.kept_jobs import KeptJobs


class UnsteadyJobs(KeptJobs):
    """The same, out of reach whenever it is told to be."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        """Whether no call arrives."""
        self.lose_answers = 0
        """So many answers don't arrive."""

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        self._arrive()
        return super().create_job(request, timeout_s)

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self._arrive()
        response = super().advance(request, timeout_s)
        if self.lose_answers:
            self.lose_answers -= 1
            raise UnavailableError("the answer was lost", "UNAVAILABLE")
        return response

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        self._arrive()
        return super().resume_job(request, timeout_s)

    def _arrive(self) -> None:
        if self.away:
            raise UnavailableError("away", "UNAVAILABLE")
