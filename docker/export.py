"""Writes the schedules of the demo's jobs, as the shared tuner has them, as a tar archive to standard output.

export.py NAME... takes the newest job of each name, and fails if it has not finished: a job that trained on without the
tuner, as every job does whose tuner is away, has no schedule to export. Beside each schedule goes a report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any


def main(names: list[str]) -> None:
    """Raises: SystemExit: a job is not there, or has not finished."""
    listing = subprocess.run(["lrpilot", "jobs", "--json"], check=True, stdout=subprocess.PIPE).stdout
    newest: dict[str, dict[str, Any]] = {}
    for job in json.loads(listing):  # the newest first
        newest.setdefault(job["config"]["name"], job)
    for name in names:
        state = newest[name]["state"] if name in newest else "not there"
        if state != "JOB_STATE_FINISHED":
            sys.exit(f"{name} must be a finished job of the shared tuner: it is {state}")
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            for command, ending in (("export", "json"), ("report", "html")):
                output = Path(directory, f"{name}.{ending}")
                subprocess.run(["lrpilot", command, newest[name]["id"], "-o", output], check=True, stdout=sys.stderr)
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
            archive.add(directory, arcname=".")


main(sys.argv[1:])
