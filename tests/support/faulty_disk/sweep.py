"""A process whose children do the workload, each with a fault at another operation; what each leaves is looked at.

    LD_PRELOAD=faulty_disk.so python -m tests.support.faulty_disk.sweep DATABASE [--every N]

It prints a line of JSON for the whole: operations, faults by kind and by function, and what was found wrong.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import structlog
import torch

from tests.support.faulty_disk import shim
from tests.support.faulty_disk.shim import Fault
from tests.support.faulty_disk.workload import Workload, content_of
from tuner_server.storage import Database, open_storage
from tuner_server.storage.schema import current_version

KILLS = {Fault.KILL, Fault.TORN_WRITE}
TIMEOUT_S = 60
BEFORE_PRUNING = 9
"""The steps that are done when jobs are deleted."""


@dataclasses.dataclass(slots=True)
class Sweep:
    """What came of all faults."""

    operations: int = 0
    """The operations of the workload without a fault, on files below its directory."""
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)


def in_child(act: Callable[[Callable[[str], None]], None]) -> tuple[int, list[str]]:
    """Does something in a child of its own: its exit status, and the lines that it has told."""
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(there)
        try:
            signal.alarm(TIMEOUT_S)
            act(functools.partial(_tell, here))
            os._exit(0)
        except BaseException:
            os.write(here, b"RAISED " + traceback.format_exc(limit=-4).replace("\n", " | ").encode() + b"\n")
            os._exit(1)
    os.close(here)
    with os.fdopen(there) as lines:
        told = lines.read().splitlines()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told


def _tell(pipe: int, line: str) -> None:
    os.write(pipe, line.encode() + b"\n")


class Sweeper:
    """The workload on copies of one database."""

    def __init__(self, original: Path) -> None:
        self._original = original
        self.found = Sweep()
        self._contents: list[str] = []
        """What is in the database after so many steps."""

    def measure(self) -> None:
        """Does the workload without a fault."""

        def act(tell: Callable[[str], None]) -> None:
            with self._directory() as directory:
                workload = Workload(Path(directory))
                tell(f"CONTENT {content_of(workload.file)}")
                shim.arm(Path(directory))
                assert workload.run(lambda _: None)
                tell(f"COUNT {shim.disarm()}")
            # Once more, for what is in the database after each step: looking is an operation, too.
            with self._directory() as directory:
                workload = Workload(Path(directory))
                assert workload.run(lambda _: tell(f"CONTENT {content_of(workload.file)}"))

        _, told = in_child(act)
        words = [line.split(" ", 1) for line in told]
        self._contents = [value for word, value in words if word == "CONTENT"]
        if any(word == "RAISED" for word, _ in words):
            raise RuntimeError("\n".join(told))
        self.found.operations = int(next(value for word, value in words if word == "COUNT"))

    def strike(self, at: int, fault: Fault) -> None:
        """Does the workload with a fault, looks at what is left, and lets it go on to its end."""
        with self._directory() as directory:
            root = Path(directory)
            status, told = in_child(lambda tell: self._work(root, at, fault, tell))
            self.found.faults[fault.name] += 1
            words = [line.split(" ", 1) for line in told]
            done = max([int(value) for word, value in words if word == "DONE"], default=0)
            whole = any(word == "END" for word, _ in words)
            where = f"{fault.name} at operation {at}, after step {done}"
            if any(word == "RAISED" for word, _ in words):
                self.found.wrong.append(f"{where}: {told[-1]}")
            elif fault in KILLS and status != -signal.SIGKILL and not whole:
                self.found.wrong.append(f"{where}: it ended by itself with status {status}")
            elif fault not in KILLS and fault is not Fault.FULL_FROM_HERE and not whole:
                self.found.wrong.append(f"{where}: a fault that passed was not passed over")
            _, told = in_child(lambda tell: self._look(root, done, fault, tell))
            self.found.wrong += [f"{where}: {line}" for line in told]

    def _work(self, directory: Path, at: int, fault: Fault, tell: Callable[[str], None]) -> None:
        workload = Workload(directory)
        shim.arm(directory, at, fault)
        if workload.run(lambda step: tell(f"DONE {step}")):
            tell("END whole")
        shim.disarm()

    def _look(self, directory: Path, done: int, fault: Fault, tell: Callable[[str], None]) -> None:
        """Tells what is wrong with what was left."""
        workload = Workload(directory, done)
        content = content_of(workload.file)
        # Deleting many jobs takes several transactions: what is left of it is done when it is asked for again.
        if content not in self._contents[done : done + 2] and done != BEFORE_PRUNING:
            tell(f"the database has neither what was acknowledged nor the next step: {self._step_of(content)}")
        database = Database(f"sqlite:///{workload.file}")
        current_version(database)
        database.close()
        if workload.copy.exists() and content_of(workload.copy) not in self._contents:
            tell("the backup is not what the database was")
        if not workload.copy.exists() and done >= workload.n_steps - 2:
            tell("the backup that was acknowledged is not there")
        open_storage(f"sqlite:///{workload.file}").close()
        if not workload.run(lambda _: None):
            tell("it can't go on")
        elif content_of(workload.file) != self._contents[-1]:
            tell("it comes to another end")
        kept = ("jobs.db", "jobs.db-lock", "jobs.db.before-restore-", "backup.db")
        left = [path.name for path in directory.iterdir() if not path.name.startswith(kept)]
        if left and fault not in KILLS:
            tell(f"files were left: {left}")

    def _step_of(self, content: str) -> str:
        return f"step {self._contents.index(content)}" if content in self._contents else "half of something"

    def _directory(self) -> tempfile.TemporaryDirectory[str]:
        memory = Path("/dev/shm")
        directory = tempfile.TemporaryDirectory(prefix="lrpilot-", dir=memory if memory.is_dir() else None)
        shutil.copy(self._original, Path(directory.name) / "jobs.db")
        return directory


def main() -> None:
    """Sweeps as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path)
    parser.add_argument("--every", type=int, default=1, help="strike at every so-manieth operation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    structlog.configure(processors=[_drop])
    sweeper = Sweeper(arguments.database)
    sweeper.measure()
    for i, at in enumerate(range(1, sweeper.found.operations + 1, arguments.every)):
        # One kind after the other where not all operations meet all kinds.
        kinds = list(Fault) if arguments.every == 1 else [list(Fault)[i % len(Fault)]]
        for fault in kinds:
            sweeper.strike(at, fault)
    found = sweeper.found
    print(json.dumps({"operations": found.operations, "faults": found.faults, "wrong": found.wrong}))


def _drop(*_: object) -> str:
    raise structlog.DropEvent


if __name__ == "__main__":
    main()
