"""How close `budget` comes to the best of a sweep on a language model, beside what needs no LR.

    python -m benchmarks.language_model --json lm.json --plots DIRECTORY
    python -m benchmarks.language_model --quick --json lm-quick.json
    python -m benchmarks.language_model --tiny --json lm-tiny.json

The full size is for one GPU; `--quick` and `--tiny` are small models for a CPU. Trains what the cache lacks, then
reports on all of it, so that a benchmark that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.language_model.plots import save_plots
from benchmarks.language_model.report import as_json, as_markdown, make_report
from benchmarks.language_model.runs import best_device, planned, run_missing
from benchmarks.language_model.sizes import FULL, QUICK, TINY, Size
from benchmarks.outputs import add_outputs, add_runs, write
from benchmarks.quality.__main__ import load
from benchmarks.quality.results import ResultFile

CACHES = {size.name: Path(f"out/bench/language-model{suffix}.jsonl") for size, suffix in
          ((FULL, ""), (QUICK, "-quick"), (TINY, "-tiny"))}  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_outputs(parser)
    add_runs(parser, [CACHES[FULL.name]], [CACHES[QUICK.name]], f"{QUICK.name}, {QUICK.n_steps} steps")
    parser.add_argument("--tiny", action="store_true", help=f"{TINY.name}, {TINY.n_steps} steps: a look within minutes")
    parser.add_argument("--seeds", type=int, help=f"number of seeds (default: {FULL.n_seeds}; fewer in small sizes)")
    return parser.parse_args()


def _size(arguments: argparse.Namespace) -> Size:
    size = TINY if arguments.tiny else QUICK if arguments.quick else FULL
    return replace(size, n_seeds=arguments.seeds or size.n_seeds)


def main() -> None:
    """Runs what is missing, and reports."""
    arguments = _arguments()
    size, device = _size(arguments), best_device()
    keys = planned(size, device)
    caches = arguments.cache or [CACHES[size.name]]
    if not arguments.report_only:
        caches[0].parent.mkdir(parents=True, exist_ok=True)
        run_missing(keys, load(caches), ResultFile(caches[0]), arguments.workers)
    report = make_report(size, device, keys, load(caches))
    figures = {"environment": environment("torch", "prodigyopt", "schedulefree"), **as_json(report)}
    write(arguments, as_markdown(report), figures, lambda directory: save_plots(report, directory))


if __name__ == "__main__":
    main()
