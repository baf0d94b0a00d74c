"""`lrpilot dashboard`."""

from __future__ import annotations

import os
import webbrowser
from typing import Annotated

import typer

from tuner_server.base.address import Address, bound
from tuner_server.base.terminal import say
from tuner_server.cli.common import DbOption

HOST = "127.0.0.1"
PORT = 8265

app = typer.Typer()


@app.command(epilog="Example: `lrpilot dashboard`")
def dashboard(
    db: DbOption = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = PORT,
    browser: Annotated[bool, typer.Option(help="Whether to open it in a browser.")] = True,
) -> None:
    """Show your own jobs in a browser, until Ctrl-C: those of runs without a shared server, or of another database."""
    from tuner_server.process.reloading import SettingsSource
    from tuner_server.process.serve import serve
    from tuner_server.process.settings import load

    with bound("port", Address(HOST, port)) as free:
        address = f"{HOST}:{free.getsockname()[1]}"
    flags = {"listen": f"{HOST}:0", "http": address, "db": db or None, "log_level": "warning"}
    environment = {name: value for name, value in os.environ.items() if name == "LRPILOT_DB"}

    def shown(_where: str) -> None:
        url = f"http://{address}/"
        say(f"your jobs are at {url}; Ctrl-C ends it")
        if browser:
            webbrowser.open(url)

    serve(SettingsSource(flags, load(flags, environment).settings), shown)
