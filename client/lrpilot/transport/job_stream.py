"""A job that is followed until it ends, whatever becomes of the connection meanwhile."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable, Iterator

from lrpilot.errors import UnavailableError
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.heartbeat import SILENT_S

FIRST_S = 10.0
"""How long a new stream is waited for. A server sends the job at once."""
PAUSE_S = (1.0, 10.0)
"""The pause before a server that does not answer is asked again: at first, and at most; it doubles each time."""


class JobStream:
    """A job's changes. A stream that broke off, or that is silent though servers repeat themselves, is opened anew."""

    def __init__(
        self,
        transport: GrpcTransport,
        job_id: str,
        wait_s: float,
        say: Callable[[str], None],
        silent_s: float = SILENT_S,
    ) -> None:
        """Follows a job.

        Args:
            transport: the connection.
            job_id: the job's id.
            wait_s: how long a server that does not answer is waited for.
            say: is told, once, when the server does not answer any more, and when it does again.
            silent_s: a stream that is silent for so long is dead.
        """
        self._transport, self._job_id, self._wait_s, self._say = transport, job_id, wait_s, say
        self._silent_s = silent_s

    def changes(self) -> Iterator[pb.Job]:
        """The job now, whenever it changes, and now and then in between, until it ends.

        Raises:
            ServerError: the server refuses, or was away from the beginning.
            UnavailableError: it went away, and did not come back in time.
        """
        begun, away_since_s, pause_s = False, 0.0, PAUSE_S[0]
        while True:
            answered = False
            try:
                for job in self._stream():
                    if away_since_s:
                        self._say(f"server {self._transport.target}: answers again")
                    begun, answered, away_since_s, pause_s = True, True, 0.0, PAUSE_S[0]
                    yield job
                return
            except UnavailableError as error:
                if not begun:
                    raise
                self._transport.reconnect()
                if answered:
                    continue  # the connection had grown old: there is no outage yet
                if not away_since_s:
                    away_since_s = time.monotonic()
                    self._say(f"{error}; trying again for {self._wait_s:g} s")
                if time.monotonic() - away_since_s + pause_s > self._wait_s:
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, PAUSE_S[1])

    def _stream(self) -> Iterator[pb.Job]:
        """One stream from its beginning to its end. Raises: ServerError: also when it is silent for too long."""
        stream = self._transport.stub.WatchJob(pb.WatchJobRequest(job_id=self._job_id))
        patience_s = min(FIRST_S, self._silent_s)
        silent = threading.Event()

        def end() -> None:
            silent.set()
            stream.cancel()

        try:
            while True:
                timer = threading.Timer(patience_s, end)
                timer.daemon = True
                timer.start()
                try:
                    response = self._transport.call(functools.partial(next, stream, None))
                except UnavailableError as error:
                    if not silent.is_set():
                        raise
                    words = f"server: nothing came from {self._transport.target} for {patience_s:g} s"
                    raise UnavailableError(words, error.code) from error
                finally:
                    timer.cancel()
                if response is None:
                    return
                patience_s = self._silent_s
                yield response.job
        finally:
            stream.cancel()
