"""The file of finished states: append-only JSON lines, so that building can stop and go on at any time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import json_lines
from benchmarks.regret.oracle import ConstantTrial, StateKey, StateTable


class TableFile:
    """Finished states in a JSON-lines file.

    States of outdated workload versions stay in the file under keys that nobody asks for any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[StateKey, StateTable]:
        """All states by key. A line that a crash cut short is left out, so that its state is built again."""
        return {table.key: table for table in map(_from_json, json_lines.read(self._path))}

    def append(self, table: StateTable) -> None:
        """Adds a state."""
        json_lines.append(self._path, asdict(table))


def _from_json(row: dict[str, Any]) -> StateTable:
    """Turns lists back into tuples, so that a loaded table equals the one that was stored."""
    constant = tuple(
        ConstantTrial(tuple(trial["losses"]), tuple(trial["probe_validations"]), trial["final"])
        for trial in row["constant"]
    )
    return StateTable(
        key=StateKey(**row["key"]),
        lr_in_use=row["lr_in_use"],
        first_loss=row["first_loss"],
        val_loss=row["val_loss"],
        lrs=tuple(row["lrs"]),
        constant=constant,
        decayed=tuple(row["decayed"]),
        probes=tuple(row["probes"]),
    )
