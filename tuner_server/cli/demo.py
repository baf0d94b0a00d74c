"""`lrpilot demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner_server.core.errors import InvalidInputError

app = typer.Typer()


@app.command(epilog="Example: `lrpilot demo --out out/demo`")
def demo(
    out: Annotated[Path, typer.Option(help="Where the results go.")] = Path("out/demo"),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of every run.")] = 4000,
    seeds: Annotated[int, typer.Option(min=1, max=8, help="How often everything is run, all at the same time.")] = 2,
    autolrs: Annotated[bool, typer.Option("--autolrs", help="With the published AutoLRS, too.")] = False,
) -> None:
    """Tune a small network on real images in one run, and compare with five whole runs at guessed LRs."""
    try:
        from tuner_server.demo import run
    except ModuleNotFoundError as error:
        raise InvalidInputError.of("demo", f"{error}; pip install 'lrpilot[demo]'") from error
    run(out, steps, seeds, with_autolrs=autolrs)
