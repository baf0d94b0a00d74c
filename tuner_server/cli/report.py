"""`lrpilot report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from lrpilot.schedule.output_file import output_file
from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.cli.common import JobArgument, ServerOption, readable, schedule_of, vitals_now, writing

app = typer.Typer()


@app.command(epilog="Example: `lrpilot report 3f2a -o report.html`")
def report(
    job: JobArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, .html.")],
    server: ServerOption = None,
) -> None:
    """Write all about a job into one HTML file, to be sent to somebody."""
    from tuner_server.history.from_wire import job_and_history
    from tuner_server.history.timeline import timeline
    from tuner_server.report.report_file import report_html  # brings SQLAlchemy

    with readable(server) as tuner:
        response = schedule_of(tuner, job, pb.SCHEDULE_VIEW_FULL)
    found, entries = job_and_history(response)
    text = report_html(found, timeline(entries, maximises=found.state.config.maximises), vitals_now(response.job))
    with writing(output), output_file(output) as file:
        file.write(text.encode())
