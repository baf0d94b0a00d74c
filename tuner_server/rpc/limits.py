"""Calls and messages on the RPC port, held to their project's share of the process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Hashable
from typing import Any

import grpc.aio
from lrpilot.v1 import tuner_pb2

from tuner_server.access.principal import Principal, Scope
from tuner_server.access.shares import LIMITS, Lane, ProjectShare, Shares
from tuner_server.core.errors import InvalidInputError, TunerError
from tuner_server.rpc.auth import OPEN, SCOPES
from tuner_server.rpc.caller import CALLER
from tuner_server.rpc.handlers import Context, Continuation, Handler, refuse, streamed

_SERVICE = tuner_pb2.DESCRIPTOR.services_by_name["TunerService"].full_name

MAX_REPORT_BYTES = 8 * 2**20
"""The size of an Advance. A loss takes 4 bytes. Committed steps are reported in 20 parts, so a directive of 40 million
steps comes to here; each measure that it asks for adds as much as its losses. A client that trained without its server
tells it all at once: up to two million steps."""
MAX_REQUEST_BYTES = 64 * 2**10
"""The size of any other request. A policy's options are the largest part of one, and may take 16 KiB."""
MAX_ANSWER_BYTES = 64 * 2**20
"""The size of an answer: the full history of a run of a million steps is some 10 MB."""
MAX_METADATA_BYTES = 16 * 2**10
"""The size of a call's headers: a token is 60 bytes long, proxies and tracers add some hundreds."""
MAX_UNREAD_BYTES = 2**16
"""What a call may send before its message is asked for: nearly every message is smaller. The rest of a larger one is
let in at once when it has its place."""
MAX_UNKNOWN_CALLS = 1024
"""Calls whose token is being looked up, beside those of all lanes."""
MAX_CONCURRENT_CALLS = sum(limits.all_calls for limits in LIMITS.values()) + MAX_UNKNOWN_CALLS
"""Calls that gRPC lets in. No lane is let down by it, since their own limits come to less."""
MAX_STREAMS = 128
"""Calls that one connection may have at a time; further ones wait in its client. gRPC expands the headers of a call
before it looks at their size, and a byte of compressed headers (HPACK) may be a hundred bytes in memory."""
LIMIT_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_REPORT_BYTES),
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.http2.lookahead_bytes", MAX_UNREAD_BYTES),
    # Otherwise it has callers send ahead as much as their line takes, which is megabytes for each call that waits.
    ("grpc.http2.bdp_probe", 0),
]
"""Options of the gRPC server."""
_LARGEST = {f"/{_SERVICE}/Advance": MAX_REPORT_BYTES}
_STRANGERS = ""
"""Stands in for the project of whoever calls without a token where none is needed."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    """A call as its limits see it."""

    handler: Handler
    caller: Principal
    lane: Lane
    largest: int
    """The size of its largest message."""

    def source(self, context: Context) -> Hashable:
        """What tells callers of a project apart: their tokens, or their connections where no token is shown."""
        return self.caller.token_id or context.peer()


class CallLimits(grpc.aio.ServerInterceptor):
    """Holds every project to its share of this process. It comes after `Authentication`."""

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
        caller, lane = CALLER.get(), Lane.TRAINING if SCOPES.get(method) is Scope.TRAIN else Lane.READING
        if method in OPEN:
            caller, lane = Principal(_STRANGERS, frozenset()), Lane.HEALTH
        call = _Call(handler, caller, lane, _LARGEST.get(method, MAX_REQUEST_BYTES))
        return self._stream(call) if handler.response_streaming else self._unary(call)

    def _unary(self, call: _Call) -> Handler:
        """Takes a stream of one message, because gRPC would read a single one before it asks us."""
        behavior: Any = call.handler.unary_unary  # there is no RPC that streams requests and has one answer

        async def answer(_requests: AsyncIterator[bytes], context: Context) -> Any:
            source, connection = call.source(context), context.peer()
            try:
                with self._shares.call(call.caller, call.lane, streams=False, source=source) as share:
                    async with share.arrivals(connection).place(source):
                        message = _only(await _read(context, call.largest))
                        work = await share.work(connection, len(message))
                    with work:
                        answered = behavior(_parsed(call.handler, message), context)
                        del message  # what was read of it is enough
                        return await answered
            except TunerError as error:
                refused = error
            return await refuse(context, refused)

        return grpc.stream_unary_rpc_method_handler(answer, None, call.handler.response_serializer)

    def _stream(self, call: _Call) -> Handler:
        handler = call.handler
        behavior: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def each(share: ProjectShare, context: Context, source: Hashable) -> AsyncIterator[Any]:
            while (message := await _arrived(share, context, source, call.largest)) is not None:
                yield _parsed(handler, message)

        async def answer(_requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            source = call.source(context)
            try:
                with self._shares.call(call.caller, call.lane, streams=True, source=source) as share:
                    if handler.request_streaming:
                        responses = behavior(each(share, context, source), context)
                    else:
                        message = _only(await _arrived(share, context, source, call.largest))
                        responses = behavior(_parsed(handler, message), context)
                    async with contextlib.aclosing(streamed(responses)) as stream:
                        async for response in stream:
                            yield response
                    return
            except TunerError as error:
                refused = error
            await refuse(context, refused)

        return grpc.stream_stream_rpc_method_handler(answer, None, handler.response_serializer)


def _parsed(handler: Handler, message: bytes) -> Any:
    """A message of the method's type. Raises: InvalidInputError: it is none."""
    assert handler.request_deserializer is not None
    try:
        return handler.request_deserializer(message)
    except Exception:  # what it raises is the implementation's own, and its words are not for strangers
        raise InvalidInputError.of("request", "not a message of this RPC") from None


def _only(message: bytes | None) -> bytes:
    """The message of a call that has one. Raises: InvalidInputError: there is none."""
    if message is None:
        raise InvalidInputError.of("request", "missing")
    return message


async def _arrived(share: ProjectShare, context: Context, source: Hashable, largest: int) -> bytes | None:
    """The next message of a stream; None: there is no more.

    Raises:
        InvalidInputError: it did not arrive in time, or is too large.
        RateError: it did not arrive in time for others that wait.
    """
    async with share.arrivals(context.peer()).place(source):
        return await _read(context, largest)


async def _read(context: Context, largest: int) -> bytes | None:
    """The next message of a call; None: there is no more.

    Not from the iterator of requests, which would keep it.

    Raises: InvalidInputError: it is too large.
    """
    message = await context.read()
    if message is grpc.aio.EOF:
        return None
    assert isinstance(message, bytes)
    if len(message) > largest:
        raise InvalidInputError.of("request", f"{len(message)} bytes; at most {largest}")
    return message
