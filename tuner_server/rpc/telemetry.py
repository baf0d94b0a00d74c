"""Watches every call from its first to its last moment: its request id, log line, metrics and span."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from lrpilot.v1 import tuner_pb2

from tuner_server.rpc.caller import CALLER
from tuner_server.rpc.handlers import Context, Continuation, Handler, rebuilt, streamed

REQUEST_ID = "x-request-id"
"""Metadata: a client may send its own, and is told which it was."""
Metadata = Sequence[tuple[str, str | bytes]]
_VALID_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")
"""What clients may write into our logs."""
LONGEST_NAME = 64
"""Characters of the name of a method that go into the log."""
_SERVICE = tuner_pb2.DESCRIPTOR.services_by_name["TunerService"]
_FREQUENT = {f"/{_SERVICE.full_name}/Beat"}
"""Calls that every client makes once a minute, and that tell nobody anything as long as they go well."""
_METHODS = {
    f"/{method.containing_service.full_name}/{method.name}": method
    for file in (tuner_pb2, health_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""The RPCs that there are, by their full names."""
_STREAMS = frozenset(name for name, method in _METHODS.items() if method.server_streaming)
"""RPCs whose duration is their client's choice."""
UNKNOWN_METHOD = "unknown"
"""What metrics call a method that there is none of: whoever has no token may call it what he likes."""
_OURS = frozenset({"INTERNAL", "UNKNOWN", "UNAVAILABLE"})
"""Codes that say that something is wrong with the server."""

MAX_WHY = 200
"""Characters of a refusal that a call's line repeats."""

log = structlog.get_logger(__name__)


@dataclasses.dataclass(slots=True)
class Call:
    """A call that is being served."""

    method: str
    """The full name, as `/lrpilot.v1.TunerService/Advance`."""
    metadata: Metadata
    request_id: str
    start_s: float
    """The time of `time.perf_counter` at its start."""
    code: str = "OK"
    """The name of its status, right once it has ended."""
    why: str = ""
    """What its client was told, if it was not answered."""


class Meter(Protocol):
    """Counts calls."""

    def rpc_ended(self, method: str, code: str, seconds: float | None) -> None:
        """A call ended; `seconds` is None for a stream."""


class Tracer(Protocol):
    """Records spans of calls."""

    def call(self, call: Call) -> AbstractContextManager[None]:
        """A context that is open while a call is served."""


class Telemetry(grpc.aio.ServerInterceptor):
    """The first interceptor, so that it sees what the others refuse."""

    def __init__(self, meter: Meter | None = None, tracer: Tracer | None = None) -> None:
        """Logs calls, counts them with `meter`, and records spans of them with `tracer`."""
        self._meter, self._tracer = meter, tracer
        # Ids are no secrets: to ask the system for each would let others run first, at every call.
        self._random = random.Random()

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, watched."""
        metadata = handler_call_details.invocation_metadata or ()
        call = Call(handler_call_details.method, metadata, self._request_id(metadata), time.perf_counter())
        # Each call is a task, which has a context of its own.
        structlog.contextvars.bind_contextvars(
            request_id=call.request_id, rpc=call.method.rpartition("/")[2][:LONGEST_NAME]
        )
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        return self._stream(handler, call) if handler.response_streaming else self._unary(handler, call)

    def _request_id(self, metadata: Metadata) -> str:
        """The client's, if it sent one that can be used, or a new one."""
        for key, value in metadata:
            if key == REQUEST_ID and isinstance(value, str) and _VALID_ID.fullmatch(value):
                return value
        return f"{self._random.getrandbits(128):032x}"

    def _unary(self, handler: Handler, call: Call) -> Handler:
        behavior = cast(Callable[..., Awaitable[Any]], handler.stream_unary or handler.unary_unary)

        async def watched(request: Any, context: Context) -> Any:
            with self._watching(call, context) as seen:
                return await behavior(request, seen)

        return rebuilt(handler, watched)

    def _stream(self, handler: Handler, call: Call) -> Handler:
        behavior = cast(Callable[..., Any], handler.stream_stream or handler.unary_stream)

        async def watched(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._watching(call, context) as seen:
                async with contextlib.aclosing(streamed(behavior(request, seen))) as stream:
                    async for response in stream:
                        yield response

        return rebuilt(handler, watched)

    @contextlib.contextmanager
    def _watching(self, call: Call, context: Context) -> Iterator[Context]:
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        span = self._tracer.call(call) if self._tracer else contextlib.nullcontext()
        with span:
            try:
                yield cast(Context, _Watched(context, call))
            except grpc.aio.AbortError:
                raise  # `_Watched` has the code
            except Exception:
                call.code = "UNKNOWN"
                raise
            except BaseException:  # the client went away or its deadline passed, or we stop
                call.code = "CANCELLED"
                raise
            finally:
                self._ended(call)

    def _ended(self, call: Call) -> None:
        seconds = time.perf_counter() - call.start_s
        if self._meter:
            known = call.method in _METHODS
            name = call.method.removeprefix("/") if known else UNKNOWN_METHOD
            self._meter.rpc_ended(name, call.code, seconds if known and call.method not in _STREAMS else None)
        why = {}
        if call.code in _OURS:
            write = log.warning
            why = {"why": call.why[:MAX_WHY]} if call.why else {}
        else:
            ours = call.method.startswith(f"/{_SERVICE.full_name}/") and call.method not in _FREQUENT
            write = log.info if ours else log.debug
        caller = CALLER.get(None)  # none: no tokens are asked for, or this one is not known
        who = {"project": caller.project, "token_id": caller.token_id} if caller else {}
        write("call", code=call.code, seconds=round(seconds, 6), **why, **who)


class _Watched:
    """A call's context that tells which code the call was aborted with, and to the client which request id it had."""

    def __init__(self, context: Context, call: Call) -> None:
        self._context, self._call = context, call
        self._peer = ""

    def peer(self) -> str:
        """The other end of the connection. gRPC writes it anew whenever it is asked."""
        self._peer = self._peer or self._context.peer()
        return self._peer

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self._call.code, self._call.why = code.name, details
        await self._context.abort(code, details, (*trailing_metadata, (REQUEST_ID, self._call.request_id)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
