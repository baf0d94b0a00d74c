"""`lrpilot serve`."""

from __future__ import annotations

from typing import Any

import typer

from tuner_server.access.exposure import check_exposure
from tuner_server.cli.administration.config import effective, with_settings
from tuner_server.ops.signals import ignore_hangup
from tuner_server.process.environment import check_environment
from tuner_server.process.reloading import SettingsSource

app = typer.Typer()


@app.command(epilog="Example: `lrpilot serve --listen 127.0.0.1:50051 --db sqlite:////var/lib/lrpilot/jobs.db`")
@with_settings
def serve(**flags: Any) -> None:
    """Run a tuner server until SIGTERM."""
    ignore_hangup()
    settings = effective(flags).settings
    check_environment(exits_with_stdin=settings.exit_with_stdin)
    for setting, address in (("listen", settings.listen), ("http", settings.http)):
        if address is not None:
            check_exposure(
                setting,
                address,
                tls=settings.tls_cert is not None,
                auth=settings.auth == "tokens",
                insecure=settings.insecure,
            )
    # Only here: a server's libraries, SciPy and SQLAlchemy among them, take a second to import. The commands that ask a
    # server don't need them, nor does a process that only looks after workers.
    source = SettingsSource(flags, settings)
    if settings.workers == 1:
        from tuner_server.process.serve import serve as serve_alone

        serve_alone(source)
    else:
        from tuner_server.process.supervisor import supervise

        supervise(source)
