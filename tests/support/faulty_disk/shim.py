"""The library that lets one operation on files fail: compiled here, loaded before all others, and told what to do."""

from __future__ import annotations

import ctypes
import enum
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


class Fault(enum.IntEnum):
    """What the operation meets."""

    IO_ERROR = 1
    NO_SPACE = 2
    SHORT_WRITE = 3
    """Half of it is written, and whoever writes is told so; what is no write fails for lack of space."""
    KILL = 4
    """The process is killed before it."""
    TORN_WRITE = 5
    """The process is killed after half of a write, and after what is no write."""
    FULL_FROM_HERE = 6
    """No space for this operation or for any later one."""


def build(directory: Path) -> Path:
    """Compiles the library. Raises: RuntimeError: there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError(
            "no C compiler was found (cc, gcc, clang), which the tests of a failing disk need: install one"
        )
    library = directory / "faulty_disk.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", str(SOURCE), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    return library


def arm(directory: Path, at: int = 0, fault: Fault | None = None) -> None:
    """Counts operations below a directory from here on, and has the `at`-th one meet the fault; 0: none does."""
    _library().faulty_disk_arm(str(directory).encode(), at, 0 if fault is None else int(fault))


def disarm() -> int:
    """Ends that; how many operations there were."""
    library = _library()
    count = int(library.faulty_disk_count())
    library.faulty_disk_arm(b"", 0, 0)
    return count


def share() -> None:
    """Has children that are forked from here on tell this process alone which function met their fault."""
    _library().faulty_disk_share()


def struck() -> str:
    """The function that met the fault in the child that was armed last; empty: none did."""
    return bytes(_library().faulty_disk_struck()).decode()


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.faulty_disk_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
    library.faulty_disk_count.restype = ctypes.c_long
    library.faulty_disk_struck.restype = ctypes.c_char_p
    return library
