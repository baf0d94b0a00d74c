"""A process whose children do the workload, each with a fault at another operation; what each leaves is looked at.

    LD_PRELOAD=faulty_disk.so python -m tests.support.faulty_disk.sweep DATABASE [--every N] [--processes N]
        [--after N] [--most N]

The order of all strikes is drawn from one seed, so that `--after` and `--most` split a long sweep into parts that
together strike everywhere. It prints a line of JSON for the whole: operations, faults by kind and by function, and what
was found wrong. Most of the time is waiting, so that several processes strike at once; each says on standard error how
far it is.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from tests.support.faulty_disk import shim
from tests.support.faulty_disk.shim import Fault
from tests.support.faulty_disk.workload import Workload, content_of
from tuner_server.storage import Database, open_storage
from tuner_server.storage.schema import current_version, head_version

KILLS = {Fault.KILL, Fault.TORN_WRITE}
TIMEOUT_S = 60
SHOWN_EVERY = 25
"""Faults between two lines that tell how far it is."""
BEFORE_PRUNING = 9
"""The steps that are done when jobs are deleted."""


@dataclasses.dataclass(slots=True)
class Sweep:
    """What came of all faults."""

    operations: int = 0
    """The operations of the workload without a fault, on files below its directory."""
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    struck: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Faults by the function that met them. `none`: other threads made fewer operations that time."""
    wrong: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Sweep) -> None:
        """Takes in what another process found."""
        self.faults += other.faults
        self.struck += other.struck
        self.wrong += other.wrong

    def json(self) -> str:
        """The whole in one line."""
        return json.dumps({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


def in_child(act: Callable[[Callable[[str], None]], None]) -> tuple[int, list[str]]:
    """Does something in a child of its own: its exit status, and the lines that it has told."""
    return _ended(*_begun(act))


def _begun(act: Callable[[Callable[[str], None]], None]) -> tuple[int, int]:
    """Has a child do something: its id, and a pipe with what it tells."""
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(there)
        try:
            act(functools.partial(_tell, here))
            os._exit(0)
        except BaseException:
            os.write(here, b"RAISED " + traceback.format_exc(limit=-4).replace("\n", " | ").encode() + b"\n")
            os._exit(1)
    os.close(here)
    return child, there


def _ended(child: int, there: int) -> tuple[int, list[str]]:
    """Waits for a child: as `in_child`."""
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

    def strike_all(self, strikes: Sequence[tuple[int, Fault]], tell: Callable[[str], None]) -> None:
        """Strikes so one after the other, and tells what was found, as JSON."""
        shim.share()
        for n_done, (at, fault) in enumerate(strikes, start=1):
            n_wrong = len(self.found.wrong)
            self.strike(at, fault)
            for line in self.found.wrong[n_wrong:]:
                print(line, file=sys.stderr, flush=True)
            if n_done % SHOWN_EVERY == 0:
                print(f"{n_done} of {len(strikes)} faults: {dict(self.found.struck)}", file=sys.stderr, flush=True)
        tell(self.found.json())

    def strike(self, at: int, fault: Fault) -> None:
        """Does the workload with a fault, looks at what is left, and lets it go on to its end."""
        with self._directory() as directory:
            root = Path(directory)
            status, told = in_child(lambda tell: self._work(root, at, fault, tell))
            self.found.faults[fault.name] += 1
            self.found.struck[shim.struck() or "none"] += 1
            words = [line.split(" ", 1) for line in told]
            done = max([int(value) for word, value in words if word == "DONE"], default=0)
            whole = any(word == "END" for word, _ in words)
            where = f"{fault.name} at operation {at}, after step {done}"
            if any(word == "RAISED" for word, _ in words):
                self.found.wrong.append(f"{where}: {told[-1]}")
            elif fault in KILLS and status != -signal.SIGKILL and not whole:
                self.found.wrong.append(f"{where}: it ended by itself with status {status}")
            elif fault not in KILLS and fault is not Fault.FULL_FROM_HERE and not whole:
                self.found.wrong.append(f"{where}: a fault that passed was not passed over: {told}")
            _, told = in_child(lambda tell: self._look(root, done, fault, tell))
            self.found.wrong += [f"{where}: {line}" for line in told]

    def _work(self, directory: Path, at: int, fault: Fault, tell: Callable[[str], None]) -> None:
        signal.alarm(TIMEOUT_S)
        workload = Workload(directory)
        shim.arm(directory, at, fault)
        if workload.run(lambda step: tell(f"DONE {step}")):
            tell("END whole")
        for refusal in workload.refusals:
            tell(f"REFUSED {refusal}")
        shim.disarm()

    def _look(self, directory: Path, done: int, fault: Fault, tell: Callable[[str], None]) -> None:
        """Tells what is wrong with what was left."""
        signal.alarm(TIMEOUT_S)
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
            tell(f"it can't go on: {workload.refusals}")
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


def sweep(database: Path, every: int, processes: int, part: slice = slice(None)) -> Sweep:
    """Strikes at every so-manieth operation, in so many processes at once; `part`: which of these strikes."""
    sweeper = Sweeper(database)
    sweeper.measure()
    strikes = []
    for i, at in enumerate(range(1, sweeper.found.operations + 1, every)):
        # One kind after the other where not all operations meet all kinds.
        kinds = list(Fault) if every == 1 else [list(Fault)[i % len(Fault)]]
        strikes += [(at, fault) for fault in kinds]
    random.Random(0).shuffle(strikes)  # so that what was found is a fair part of the whole at any time
    strikes = strikes[part]
    children = [_begun(functools.partial(sweeper.strike_all, strikes[i::processes])) for i in range(processes)]
    for child in children:
        status, told = _ended(*child)
        if status != 0:
            raise RuntimeError("\n".join(told))
        found = json.loads(told[-1])
        faults, struck = collections.Counter(found["faults"]), collections.Counter(found["struck"])
        sweeper.found.add(Sweep(0, faults, struck, found["wrong"]))
    return sweeper.found


def main() -> None:
    """Sweeps as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path)
    parser.add_argument("--every", type=int, default=1, help="strike at every so-manieth operation")
    parser.add_argument("--processes", type=int, default=1, help="how many strike at once")
    parser.add_argument("--after", type=int, default=0, help="pass over so many of the strikes, done before")
    parser.add_argument("--most", type=int, help="end after so many strikes")
    arguments = parser.parse_args()

    structlog.configure(processors=[_drop])
    head_version()  # which reads all migrations, once for all children
    end = None if arguments.most is None else arguments.after + arguments.most
    part = slice(arguments.after, end)
    print(sweep(arguments.database, arguments.every, arguments.processes, part).json())


def _drop(*_: object) -> str:
    raise structlog.DropEvent


if __name__ == "__main__":
    main()
