"""Where a benchmark's caches and results lie, and how they are written: the part that command lines share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`, `--markdown` and `--plots`, which `write` reads."""
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--markdown", type=Path, help="where the tables go, besides standard output")
    parser.add_argument("--plots", type=Path, help="directory for the plots")


def add_runs(parser: argparse.ArgumentParser, full: Sequence[Path], quick: Sequence[Path], quick_help: str) -> None:
    """Adds `--cache`, `--workers`, `--quick` and `--report-only`.

    Args:
        parser: of the command line.
        full: the caches without `--quick`; all but the first come with the source.
        quick: the caches with it.
        quick_help: what `--quick` leaves out.
    """
    parser.add_argument(
        "--cache",
        type=Path,
        action="append",
        help=f"JSON lines of finished runs; the first is extended, all are read, the first that has a run counts "
        f"(default: {full[0]} and the stored runs; {quick[0]} with --quick)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--quick", action="store_true", help=quick_help)
    parser.add_argument("--report-only", action="store_true", help="train nothing; report what there is")


def write(
    arguments: argparse.Namespace, text: str, figures: Mapping[str, Any], save_plots: Callable[[Path], None]
) -> None:
    """Prints the tables, and writes figures, tables and plots where `add_outputs` says.

    Args:
        arguments: of the command line.
        text: the tables.
        figures: JSON has them.
        save_plots: draws into a directory, which exists.
    """
    print(text, end="")
    _write(arguments.json, json.dumps(figures, indent=2, allow_nan=False) + "\n")
    if arguments.markdown:
        _write(arguments.markdown, text)
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        save_plots(arguments.plots)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
