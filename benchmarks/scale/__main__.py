"""What a search costs a run of 10 billion weights on 512 GPUs, or of yours.

    python -m benchmarks.scale --json scale.json --plots DIRECTORY
    python -m benchmarks.scale --json mine.json --weights 70e9 --ranks 1024 --shards 256 --steps 100000

Nothing is trained. Sizes and times follow from the numbers given (`benchmarks.scale.run`), probes and reports from the
policy itself, waits from a simulation of the messages between ranks. `--measure` runs the channel between up to 16
processes of this machine, and two jobs on a server with SQLite, to have something to hold all that against.
"""

from __future__ import annotations

import argparse
import dataclasses

from benchmarks.environment import environment
from benchmarks.outputs import add_outputs, write
from benchmarks.scale.database import stored
from benchmarks.scale.gloo import measure
from benchmarks.scale.report import as_json, as_markdown, make_report, save_plots
from benchmarks.scale.run import HugeRun

MEASURED_RANKS = (2, 4, 8, 16)
MEASURED_STEPS = (5_000, 50_000)


def _arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_outputs(parser)
    parser.add_argument("--no-bounds", action="store_true", help="the job has no LR bounds: a range test comes first")
    parser.add_argument("--no-validation", action="store_true", help="the run does not validate")
    parser.add_argument("--measure", action="store_true", help="measure on this machine, too; takes a minute or two")
    numbers = parser.add_argument_group("the run", "Each is a field of benchmarks.scale.run.HugeRun, which says more.")
    for field in dataclasses.fields(HugeRun):
        kind = int if isinstance(field.default, int) and field.type == "int" else float
        numbers.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help="default: %(default)s"
        )
    return parser, parser.parse_args()


def main() -> None:
    """Computes, and measures if that was asked for."""
    parser, arguments = _arguments()
    try:
        run = HugeRun(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(HugeRun)})
    except ValueError as error:
        parser.error(str(error))
    report = make_report(
        run,
        bounded=not arguments.no_bounds,
        validates=not arguments.no_validation,
        measured=measure(MEASURED_RANKS) if arguments.measure else (),
        stored=[stored(n) for n in MEASURED_STEPS] if arguments.measure else (),
    )
    figures = {"environment": environment("torch"), **as_json(report)}
    write(arguments, as_markdown(report), figures, lambda directory: save_plots(report, directory))


if __name__ == "__main__":
    main()
