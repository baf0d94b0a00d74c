"""`lrpilot`: the command line. Everything but `serve` and `db` talks to a server, over gRPC, as any client does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

__all__ = ["main"]

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


def main() -> NoReturn:
    """Runs the command line; where only the client is installed, says what to install, with exit code 2."""
    try:
        _loaded()()
    except KeyboardInterrupt:  # Ctrl-C in the second that the imports take, or at the very end
        sys.exit(INTERRUPTED)


def _loaded() -> Callable[[], NoReturn]:
    """The command line, imported."""
    try:
        from tuner_server.cli.app import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("lrpilot", "tuner_server"):
            raise
        print(f"lrpilot: the command needs the server's part ({error}): pip install 'lrpilot[server]'", file=sys.stderr)
        sys.exit(2)
    return run
