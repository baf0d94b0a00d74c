"""A history: what clients asked, what they were told, and what was in the database in the end."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

from google.protobuf.message import Message
from lrpilot.v1 import tuner_pb2 as pb

UNKNOWN = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
"""Refusals that leave open whether what was asked for has happened."""


@dataclasses.dataclass(slots=True, eq=False)
class Call:
    """A message to a server, which may take effect once, between when it was sent and when it was answered."""

    client: str
    method: str
    request: Any
    begun: int
    """When it was sent, in the order of all that was sent and told."""
    ended: float = math.inf
    """When it was answered, or its process died: it takes effect no later. When it was sent: it never arrived."""
    answer: Any = None
    """What the server answered, whether or not the client heard it; None: it refused, or said nothing."""
    refused: str = ""
    """The status of a refusal that says that nothing has happened."""

    @property
    def told(self) -> bool:
        """Whether the server said what came of it. Otherwise it may have taken effect, or not."""
        return self.answer is not None or self.refused != ""

    def __str__(self) -> str:
        request = self.request
        match request:
            case pb.AdvanceRequest():
                what = f"report {request.report.directive_number} on job {request.job_id[:6]}"
            case pb.ResumeJobRequest():
                what = f"directive {request.directive_number} of job {request.job_id[:6]}"
            case pb.CreateJobRequest():
                what = f"request {request.request_id[:6]}"
            case _:
                what = f"job {request.job_id[:6]}"
        outcome = self.refused or ("answered" if self.answer is not None else "not answered")
        return f"{self.client}: {self.method} {what} [{self.begun}, {self.ended}]: {outcome}"


class History:
    """The calls of all clients, in the order in which they were sent."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.complaints: list[str] = []
        """What clients found wrong themselves."""
        self._order = itertools.count()

    def begin(self, client: str, method: str, request: Message) -> Call:
        """A message is sent."""
        copied = type(request)()
        copied.CopyFrom(request)
        call = Call(client, method, copied, next(self._order))
        self.calls.append(call)
        return call

    def end(self, call: Call, answer: Message | None, refused: str = "") -> None:
        """The server has answered."""
        call.ended, call.answer = next(self._order), answer
        if refused not in UNKNOWN:
            call.refused = refused

    def cut_off(self, call: Call) -> None:
        """The process that worked on it has died."""
        if call.ended == math.inf:
            call.ended = next(self._order)

    @staticmethod
    def never_arrives(call: Call) -> None:
        """It takes no effect."""
        call.ended = call.begun

    def complain(self, promise: str, words: str) -> None:
        """A client saw a promise broken."""
        self.complaints.append(f"{promise}: {words}")


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A job as the database has it in the end."""

    request_id: str
    prior: Any
    """What its family told when it was opened."""
    schedule: pb.GetScheduleResponse
    fingerprints: tuple[bytes | None, ...]
    """The digests of its reports."""
