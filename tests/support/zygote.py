"""A process that has imported all that a server needs, and forks one at a word.

The usual start of a server spends two or three seconds of a processor on imports, most of it on PyTorch: too much where
servers are killed by the hundred. What is started is the command line, as its users start it.

Run as a module it takes a line of JSON for each order, and answers each with a line: {"start": [log, argument, ...]}
with the process id, {"kill": id} when the process is gone. All that it started ends when its input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Zygote:
    """Starts and kills servers. Thread-safe."""

    def __init__(self) -> None:
        """Starts the process, which imports."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LRPILOT_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._lock = threading.Lock()

    def start(self, log: Path, *arguments: str) -> int:
        """Runs `lrpilot` with these arguments, its output appended to `log`. Its process id."""
        return int(self._order(start=[str(log), *arguments]))

    def kill(self, process_id: int) -> None:
        """SIGKILL; it is gone when this returns."""
        self._order(kill=process_id)

    def close(self) -> None:
        """Kills all that still runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, and said why
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _order(self, **order: Any) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the zygote died")
        return answer


def _run(log: str, arguments: list[str]) -> None:
    """Becomes a server."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["lrpilot", *arguments]
    from tuner_server.cli import main

    main()


def _obey() -> None:
    # All that `serve` would import.
    import tuner_server.cli
    import tuner_server.serve
    import tuner_server.storage.schema  # noqa: F401  # as the two above: to have it

    assert threading.active_count() == 1, "a fork has one thread, whatever the others were doing"
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "kill" in order:
            child = order["kill"]
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            children.remove(child)
        else:
            log, *arguments = order["start"]
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    _run(log, arguments)
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 1
                finally:
                    os._exit(code)
            children.add(child)
        print(child, flush=True)
    for child in children:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(child, signal.SIGKILL)
    os._exit(0)  # what was imported has nothing to clean up, and takes a second for it


if __name__ == "__main__":
    _obey()
