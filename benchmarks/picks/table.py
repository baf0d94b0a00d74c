"""The table of probes: what decayed probes of many lengths and peak LRs end at, from fresh weights.

A *state* is a workload with a seed, before its first step. From each, on the same batches and with an exact rollback
in between, there is a probe of every length and LR: policy `budget`'s, with its warm-up and a linear decay to zero.
No losses of single steps are kept.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from lrpilot.data.replay import BatchBuffer

from benchmarks import json_lines
from benchmarks.pool import run_in_workers
from benchmarks.quality.workloads import USUAL, WORKLOADS, Batch, Session, Workload
from benchmarks.regret.oracle import Rollback, decay
from tuner_server.core.stages.decayed_probe import HELD_OUT

LENGTHS = (6, 8, 10, 12, 16, 20, 25, 40, 65, 100, 150, 250)
"""Steps of a probe that move the weights."""
N_LRS, LRS_PER_DECADE = 13, 3
"""From one below the workload's grid to two above it."""
N_SEEDS = 4
TABLED = (*USUAL, "dying", "smallvalidation")
"""The workloads whose probes are in the stored table."""
_DIGITS = 6
"""Significant ones of a stored loss."""


@dataclass(frozen=True)
class State:
    """Fresh weights; `version` is the workload's."""

    workload: str
    version: int
    seed: int


@dataclass(frozen=True)
class ProbeKey:
    """What identifies a probe: its state, the steps that move the weights and the peak LR."""

    workload: str
    version: int
    seed: int
    n_steps: int
    lr: float

    @property
    def state(self) -> State:
        return State(self.workload, self.version, self.seed)


@dataclass(frozen=True)
class Probe:
    """How a probe went; losses are infinite if one of them, or of a step's, was not finite.

    Attributes:
        validation: The loss that the policy judges it by: over the workload's validation data, after the decay.
        held_out: Mean training loss of the `HELD_OUT` batches that come after the probe's, after the decay.
        first_loss: Training loss of the first batch before the first step, the same for all probes of a state.
        first_validation: Validation loss before the first step, likewise.
    """

    validation: float
    held_out: float
    first_loss: float
    first_validation: float


def lrs(workload: Workload) -> tuple[float, ...]:
    """The peak LRs of its probes, rising."""
    return tuple(workload.lr_grid[0] * 10 ** ((i - 1) / LRS_PER_DECADE) for i in range(N_LRS))


def plan(
    workloads: Iterable[str] = TABLED, n_seeds: int = N_SEEDS, lengths: Sequence[int] = LENGTHS
) -> dict[State, list[ProbeKey]]:
    """All probes by state, seed by seed, so that an interrupted build has the first ones complete."""
    states = [State(name, WORKLOADS[name].version, seed) for seed in range(n_seeds) for name in workloads]
    return {
        state: [ProbeKey(**asdict(state), n_steps=n, lr=lr) for n in lengths for lr in lrs(WORKLOADS[state.workload])]
        for state in states
    }


class TableFile:
    """Finished probes in a file of JSON lines: an array of key and losses each, in the order of their attributes.

    Losses have six significant digits; infinity is null. Probes of outdated workload versions stay in the file under
    keys that nobody asks for any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[ProbeKey, Probe]:
        """All probes by key. A line that a crash cut short is left out, so that its probe is done again."""
        return dict(map(_from_row, json_lines.read(self._path)))

    def append(self, key: ProbeKey, probe: Probe) -> None:
        """Adds a probe."""
        losses = (float(f"{x:.{_DIGITS}g}") if math.isfinite(x) else None for x in astuple(probe))
        json_lines.append(self._path, [*astuple(key), *losses])


def _from_row(row: Sequence[Any]) -> tuple[ProbeKey, Probe]:
    workload, version, seed, n_steps, lr, *losses = row
    probe = Probe(*(math.inf if loss is None else loss for loss in losses))
    return ProbeKey(workload, version, seed, n_steps, lr), probe


def build(keys: Collection[ProbeKey]) -> dict[ProbeKey, Probe]:
    """Trains probes of one state.

    Raises:
        ValueError: They are of several states, or there are none.
    """
    states = {key.state for key in keys}
    if len(states) != 1:
        raise ValueError(f"build: probes of one state are built at a time, got those of {len(states)}")
    (state,) = states
    session = WORKLOADS[state.workload].build(state.seed)
    torch.manual_seed(state.seed)
    batches = BatchBuffer(session.batches())
    rollback = Rollback(session, batches)
    first_validation = session.validate()
    probes = {}
    for key in keys:
        losses, validations = rollback.run(decay(key.lr, key.n_steps), (key.n_steps,))
        held_out = _mean_loss(session, [batches.draw() for _ in range(HELD_OUT)]) if validations else math.inf
        sound = math.isfinite(held_out)
        probes[key] = Probe(
            validations[0] if sound else math.inf, held_out if sound else math.inf, losses[0], first_validation
        )
    return probes


def _mean_loss(session: Session, batches: Sequence[Batch]) -> float:
    """Over training batches, in training mode and at LR zero."""
    with torch.no_grad():
        return math.fsum(float(session.loss(batch)) for batch in batches) / len(batches)


def complete(planned: Mapping[State, Sequence[ProbeKey]], file: TableFile, n_workers: int) -> dict[ProbeKey, Probe]:
    """All planned probes; those that the file lacks are trained first, and stored as soon as their state is done."""
    done = file.load()
    missing = {state: own for state, keys in planned.items() if (own := tuple(key for key in keys if key not in done))}
    if missing:
        describe = "{0[0].workload}, seed {0[0].seed}".format
        for _, probes in run_in_workers("probes", list(missing.values()), build, describe, n_workers):
            for key, probe in probes.items():
                file.append(key, probe)
        done = file.load()
    return {key: done[key] for keys in planned.values() for key in keys}
