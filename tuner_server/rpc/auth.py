"""Who calls, and whether they may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from lrpilot.v1 import tuner_pb2

from tuner_server.access.authenticator import FRESH_S, Authenticator
from tuner_server.access.principal import Principal, Scope
from tuner_server.core.errors import AccessDeniedError, TunerError, UnauthenticatedError
from tuner_server.rpc.caller import CALLER
from tuner_server.rpc.handlers import Context, Continuation, Handler, rebuilt, refuse, refusing

HEADER, SCHEME = "authorization", "bearer"
_SERVICE = tuner_pb2.DESCRIPTOR.services_by_name["TunerService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]

SCOPES: dict[str, Scope] = {
    f"/{_SERVICE}/{name}": scope
    for scope, names in {
        Scope.TRAIN: ("CreateJob", "Advance", "ResumeJob", "Beat", "LeaveJob"),
        Scope.READ: ("GetJob", "ListJobs", "GetSchedule", "WatchJob"),
        Scope.CANCEL: ("CancelJob",),
        Scope.PLAN: ("ChangePlan",),
        Scope.EDIT: ("DescribeJob",),
        Scope.DELETE: ("DeleteJob",),
    }.items()
    for name in names
}
"""What a token must allow for each RPC. One that is in none of these tables is nobody's to call."""
ANY_SCOPE = frozenset(f"/{_REFLECTION.full_name}/{method.name}" for method in _REFLECTION.methods)
"""RPCs that any token may call."""
OPEN = frozenset(f"/{_HEALTH.full_name}/{method.name}" for method in _HEALTH.methods)
"""RPCs that need no token: probes have none, and learn no more than that the server lives."""


class Authentication(grpc.aio.ServerInterceptor):
    """Lets calls through that show a token with the scope of their RPC, and sets `CALLER` for them."""

    def __init__(self, authenticator: Authenticator) -> None:
        """Asks `authenticator`, which others may ask too: its owner closes it."""
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, or one that refuses."""
        method = handler_call_details.method
        if method in OPEN:
            return await continuation(handler_call_details)
        try:
            token = _token(handler_call_details.invocation_metadata)
            principal = await self._authenticator.authenticate(token)
            CALLER.set(principal)  # each call is a task, which has a context of its own
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            _check_scope(principal, method)
        except TunerError as error:
            return refusing(error)
        return self._rechecked(handler, token) if handler.response_streaming else handler

    def _rechecked(self, handler: Handler, token: str) -> Handler:
        """A stream that ends when its token does."""
        # The stubs know only those of threads; ours are asynchronous generators.
        behavior: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            responses = behavior(request, context)
            following = asyncio.ensure_future(anext(responses, None))
            try:
                while True:
                    done, _ = await asyncio.wait({following}, timeout=FRESH_S)
                    try:
                        await self._authenticator.authenticate(token)
                    except TunerError as error:
                        await refuse(context, error)
                    if done:
                        response = following.result()
                        if response is None:
                            return
                        following = asyncio.ensure_future(anext(responses, None))
                        yield response
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await responses.aclose()

        return rebuilt(handler, stream)


def _token(metadata: Sequence[tuple[str, str | bytes]] | None) -> str:
    """The bearer token of a call (RFC 6750). Raises: UnauthenticatedError: there is none."""
    values = [value for key, value in metadata or () if key == HEADER]
    if not values:
        raise UnauthenticatedError("a token is needed: metadata `authorization: Bearer lrp_...`")
    scheme, _, token = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != SCHEME:
        raise UnauthenticatedError("the token is not valid")
    return token.strip()


def _check_scope(principal: Principal, method: str) -> None:
    """Raises: AccessDeniedError: the token does not allow this."""
    scope = SCOPES.get(method)
    if method in ANY_SCOPE or scope in principal.scopes:
        return
    needed = f"scope {scope}" if scope else "more than any token allows"
    raise AccessDeniedError(f"token {principal.token_id}: {method.rpartition('/')[2]} needs {needed}")
