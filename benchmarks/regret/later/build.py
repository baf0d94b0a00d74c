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

WITH_ADAM = ("mlp", "finetune")
"""Workloads of which all but the last layer can be frozen: fused SGD takes no parameter whose momentum begins later."""
QUICKEST = (*WITH_ADAM, "inpainting", "convnet")
QUICK = (*QUICKEST, "gru", "chartransformer")
"""Workloads whose steps take about a millisecond."""
LONGER = ("finetune", "inpainting")
"""Workloads whose rests are measured at twice the length, too, on one seed."""
LONG_BEFORE = (Kind.LATE, Kind.BRIEF)
"""Kinds with a long run before the state: measured on the quickest workloads, and at one length."""
REST = 1000
N_SEEDS = 2


def plan(workloads: Iterable[str] = QUICK, rest: int = REST) -> list[Key]:
    """All states, seed by seed, so that an interrupted build has the first seed complete."""
    cases = [
        *((seed, rest, name, kind) for seed in range(N_SEEDS) for name in QUICK for kind in Kind),
        *((0, 2 * rest, name, kind) for name in LONGER for kind in Kind if kind not in LONG_BEFORE),
    ]
    names = list(workloads)
    return [
        Key(kind, name, WORKLOADS[name].version, seed, n)
        for seed, n, name, kind in cases
        if name in names and name in _measured(kind)
    ]


def _measured(kind: Kind) -> tuple[str, ...]:
    if kind is Kind.THAWED:
        return WITH_ADAM
    return QUICKEST if kind in LONG_BEFORE else QUICK


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
