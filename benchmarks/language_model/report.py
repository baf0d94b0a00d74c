"""What the finished runs come to: a row for each contestant, as text and as JSON.

Losses are in nats a byte. Runs of one seed have the same weights to begin with and the same batches, so that
contestants are compared by the differences within a seed: their mean, and its standard error over seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.language_model.contestants import REFERENCE
from benchmarks.language_model.sizes import Size
from benchmarks.language_model.sources import standard_library
from benchmarks.quality.cases import Case
from benchmarks.quality.measures import Choice, Standing, standings
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.results import RunKey
from benchmarks.quality.scores import scores
from benchmarks.quality.tables import NOTHING, count, table
from benchmarks.quality.training import Curve

NOTES = """\
`loss`: mean final validation loss, in nats a byte. `- best`: its mean difference from the best of the linear decays,
which hindsight chose for each seed, and the standard error over seeds. `- picked`: the same to the LR that was best on
the other seeds. `steps`: optimizer steps for one result, a search included; a sweep makes as many runs as it has LRs.
`ms a step`: wall time without validations, the median over runs; what is rolled back counts as steps, and what a tuner
does beside steps is in the time. `memory`: the most that a run held on its device; the CPU's was not measured."""


@dataclass(frozen=True)
class Report:
    """The runs of a size, as far as they are finished.

    Attributes:
        size: What was trained.
        device: Its name.
        keys: All planned runs.
        runs: Those that are finished.
        found: One for each contestant, and for each way to choose from the sweep; best first.
    """

    size: Size
    device: str
    keys: Sequence[RunKey]
    runs: Mapping[RunKey, Curve]
    found: Sequence[Standing]

    def losses(self, standing: Standing) -> list[float]:
        """Final validation losses, by seed."""
        return [outcome.curve.final_val_loss for outcome in standing.outcomes]

    def beyond(self, standing: Standing, choice: Choice) -> Ratios | None:
        """Perplexities over those of a run of the sweep: their logarithms are differences of losses."""
        reference = next((s for s in self.found if (s.contestant, s.choice) == (REFERENCE, choice)), None)
        base: Mapping[Case, float] = {} if reference is None else reference.scores
        return Ratios.between(standing.scores, base)

    def step_s(self, standing: Standing) -> float | None:
        """Seconds a step without validations, the median over a contestant's runs; None if all of them diverged."""
        curves = [
            self.runs[key] for key in self.runs if key.contestant == standing.contestant and not self.runs[key].diverged
        ]
        seconds = [(curve.wall_s - curve.validation_s) / self.size.n_steps for curve in curves]
        return statistics.median(seconds) if seconds else None

    def peak_bytes(self, standing: Standing) -> int | None:
        """The most memory that one of its runs held; None if it was not measured."""
        found = [outcome.curve.peak_bytes for outcome in standing.outcomes]
        return max((n for n in found if n is not None), default=None)


def make_report(size: Size, device: torch.device, keys: Sequence[RunKey], runs: Mapping[RunKey, Curve]) -> Report:
    """What is known of the planned runs."""
    own = {key: runs[key] for key in keys if key in runs}
    found = standings(keys, own, scores(own, {keys[0].workload: math.exp}))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Report(
        size, name, keys, own, sorted(found, key=lambda s: statistics.fmean(map(math.log, s.scores.values())))
    )


def _difference(ratios: Ratios | None) -> str:
    if ratios is None:
        return NOTHING
    error = ratios.standard_error
    return f"{math.log(ratios.mean):+.4f}" + ("" if error is None else f" ±{error:.4f}")


def _lrs(standing: Standing) -> str:
    lrs = sorted({outcome.lr for outcome in standing.outcomes if outcome.lr is not None})
    return NOTHING if not lrs else f"{lrs[0]:.2g}" if len(lrs) == 1 else f"{lrs[0]:.2g} to {lrs[-1]:.2g}"


def _row(report: Report, standing: Standing) -> list[str]:
    peak, step_s = report.peak_bytes(standing), report.step_s(standing)
    return [
        standing.name,
        f"{statistics.fmean(report.losses(standing)):.4f}",
        _difference(report.beyond(standing, Choice.BEST)),
        _difference(report.beyond(standing, Choice.PICKED)),
        _lrs(standing),
        count(standing.n_runs * report.size.n_steps),
        f"{standing.search_share:.1%}",
        NOTHING if step_s is None else f"{step_s * 1e3:.1f}",
        NOTHING if peak is None else f"{peak / 1e9:.2f} GB",
    ]


def as_markdown(report: Report) -> str:
    """The table, with what it rests on."""
    size, sources = report.size, standard_library()
    header = ["contestant", "loss", "- best", "- picked", "peak LR", "steps", "search", "ms a step", "memory"]
    train, validation = sources.n_bytes
    facts = (
        f"A GPT of {size.n_weights:,} weights on {report.device}; {size.n_steps:,} steps of {size.tokens:,} bytes, "
        f"{size.flops / 1e9:,.1f} GFLOP each; {size.n_seeds} seeds. Text: {sources.n_files} files, {train:,} bytes to "
        f"train on and {validation:,} for validation, SHA-256 {sources.digest[:16]}. "
        f"Finished runs: {len(report.runs)} of {len(report.keys)}."
    )
    rows = [_row(report, standing) for standing in report.found]
    return (
        "\n\n".join(["# Language model", facts, NOTES, table(header, rows) if rows else "No complete case yet."]) + "\n"
    )


def as_json(report: Report) -> dict[str, Any]:
    """Everything as JSON values; what is not finite, or not known, is null."""
    sources = standard_library()
    return {
        "size": {
            "name": report.size.name,
            "n_weights": report.size.n_weights,
            "n_steps": report.size.n_steps,
            "tokens_per_step": report.size.tokens,
            "flops_per_step": report.size.flops,
            "n_seeds": report.size.n_seeds,
            "lr_grid": report.size.lr_grid,
            "lr_range": report.size.lr_range,
        },
        "device": report.device,
        "sources": {"n_files": sources.n_files, "n_bytes": sources.n_bytes, "sha256": sources.digest},
        "n_planned": len(report.keys),
        "contestants": [_standing_json(report, standing) for standing in report.found],
        "runs": [_run_json(key, report.runs[key]) for key in report.keys if key in report.runs],
    }


def _standing_json(report: Report, standing: Standing) -> dict[str, Any]:
    return {
        "name": standing.name,
        "contestant": standing.contestant,
        "losses": [loss if math.isfinite(loss) else None for loss in report.losses(standing)],
        "lrs": [outcome.lr for outcome in standing.outcomes],
        "beyond_best": _difference_json(report.beyond(standing, Choice.BEST)),
        "beyond_picked": _difference_json(report.beyond(standing, Choice.PICKED)),
        "steps": standing.n_runs * report.size.n_steps,
        "search_share": standing.search_share,
        "step_s": report.step_s(standing),
        "peak_bytes": report.peak_bytes(standing),
    }


def _difference_json(ratios: Ratios | None) -> dict[str, Any] | None:
    if ratios is None or ratios.n_diverged:
        return None
    differences = [math.log(ratio) for ratio in ratios.by_case.values()]
    return {
        "mean": math.log(ratios.mean),
        "standard_error": ratios.standard_error,
        "by_seed": differences,
        "differs": ratios.differs,
    }


def _run_json(key: RunKey, curve: Curve) -> dict[str, Any]:
    return {
        "contestant": key.contestant,
        "lr": key.lr,
        "seed": key.seed,
        "final_val_loss": None if curve.diverged else curve.final_val_loss,
        "search_steps": curve.search_steps,
        "peak_lr": curve.peak_lr,
        "wall_s": curve.wall_s,
        "validation_s": curve.validation_s,
        "peak_bytes": curve.peak_bytes,
        "val_steps": curve.val_steps,
        "val_losses": curve.val_losses,
    }
