"""Append-only files of JSON values, one a line, so that long work can stop and go on at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read(path: Path) -> Iterator[Any]:
    """The values of a file, which need not exist. A line that a crash cut short is left out."""
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def append(path: Path, value: Any) -> None:
    """Adds a value. Raises: ValueError: it has a number that is not finite, which JSON has no word for."""
    line = json.dumps(value, allow_nan=False).encode() + b"\n"
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a crash cut the last line short
                line = b"\n" + line
        file.write(line)
