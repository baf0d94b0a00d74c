"""Calls that are let go of as soon as they have ended."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from tuner_server.rpc.handlers import Context, Continuation, Handler, rebuilt, streamed


class ReleasedCalls(grpc.aio.ServerInterceptor):
    """Keeps the end of a call from keeping the call. It has to be the first interceptor, which sees the end last.

    gRPC's call has what `abort` raised, and that has the variables of all functions that it came through: the call
    again, the message, and what of it had arrived. Such a cycle waits for the garbage collector, which counts objects:
    some dozens of refused calls can hold hundreds of megabytes before it comes.
    """

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, which leaves nothing behind."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        # The stubs know only those of threads; ours are asynchronous.
        behavior: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def unary(request: Any, context: Context) -> Any:
            answer = behavior(request, context)
            del request, context
            try:
                return await answer
            except grpc.aio.AbortError as error:
                aborted = _bare(error)
            try:
                raise aborted
            finally:
                del answer, aborted

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            responses = streamed(behavior(request, context))
            del request, context
            try:
                async with contextlib.aclosing(responses):
                    async for response in responses:
                        yield response
                return
            except grpc.aio.AbortError as error:
                aborted = _bare(error)
            try:
                raise aborted
            finally:
                del responses, aborted

        return rebuilt(handler, stream if handler.response_streaming else unary)


def _bare(error: grpc.aio.AbortError) -> grpc.aio.AbortError:
    """What `abort` raised, without the functions that it came through."""
    error.__context__ = None
    return error.with_traceback(None)
