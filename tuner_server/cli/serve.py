"""`lrpilot serve`."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Annotated

import structlog
import typer

from tuner_server.cli.common import DbOption, default_db

GRACE_S = 10.0

app = typer.Typer()


@app.command(epilog="Example: `lrpilot serve --listen 0.0.0.0:50051 --db sqlite:////var/lib/lrpilot/jobs.db`")
def serve(
    listen: Annotated[
        str, typer.Option(envvar="LRPILOT_LISTEN", help="HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:50051",
    db: DbOption = "",
    grace_s: Annotated[
        float, typer.Option(envvar="LRPILOT_GRACE_S", min=0, help="Seconds that running calls get at the end.")
    ] = GRACE_S,
    exit_with_stdin: Annotated[
        bool, typer.Option("--exit-with-stdin", help="Stop when standard input closes, as its owner's death does.")
    ] = False,
) -> None:
    """Run a tuner server until SIGTERM."""
    # Only here: PyTorch takes a second or two to import, and the commands that ask a server don't need it.
    from tuner_server.serve import serve as run
    from tuner_server.storage import open_storage

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(),
        ],
    )
    with open_storage(db or default_db()) as storage:
        asyncio.run(run(storage, listen, grace_s, exit_with_stdin=exit_with_stdin))
