"""What a tuner needs of a server."""

from __future__ import annotations

import abc

from lrpilot.errors import RefusedError
from lrpilot.v1 import tuner_pb2 as pb


class Transport(abc.ABC):
    """The calls that a tuner makes. Each may be repeated: a server gives the same answer.

    `timeout_s` is the longest wait for an answer, retries included.
    """

    @abc.abstractmethod
    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        """Opens a job. Raises: ServerError."""

    @abc.abstractmethod
    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        """Reports, and gets the next directive. Raises: ServerError."""

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        """Takes a job back to an earlier directive. Raises: ServerError: also where nothing is kept to go back to."""
        raise RefusedError(f"job {request.job_id} can't be resumed here", "UNIMPLEMENTED")

    def beat(self, request: pb.BeatRequest) -> None:
        """Says that steps are made; nobody waits for the answer. Raises: ServerError: nobody takes signs here."""
        raise RefusedError(f"job {request.job_id} needs no signs here", "UNIMPLEMENTED")

    def leave_job(self, request: pb.LeaveJobRequest, timeout_s: float) -> pb.LeaveJobResponse:
        """Says that this client is done with a job. Raises: ServerError: also where nobody keeps jobs."""
        raise RefusedError(f"job {request.job_id} can't be left here", "UNIMPLEMENTED")

    def get_schedule(self, request: pb.GetScheduleRequest, timeout_s: float) -> pb.GetScheduleResponse:
        """What was decided so far. Raises: ServerError: also where nothing is kept."""
        raise RefusedError(f"job {request.job_id} has no history here", "UNIMPLEMENTED")

    @abc.abstractmethod
    def close(self) -> None:
        """Lets go of the server."""
