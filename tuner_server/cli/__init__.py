"""`lrpilot`: the command line. Everything but `serve` and `db` talks to a server, over gRPC, as any client does."""

from tuner_server.cli.app import main

__all__ = ["main"]
