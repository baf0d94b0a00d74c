"""Reports on their way to the server: in order, none lost, none waited for that need not be."""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterable

from lrpilot.errors import UnavailableError
from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb

PART_TIMEOUT_S = 0.5
"""The longest that training waits for an answer that it can do without. A directive has some twenty parts, so a server
that is away through all of it costs ten seconds."""

log = logging.getLogger("lrpilot")


class Outbox:
    """Reports of one job. What can't be delivered waits here, and goes out with a later report, unchanged."""

    def __init__(self, transport: Transport, job_id: str, timeout_s: float, waiting: Iterable[pb.Report] = ()) -> None:
        """Reports on `job_id`; waits up to `timeout_s` for an answer that is needed."""
        self._transport = transport
        self._job_id = job_id
        self._timeout_s = timeout_s
        self._waiting = collections.deque(waiting)

    @property
    def waiting(self) -> list[pb.Report]:
        """What has not been delivered, oldest first."""
        return list(self._waiting)

    def offer(self, report: pb.Report) -> pb.Directive | None:
        """Sends the report on a part, the answer to which is known beforehand; None: the server is away.

        Raises:
            ServerError: the server is there, and refuses.
        """
        away = bool(self._waiting)
        try:
            directive = self._deliver(report, PART_TIMEOUT_S)
        except UnavailableError as error:
            if not away:
                log.warning("lrpilot: the server is away, training goes on as it was told: %s", error)
            return None
        if away:
            log.info("lrpilot: the server is back, and has all reports")
        return directive

    def send(self, report: pb.Report) -> pb.Directive:
        """Sends the report that ends a directive, and waits for the next one. Raises: ServerError."""
        return self._deliver(report, self._timeout_s)

    def _deliver(self, report: pb.Report, timeout_s: float) -> pb.Directive:
        self._waiting.append(report)
        while True:
            request = pb.AdvanceRequest(job_id=self._job_id, report=self._waiting[0])
            directive = self._transport.advance(request, timeout_s).directive
            self._waiting.popleft()
            if not self._waiting:
                return directive
