"""What one project may use of a server process at a time, so that memory is bounded whatever its clients send."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc.aio
from lrpilot.v1 import tuner_pb2

from tuner_server.access.bucket import Bucket
from tuner_server.access.principal import Principal
from tuner_server.core.errors import InvalidInputError, RateError, TunerError
from tuner_server.rpc.auth import OPEN
from tuner_server.rpc.caller import CALLER
from tuner_server.rpc.handlers import Context, Continuation, Handler, refuse, streamed

_SERVICE = tuner_pb2.DESCRIPTOR.services_by_name["TunerService"].full_name

MAX_REPORT_BYTES = 8 * 2**20
"""Of an Advance. A loss takes 4 bytes. Directives of committed steps are reported in 20 parts, which takes one of 40
million steps to here. A client that trained without its server tells it all at once: up to two million steps."""
MAX_REQUEST_BYTES = 64 * 2**10
"""Of any other request: the options of a policy are the largest of what they hold, and may take 16 KiB."""
MAX_ANSWER_BYTES = 64 * 2**20
"""The full history of a run of a million steps is some 10 MB."""
MAX_METADATA_BYTES = 16 * 2**10
"""Of a call's headers: a token is 60 bytes long, proxies and tracers add some hundreds."""
MAX_CALLS = 1024
"""Calls of a project at a time: as many jobs may report in the same instant."""
MAX_STREAMS = 256
"""... of them streams, which stay open: people who watch a job."""
MAX_ARRIVING = 16
"""... of them those whose message is still on its way, the others waiting for their turn: so many times
MAX_REPORT_BYTES may be half-received."""
ARRIVAL_S = 10.0
"""How long a message may be on its way once it has its turn: twice as long as a client waits for its answer."""
MAX_BYTES = 16 * 2**20
"""Of the requests of a project that are being worked on. In Python a report takes some ten times its bytes."""
MAX_CONCURRENT_CALLS = 8 * MAX_CALLS
"""Of all projects together."""
LIMIT_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_REPORT_BYTES),
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_CALLS),
]
"""Options of the gRPC server."""
BUSY_RETRY_S = 0.5
"""When to come again after too much at a time: most calls take milliseconds."""
_LARGEST = {f"/{_SERVICE}/Advance": MAX_REPORT_BYTES}
_STRANGERS = ""
"""Whoever calls without a token where none is needed, in place of a project."""


class Share:
    """What one project uses. Of one event loop."""

    def __init__(self) -> None:
        self.calls = self.streams = self.n_bytes = 0
        """In use now."""
        self._arriving = asyncio.Semaphore(MAX_ARRIVING)
        self._bucket: Bucket | None = None

    @contextlib.contextmanager
    def call(self, caller: Principal, now: float, *, streams: bool) -> Iterator[None]:
        """A call, from its first to its last moment. Raises: RateError: it is one too many."""
        if self.calls >= MAX_CALLS or (self.streams >= MAX_STREAMS and streams):
            what = f"{MAX_STREAMS} streams" if streams else f"{MAX_CALLS} calls"
            raise RateError(f"{what} of project {caller.project} are open", BUSY_RETRY_S)
        self._check_rate(caller, now)
        self.calls += 1
        self.streams += streams
        try:
            yield
        finally:
            self.calls -= 1
            self.streams -= streams

    async def arrived(self, context: Context, largest: int) -> bytes:
        """The message of a call that has one. Raises: InvalidInputError: there is none, or too much of it.

        Not from the iterator of requests, which would keep it.
        """
        async with self._arriving:
            try:
                async with asyncio.timeout(ARRIVAL_S):
                    message = await context.read()
            except TimeoutError:
                raise InvalidInputError.of("request", f"it did not arrive within {ARRIVAL_S:g} s") from None
        if message is grpc.aio.EOF:
            raise InvalidInputError.of("request", "missing")
        assert isinstance(message, bytes)
        if len(message) > largest:
            raise InvalidInputError.of("request", f"{len(message)} bytes; at most {largest}")
        return message

    @contextlib.contextmanager
    def memory(self, n_bytes: int) -> Iterator[None]:
        """A request that is being worked on. Raises: RateError: there is too much of them."""
        if self.n_bytes + n_bytes > MAX_BYTES:
            raise RateError(f"requests of {self.n_bytes} bytes are being worked on", BUSY_RETRY_S)
        self.n_bytes += n_bytes
        try:
            yield
        finally:
            self.n_bytes -= n_bytes

    def _check_rate(self, caller: Principal, now: float) -> None:
        rate = caller.max_calls_per_s
        if rate is None:
            self._bucket = None
            return
        if self._bucket is None or self._bucket.rate != rate:
            self._bucket = Bucket(rate, now)
        wait_s = self._bucket.take(now)
        if wait_s:
            raise RateError(f"project {caller.project} makes more than {rate:g} calls a second", wait_s)


class Shares:
    """Every project's share of this process: one for all ports, whose calls count alike. Of one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Measures rates with `clock`, in seconds."""
        self._clock = clock
        self._shares: dict[str, Share] = {}
        # Projects are made by operators, so there are few.

    @contextlib.contextmanager
    def call(self, caller: Principal, *, streams: bool) -> Iterator[Share]:
        """A call, from its first to its last moment. Raises: RateError: it is one too many."""
        share = self._shares.setdefault(caller.project, Share())
        with share.call(caller, self._clock(), streams=streams):
            yield share


class CallLimits(grpc.aio.ServerInterceptor):
    """Holds every project to its share of this process. Comes after `Authentication`."""

    def __init__(self, shares: Shares) -> None:
        """Counts in `shares`, where other ports may count too."""
        self._shares = shares

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, held to the share of whoever calls."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        caller = CALLER.get()
        if method in OPEN:
            caller = Principal(_STRANGERS, frozenset())
        largest = _LARGEST.get(method, MAX_REQUEST_BYTES)
        if handler.response_streaming:
            return self._stream(handler, caller, largest)
        return self._unary(handler, caller, largest)

    def _unary(self, handler: Handler, caller: Principal, largest: int) -> Handler:
        """Takes a stream of one message, because gRPC would read a single one before it asks us."""
        behavior: Any = handler.unary_unary  # there is no RPC that streams requests and has one answer

        async def call(_requests: AsyncIterator[bytes], context: Context) -> Any:
            try:
                with self._shares.call(caller, streams=False) as share:
                    message = await share.arrived(context, largest)
                    with share.memory(len(message)):
                        answer = behavior(_parsed(handler, message), context)
                        del message  # see `refuse`: what ends the call would keep it
                        return await answer
            except TunerError as error:
                refused = error
            return await refuse(context, refused)

        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _stream(self, handler: Handler, caller: Principal, largest: int) -> Handler:
        behavior: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def each(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
            async for message in requests:
                if len(message) > largest:
                    raise InvalidInputError.of("request", f"{len(message)} bytes; at most {largest}")
                yield _parsed(handler, message)

        async def call(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            try:
                with self._shares.call(caller, streams=True) as share:
                    if handler.request_streaming:
                        responses = behavior(each(requests), context)
                    else:
                        responses = behavior(_parsed(handler, await share.arrived(context, largest)), context)
                    async with contextlib.aclosing(streamed(responses)) as stream:
                        async for response in stream:
                            yield response
                    return
            except TunerError as error:
                refused = error
            await refuse(context, refused)

        return grpc.stream_stream_rpc_method_handler(call, None, handler.response_serializer)


def _parsed(handler: Handler, message: bytes) -> Any:
    """A message of the method's type. Raises: InvalidInputError: it is none."""
    assert handler.request_deserializer is not None
    try:
        return handler.request_deserializer(message)
    except Exception:  # what it raises is the implementation's own, and its words are not for strangers
        raise InvalidInputError.of("request", "not a message of this RPC") from None
