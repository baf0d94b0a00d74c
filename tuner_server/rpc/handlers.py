"""Handlers of RPCs, taken apart and put together by interceptors."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc.aio

from tuner_server.base.failures import FAILURES
from tuner_server.core.errors import TunerError
from tuner_server.rpc.status import code_of, details_of, message_of

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs alone
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
"""The rest of the interceptors; None: there is no such method, which gRPC answers with UNIMPLEMENTED."""
_OURS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
"""Statuses that say that something is wrong with us, and not with the call."""


def rebuilt(handler: Handler, behavior: Callable[..., Any]) -> Handler:
    """A handler of the same kind, for the same messages, that behaves otherwise."""
    if handler.request_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
    else:
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
    return make(behavior, handler.request_deserializer, handler.response_serializer)


async def streamed(responses: AsyncIterator[Any] | Awaitable[None]) -> AsyncGenerator[Any, None]:
    """What a behavior streams; nothing of one that writes by itself, as that of gRPC's health service, once it has."""
    if inspect.isawaitable(responses):
        await responses
        return
    assert isinstance(responses, AsyncGenerator)
    async with contextlib.aclosing(responses) as stream:
        async for response in stream:
            yield response


async def refuse(context: Context, error: TunerError) -> NoReturn:
    """Ends an RPC with the status of an error."""
    if code_of(error) in _OURS:
        FAILURES.because(error)
    error.bare()
    await context.abort(code_of(error), message_of(error), details_of(error))


def refusing(error: TunerError) -> Handler:
    """A handler that refuses, whatever the method is.

    It takes a stream, so that it refuses before a message was read: a stranger's message takes no memory.
    """

    async def handle(_requests: AsyncIterator[Any], context: Context) -> None:
        await refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(handle)
