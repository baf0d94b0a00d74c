"""Which states there are, and the file that they are stored in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import json_lines
from benchmarks.pool import run_in_workers
from benchmarks.quality.workloads import WORKLOADS
from benchmarks.regret.later.states import Key, Kind, Probe, State, build

QUICK = ("mlp", "convnet", "finetune", "inpainting", "gru", "chartransformer")
"""Workloads whose steps take about a millisecond."""
LONGER = ("finetune", "inpainting")
"""Workloads whose rests are measured at twice the length, too."""
REST = 1000
N_SEEDS = 2
_WITH_LAYERS = ("finetune", "mlp", "convnet", "inpainting")
"""Workloads whose model is a sequence of layers, so that all but the last can be frozen."""


def plan(workloads: Iterable[str] = QUICK, rest: int = REST) -> list[Key]:
    """All states, seed by seed, so that an interrupted build has the first seed complete."""
    names = list(workloads)
    return [
        Key(kind, name, WORKLOADS[name].version, seed, n)
        for seed in range(N_SEEDS)
        for n, measured in ((rest, QUICK), (2 * rest, LONGER))
        for name in measured
        for kind in Kind
        if name in names and _has(kind, name, longer=n > rest)
    ]


def _has(kind: Kind, workload: str, *, longer: bool) -> bool:
    """Some models have no layers to thaw; what has a long run before it is not lengthened further."""
    if kind is Kind.THAWED and workload not in _WITH_LAYERS:
        return False
    return not longer or kind not in (Kind.BRIEF, Kind.LATE)


def build_all(keys: Sequence[Key], path: Path, n_workers: int) -> None:
    """Builds `keys` in worker processes and stores each state as soon as it is there."""
    describe = "{0.workload}, {0.kind}".format
    for _, state in run_in_workers("states", keys, build, describe, n_workers):
        json_lines.append(path, asdict(state))


def load(path: Path) -> dict[Key, State]:
    """All stored states by key. A line that a crash cut short is left out, so that its state is built again."""
    return {state.key: state for state in map(_from_json, json_lines.read(path))}


def _from_json(row: dict[str, Any]) -> State:
    """Turns lists and names back into what they were, so that a loaded state equals the one that was stored."""
    key = _key(row.pop("key"))
    probes = {int(n): tuple(Probe(**probe) for probe in of_length) for n, of_length in row.pop("probes").items()}
    return State(key=key, lrs=tuple(row.pop("lrs")), ends=tuple(row.pop("ends")), probes=probes, **row)


def _key(row: dict[str, Any]) -> Key:
    return Key(**{**row, "kind": Kind(row["kind"])})
