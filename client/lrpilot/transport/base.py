"""What a tuner needs of a server. Any object with these methods will do: a test needs no network."""

from __future__ import annotations

from typing import Protocol

from lrpilot.v1 import tuner_pb2 as pb


class Transport(Protocol):
    """The calls that a tuner makes. Each may be repeated: the server gives the same answer."""

    def create_job(self, request: pb.CreateJobRequest) -> pb.CreateJobResponse:
        """Opens a job. Raises: ServerError."""
        ...

    def advance(self, request: pb.AdvanceRequest) -> pb.AdvanceResponse:
        """Reports, and gets the next directive. Raises: ServerError."""
        ...

    def close(self) -> None:
        """Lets go of the server."""
        ...
