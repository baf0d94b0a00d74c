"""Text that every Python installation carries, as character indices.

`code` is a fixed list of standard-library modules, `prose` the language reference that `help()` shows.
Both change a little between Python versions: compare results of one interpreter only.
Characters outside printable ASCII and newline are dropped; index 0 is the newline, 1 to 95 are space to tilde.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor

VOCABULARY_SIZE = 96

# Large pure-Python modules that have been single files since long before Python 3.11.
_MODULES = (
    "argparse", "ast", "calendar", "codecs", "configparser", "dataclasses", "difflib", "doctest", "enum",
    "fractions", "ftplib", "functools", "inspect", "ipaddress", "mailbox", "optparse", "pdb", "pickle",
    "pickletools", "platform", "plistlib", "random", "shutil", "smtplib", "socket", "ssl", "statistics",
    "subprocess", "tarfile", "tempfile", "threading", "trace", "traceback", "turtle", "typing", "uuid",
)  # fmt: skip
_VALIDATION_SHARE = 10


@dataclass(frozen=True)
class Text:
    """A sequence of character indices (n,), of any integer type."""

    characters: Tensor

    def draw(self, n: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` random windows (n, length) and, shifted by one, what follows each character (n, length)."""
        start = torch.randint(len(self.characters) - length, (n, 1), generator=generator)
        windows = self.characters[start + torch.arange(length + 1)].long()
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def _encode(text: str) -> Tensor:
    raw = np.frombuffer(text.encode("ascii", "ignore"), dtype=np.uint8).astype(np.int64)
    kept = raw[(raw == 10) | ((raw >= 32) & (raw < 127))]
    return torch.from_numpy(np.where(kept == 10, 0, kept - 31))


def _split(documents: Iterable[str]) -> tuple[Text, Text]:
    """Training and validation text; the last tenth of each document is for validation."""
    train, validation = [], []
    for document in documents:
        characters = _encode(document)
        cut = len(characters) - len(characters) // _VALIDATION_SHARE
        train.append(characters[:cut])
        validation.append(characters[cut:])
    return Text(torch.cat(train)), Text(torch.cat(validation))


@cache
def code() -> tuple[Text, Text]:
    """Training and validation part of the standard library's source."""
    library = Path(sysconfig.get_path("stdlib"))
    return _split((library / f"{module}.py").read_text("utf-8") for module in sorted(_MODULES))


@cache
def prose() -> tuple[Text, Text]:
    """Training and validation part of the Python reference."""
    return _split(topics[key] for key in sorted(topics))
