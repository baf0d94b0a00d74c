"""A server of one's own, over gRPC all the same."""

from __future__ import annotations

from lrpilot.embedded import EmbeddedServer
from lrpilot.transport.grpc_transport import GrpcTransport


class EmbeddedTransport(GrpcTransport):
    """A connection to a server that starts with it, and ends with it."""

    def __init__(self, db: str | None = None) -> None:
        """Starts the server. Raises: ConfigError, UnavailableError: see `EmbeddedServer`."""
        self.server = EmbeddedServer(db)
        super().__init__(self.server.target)

    def close(self) -> None:
        """Closes the connection and stops the server."""
        super().close()
        self.server.close()
