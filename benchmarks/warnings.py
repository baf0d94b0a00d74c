"""Whether early warnings tell probes that diverge from sound ones, and what they save.

    python -m benchmarks.warnings --json warnings.json --plots DIRECTORY
    python -m benchmarks.warnings --json warnings.json --quick

On every workload searches of policy `budget` are run, with the range that the workload has and with one that lies ten
times higher, and with probes of several lengths. All that the warnings look at is measured, and no probe ends by it. So
of every probe it is known how it ended, and when each warning would have ended it: at the first look of the client
after the sign. What comes after the search is not run.

A probe is *sound* that ended below the loss that it began with, *lost* if it ended no lower, and *diverged* if its
losses did. A warning about a sound probe is a false alarm.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lrpilot.wire.early_warning import EarlyWarning
from matplotlib.figure import Figure

from benchmarks import json_lines
from benchmarks.outputs import add_outputs, write
from benchmarks.quality.__main__ import environment
from benchmarks.quality.tables import count, table
from benchmarks.quality.workloads import WORKLOADS
from benchmarks.recorded_probes import DIVERGED, LOST, SOUND, Probe, search
from tuner_server.core.stages.early_warning import EarlyWarningName, early_warnings

LEVELS: Mapping[str, tuple[float, ...]] = {
    "gradient_norm": (3.0, 10.0, 30.0, 100.0),
    "update_ratio": (0.1, 0.3, 1.0, 3.0),
    "output_logit": (1e3, 1e4, 1e5, 1e6),
    "gradient_over_eps": (1.0, 10.0, 100.0),
}
"""The levels that are looked at, by measure."""
CHOSEN_ON = 2
"""The default levels were chosen on so many seeds, the first ones; the others check them."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is run: the searches are all combinations."""

    workloads: tuple[str, ...]
    n_seeds: int
    range_factors: tuple[float, ...]
    probe_steps: tuple[int, ...]


FULL = Scale(tuple(WORKLOADS), 4, (1.0, 10.0), (20, 65, 200))
QUICK = Scale(("mlp", "inpainting", "dying"), 1, (10.0,), (20,))


@dataclasses.dataclass(frozen=True)
class Row:
    """What a warning at one level would have done.

    Attributes:
        warning: It.
        default: Whether that is the level that a policy's option gives it.
        n_probes: Probes that have its measure, by outcome.
        n_warned: Those that it would have ended, by outcome.
        saved: The part of the steps of probes that diverged which it would have saved.
        saved_lost: Likewise, of those that were lost.
        most_gained: The most that a sound probe gained which it would have ended, as a part of the best one's.
    """

    warning: EarlyWarning
    default: bool
    n_probes: Mapping[str, int]
    n_warned: Mapping[str, int]
    saved: float | None
    saved_lost: float | None
    most_gained: float | None


def rows(probes: Sequence[Probe]) -> list[Row]:
    """All warnings, at their default and at other levels."""
    found = []
    for default in early_warnings(list(EarlyWarningName)):
        known = [probe for probe in probes if default.measure in probe.measures]
        for level in LEVELS[default.measure] if known else ():
            found.append(_row(dataclasses.replace(default, level=level), known, default=level == default.level))
    return found


def _row(warning: EarlyWarning, probes: Sequence[Probe], *, default: bool) -> Row:
    ended = [(probe, probe.ended_by(warning)) for probe in probes]
    warned = [probe for probe, step in ended if step is not None]

    def saved(outcome: str) -> float | None:
        own = [(probe.n_run, step) for probe, step in ended if probe.outcome == outcome]
        run = sum(n_run for n_run, _ in own)
        return sum(n_run - step for n_run, step in own if step is not None) / run if run else None

    return Row(
        warning,
        default,
        _counts(probes),
        _counts(warned),
        saved(DIVERGED),
        saved(LOST),
        max((probe.gained for probe in warned if probe.outcome == SOUND), default=None),
    )


def _counts(probes: Iterable[Probe]) -> dict[str, int]:
    counts = dict.fromkeys((SOUND, LOST, DIVERGED), 0)
    for probe in probes:
        counts[probe.outcome] += 1
    return counts


def present_rule(probes: Sequence[Probe]) -> float | None:
    """The part of the steps of probes that diverged which the rule for losses has saved; None: none diverged."""
    own = [probe for probe in probes if probe.outcome == DIVERGED]
    planned = sum(probe.n_steps for probe in own)
    return 1 - sum(probe.n_run for probe in own) / planned if planned else None


def as_markdown(probes: Sequence[Probe]) -> str:
    """The tables of warnings."""
    first = [probe for probe in probes if probe.seed < CHOSEN_ON]
    others = [probe for probe in probes if probe.seed >= CHOSEN_ON]
    parts = ["Seeds on which the levels were chosen:", _table(first)]
    if others:
        parts += ["The other seeds:", _table(others)]
    rule = f"The rule for losses saved {_percent(present_rule(probes))} of the steps of probes that diverged."
    return "\n\n".join([*parts, rule]) + "\n"


def _table(probes: Sequence[Probe]) -> str:
    header = (
        "warning, level, sound, false alarms, their largest gain, lost, warned, steps saved, diverged, warned, "
        "steps saved"
    )
    lines = []
    for row in rows(probes):
        name = f"{row.warning.measure}, {row.warning.rule}" + (" (default)" if row.default else "")
        lines.append(
            (
                name,
                f"{row.warning.level:.3g}",
                count(row.n_probes[SOUND]),
                count(row.n_warned[SOUND]),
                _percent(row.most_gained),
                count(row.n_probes[LOST]),
                count(row.n_warned[LOST]),
                _percent(row.saved_lost),
                count(row.n_probes[DIVERGED]),
                count(row.n_warned[DIVERGED]),
                _percent(row.saved),
            )
        )
    return table(header.split(", "), lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def as_json(scale: Scale, probes: Sequence[Probe]) -> dict[str, Any]:
    """All figures, without the series."""
    return {
        "environment": environment(),
        "scale": dataclasses.asdict(scale),
        "present_rule_saved": present_rule(probes),
        "rows": [dataclasses.asdict(row) for row in rows(probes)],
        "probes": [
            {field: value for field, value in dataclasses.asdict(probe).items() if field != "measures"}
            | {"n_run": probe.n_run, "ended_by": _ended_by(probe)}
            for probe in probes
        ],
    }


def _ended_by(probe: Probe) -> dict[str, int | None]:
    """After how many steps each warning would have ended a probe, by measure."""
    known = (warning for warning in early_warnings(list(EarlyWarningName)) if warning.measure in probe.measures)
    return {warning.measure: probe.ended_by(warning) for warning in known}


def draw(probes: Sequence[Probe]) -> Figure:
    """For every warning, what part of sound, lost and diverged probes it would have ended, over its level."""
    found = rows(probes)
    names = list(dict.fromkeys(row.warning.measure for row in found))
    figure = Figure(figsize=(3.4 * max(len(names), 1), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False).flat, names, strict=False):
        own = [row for row in found if row.warning.measure == name]
        for outcome in (SOUND, LOST, DIVERGED):
            known = [row for row in own if row.n_probes[outcome]]
            shares = [100 * row.n_warned[outcome] / row.n_probes[outcome] for row in known]
            axes.plot([row.warning.level for row in known], shares, "o-", label=outcome)
        axes.axvline(next(row.warning.level for row in own if row.default), color="black", linewidth=0.8)
        axes.set(xscale="log", xlabel="level (line: default)", ylabel="% warned of", title=name, ylim=(-5, 105))
        axes.legend(frameon=False)
    return figure


def measure(scale: Scale, cache: Path) -> list[Probe]:
    """Runs the searches that the cache lacks; the probes of all."""
    torch.set_num_threads(1)
    known: dict[tuple[str, int, int, float, int], list[Probe]] = {}
    for row in json_lines.read(cache):
        known[tuple(row["key"])] = [Probe(**probe) for probe in row["probes"]]
    probes: list[Probe] = []
    for name in scale.workloads:
        for seed in range(scale.n_seeds):
            for factor in scale.range_factors:
                for n in scale.probe_steps:
                    key = (name, WORKLOADS[name].version, seed, factor, n)
                    if key not in known:
                        known[key] = search(name, seed, factor, n)
                        row = {"key": key, "probes": [dataclasses.asdict(probe) for probe in known[key]]}
                        json_lines.append(cache, row)
                    probes += known[key]
    return probes


def _save(probes: Sequence[Probe], directory: Path) -> None:
    draw(probes).savefig(directory / "warnings.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_outputs(parser)
    parser.add_argument("--cache", type=Path, help="JSON lines of finished searches, which is extended")
    parser.add_argument("--quick", action="store_true", help="few workloads, one seed, short probes")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    cache = arguments.cache or Path("out/bench") / ("warnings-quick.jsonl" if arguments.quick else "warnings.jsonl")
    cache.parent.mkdir(parents=True, exist_ok=True)
    probes = measure(scale, cache)
    write(arguments, as_markdown(probes), as_json(scale, probes), lambda directory: _save(probes, directory))


if __name__ == "__main__":
    main()
