"""Clients of another revision of the wire contract are refused, and told which side is to be upgraded."""

from __future__ import annotations

import grpc.aio
from lrpilot.wire.revision import REVISION, REVISION_KEY

from tuner_server.core.errors import PreconditionError
from tuner_server.rpc.handlers import Continuation, Handler, refusing

_OURS = str(REVISION)


class RevisionCheck(grpc.aio.ServerInterceptor):
    """Lets calls through that tell this server's revision, or none: tools that read the contract itself tell none."""

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, or one that refuses."""
        for key, value in handler_call_details.invocation_metadata or ():
            if key == REVISION_KEY and value != _OURS:
                return refusing(PreconditionError(_sentence(str(value))))
        return await continuation(handler_call_details)


def _sentence(told: str) -> str:
    ours = f"this server speaks revision {REVISION} of the contract"
    if len(told) > 9 or not (told.isascii() and told.isdecimal()):
        return f"{REVISION_KEY}: a number, as every client of LRPilot tells it; {ours}"
    side = "server" if int(told) > REVISION else "client"
    return f"{ours}, and the client revision {told}: upgrade the {side}, so that both are of one version of LRPilot"
