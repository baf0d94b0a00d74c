"""`lrpilot refine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from lrpilot.wire.limits import MAX_STEPS

from tuner_server.cli.common import ServerOption, full_schedule, saved_schedule, titled, writing
from tuner_server.cli.telling import tell_done
from tuner_server.core.laws.optimizer_kind import OptimizerKind

app = typer.Typer()


@app.command(epilog="Example: `lrpilot refine 3f2a -o schedule.json --plot refined.png`")
def refine(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB", help="A job's id, the beginning of it, its name, or `latest`; or a file that `export` wrote."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    plot: Annotated[
        Path | None, typer.Option("--plot", help="A picture of the norms and of both schedules: .png, .svg or .pdf.")
    ] = None,
    optimizer: Annotated[
        OptimizerKind | None,
        typer.Option(help="The kind of the optimizer, which says what norms count; by default what was recorded."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=MAX_STEPS, help="Steps of the refined schedule; by default as before.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Make the warm-up anew, too, as published; then tune the peak LR anew.")
    ] = False,
    server: ServerOption = None,
) -> None:
    """Write the schedule that the gradient norms of a job's committed steps ask for, with the same peak, as JSON."""
    from tuner_server.cli.what_if.refined_schedule import draw, peak_lr, refinement_of  # brings SciPy

    schedule = saved_schedule(job) or full_schedule(server, job)
    found = refinement_of(schedule, optimizer, whole=whole)
    refined = found.refined(steps)
    with writing(output):
        refined.save(output)
    if plot is not None:
        with writing(plot):
            draw(found, refined, titled(schedule), plot)
    files = f"{output} and {plot}" if plot else f"{output}"
    tell_done(
        f"{files}: {refined.n_steps} steps, peak LR {peak_lr(refined):.3g}, refined from the {found.kind.measure} of "
        f"{len(found.norms)} steps"
    )
