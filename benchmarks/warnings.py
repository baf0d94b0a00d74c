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
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lrpilot import Tuner
from lrpilot.run.lease import Lease
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.early_warning import EarlyWarning
from lrpilot.wire.profile import Profile
from lrpilot.wire.profile_proto import profile_to_proto
from matplotlib.figure import Figure

from benchmarks import json_lines
from benchmarks.outputs import add_outputs, write
from benchmarks.quality.__main__ import environment
from benchmarks.quality.local import LocalTransport
from benchmarks.quality.tables import count, table
from benchmarks.quality.workloads import WORKLOADS, Session
from tuner_server.core.policies import POLICIES
from tuner_server.core.policies.budget import Budget
from tuner_server.core.stages.early_warning import EarlyWarningName, early_warnings
from tuner_server.core.stages.probe import ProbePlan

SOUND, LOST, DIVERGED = "sound", "lost", "diverged"
LONG_RUN = 200_000
"""Steps of the run that a search is for: as none is made after it, so many that probes of any length are affordable."""
LEVELS = (1 / 10, 1 / 3, 1.0, 3.0, 10.0)
"""Other levels of each rule that are looked at, as factors on the default; on what is above 1, where it is a factor."""
OUTPUT_LOGIT = "output_logit"


class Recorded(Budget):
    """The policy `budget`, whose probes measure all that warnings look at, and end by none."""

    name: ClassVar[str] = "budget, recorded"

    def check(self) -> None:
        """Refuses what `budget` refuses."""

    def _probes_of(self, n: int, *, apart: bool) -> ProbePlan:
        able = [
            warning for warning in early_warnings(list(EarlyWarningName)) if warning.measure in self.config.measures
        ]
        told = tuple(dataclasses.replace(warning, ends=False) for warning in able)
        return dataclasses.replace(super()._probes_of(n, apart=apart), warnings=told)


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is run: the searches are all combinations."""

    workloads: tuple[str, ...]
    n_seeds: int
    range_factors: tuple[float, ...]
    probe_steps: tuple[int, ...]


FULL = Scale(tuple(WORKLOADS), 2, (1.0, 10.0), (20, 65, 200))
QUICK = Scale(("mlp", "inpainting", "dying"), 1, (10.0,), (20,))


@dataclasses.dataclass(frozen=True)
class Probe:
    """One probe of a search.

    Attributes:
        workload: What is trained.
        version: The workload's.
        seed: The run's.
        range_factor: How much higher the range lies than the workload's.
        n_steps: Steps that it was to have.
        warmup: Those of its warm-up.
        lr: Its peak.
        outcome: SOUND, LOST or DIVERGED.
        gained: The part of what the best probe of its search gained that it gained, too; 0 where it diverged.
        measures: What was measured, one value a step, by name; None where a step has none.
    """

    workload: str
    version: int
    seed: int
    range_factor: float
    n_steps: int
    warmup: int
    lr: float
    outcome: str
    gained: float
    measures: Mapping[str, Sequence[float | None]]

    @property
    def n_run(self) -> int:
        """Steps that were run."""
        return max(map(len, self.measures.values()), default=0)

    def ended_by(self, warning: EarlyWarning) -> int | None:
        """After how many steps a warning would have ended it; None: it would not have, or no earlier than it ended."""
        values = [math.nan if value is None else value for value in self.measures.get(warning.measure, ())]
        step = warning.first(values, self.warmup, self.n_steps)
        if step is None:
            return None
        looked = self._lease.looked_after(step + 1)
        return looked if looked < self.n_run else None

    @property
    def _lease(self) -> Lease:
        profile = profile_to_proto(Profile.constant(self.lr, self.n_steps))
        return Lease(pb.Directive(phase=pb.PHASE_PROBE, n_steps=self.n_steps, profile=profile))


class Recorder(LocalTransport):
    """Keeps the probes of a job: each directive with its report."""

    def __init__(self, session: Session) -> None:
        """Measures the largest output of the session's model in its training steps, too."""
        super().__init__()
        self.probes: list[tuple[pb.Directive, pb.Report, list[float]]] = []
        self._directive = pb.Directive()
        self._outputs: list[float] = []
        session.model.register_forward_hook(self._see)

    def _see(self, module: torch.nn.Module, arguments: Any, output: Any) -> None:
        if module.training and isinstance(output, torch.Tensor):
            self._outputs.append(float(output.detach().abs().max()))

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        response = super().create_job(request, timeout_s)
        self._directive = response.directive
        return response

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self.probes.append((self._directive, request.report, self._outputs))
        self._outputs = []
        response = super().advance(request, timeout_s)
        self._directive = response.directive
        return response


def search(workload: str, seed: int, range_factor: float, probe_steps: int) -> list[Probe]:
    """The probes of one search."""
    session = WORKLOADS[workload].build(seed)
    torch.manual_seed(seed)
    transport = Recorder(session)
    low, high = WORKLOADS[workload].lr_range
    tuner = Tuner(
        session.model,
        session.optimizer,
        transport=transport,
        total_steps=LONG_RUN,
        lr_bounds=(low * range_factor, high * range_factor),
        policy=Recorded.name,
        policy_options={"probe_steps": probe_steps},
        validate=session.validate,
        seed=seed,
    )
    for batch in tuner.batches(session.batches()):
        if transport.state.lease.phase.committed:
            break
        loss = session.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        session.optimizer.step()
        session.optimizer.zero_grad()
        tuner.step(loss)
    start = transport.probes[0][1].validations[0].loss
    ends = [_end(report) for _, report, _ in transport.probes]
    best_gain = max(start - min(ends), 0.0)
    return [
        _probe(workload, seed, range_factor, told, start - end, best_gain)
        for told, end in zip(transport.probes, ends, strict=True)
    ]


def _end(report: pb.Report) -> float:
    """The validation after a probe; infinite where it diverged."""
    return report.validations[-1].loss if report.outcome == pb.OUTCOME_COMPLETED else math.inf


def _probe(
    workload: str,
    seed: int,
    range_factor: float,
    told: tuple[pb.Directive, pb.Report, list[float]],
    gain: float,
    best_gain: float,
) -> Probe:
    directive, report, outputs = told
    outcome = SOUND if gain > 0 else LOST if math.isfinite(gain) else DIVERGED
    measures: dict[str, Sequence[float]] = {measure.name: measure.values for measure in report.measures}
    if len(outputs) == len(report.losses):
        measures.setdefault(OUTPUT_LOGIT, outputs)
    return Probe(
        workload=workload,
        version=WORKLOADS[workload].version,
        seed=seed,
        range_factor=range_factor,
        n_steps=directive.n_steps,
        warmup=directive.profile.warmup,
        lr=directive.profile.start_lr,
        outcome=outcome,
        gained=max(gain / best_gain, 0.0) if best_gain > 0 and math.isfinite(gain) else 0.0,
        measures={name: [v if math.isfinite(v) else None for v in values] for name, values in measures.items()},
    )


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
        found += [_row(_leveled(default, factor), known, default=factor == 1.0) for factor in LEVELS if known]
    return found


def _leveled(warning: EarlyWarning, factor: float) -> EarlyWarning:
    """A warning at another level; of one that compares with a median, the rise above it counts, in its logarithm."""
    level = warning.level * factor if warning.rule != "rise" else warning.level ** (1 + math.log10(factor) / 2)
    return dataclasses.replace(warning, level=level)


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
    """The table of warnings."""
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
    rule = f"The rule for losses saved {_percent(present_rule(probes))} of the steps of probes that diverged."
    return f"{table(header.split(', '), lines)}\n\n{rule}\n"


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
    POLICIES[Recorded.name] = Recorded
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
