"""Bytes of the Python sources that every installation carries, split by file into training and validation.

All modules of the standard library are read but those that are mostly tables or missing on some systems: `SKIPPED`.
They differ between versions of Python: compare results of one version only. `Sources.digest` says which bytes it was.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality.datasets.text import Text

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
"""Folders that are left out, wherever they are."""
MACHINES_OWN = ("_sysconfigdata", "sitecustomize", "usercustomize")
"""What files begin with that are made for one machine."""
VALIDATION_SHARE = 10
"""One file of so many is for validation; its name decides, so that other files don't matter."""


@dataclass(frozen=True)
class Sources:
    """The text of all files.

    Attributes:
        train: Bytes to train on.
        validation: Bytes of other files.
        n_files: How many there are, both kinds together.
        digest: SHA-256 of all names and contents in order, in hexadecimal.
    """

    train: Text
    validation: Text
    n_files: int
    digest: str

    @property
    def n_bytes(self) -> tuple[int, int]:
        """How many to train on, and how many for validation."""
        return len(self.train.characters), len(self.validation.characters)


def read(root: Path) -> Sources:
    """The sources below a folder. Raises: ValueError: there are too few for both parts."""
    digest = hashlib.sha256()
    seen: set[bytes] = set()
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    for name in sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py")):
        path = Path(name)
        if SKIPPED & set(path.parts) or path.name.startswith(MACHINES_OWN):
            continue
        content = (root / path).read_bytes()
        if not content or content in seen:
            continue
        seen.add(content)
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
        parts[_is_validation(name)].append(content)
    if not all(parts.values()):
        raise ValueError(f"sources: {root} has {len(seen)} files, too few to train on some and to validate on others")
    return Sources(_text(parts[False]), _text(parts[True]), len(seen), digest.hexdigest())


@cache
def standard_library() -> Sources:
    """The sources of this interpreter's standard library."""
    return read(Path(sysconfig.get_path("stdlib")))


def _is_validation(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % VALIDATION_SHARE == 0


def _text(contents: list[bytes]) -> Text:
    return Text(torch.from_numpy(np.frombuffer(b"".join(contents), dtype=np.uint8).copy()))
