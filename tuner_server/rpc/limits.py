"""Calls and messages on the RPC port, held to their project's share of the process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from lrpilot.v1 import tuner_pb2

from tuner_server.access.principal import Principal
from tuner_server.access.shares import MAX_CALLS, ProjectShare, Shares
from tuner_server.core.errors import InvalidInputError, TunerError
from tuner_server.rpc.auth import OPEN
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
ARRIVAL_S = 10.0
"""How long a message may be on its way once it has its turn: twice as long as a client waits for its answer."""
MAX_CONCURRENT_CALLS = 8 * MAX_CALLS
"""Calls of all projects together."""
LIMIT_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_REPORT_BYTES),
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_CALLS),
]
"""Options of the gRPC server."""
_LARGEST = {f"/{_SERVICE}/Advance": MAX_REPORT_BYTES}
_STRANGERS = ""
"""Stands in for the project of whoever calls without a token where none is needed."""


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
                    message = await _arrived(share, context, largest)
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
                        responses = behavior(_parsed(handler, await _arrived(share, context, largest)), context)
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


async def _arrived(share: ProjectShare, context: Context, largest: int) -> bytes:
    """The message of a call that has one. Raises: InvalidInputError: there is none, or too much of it.

    Not from the iterator of requests, which would keep it.
    """
    async with share.arriving:
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
