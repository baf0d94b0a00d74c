"""Runs the demo from outside: a server process, a trainer process, and what they bring back."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lrpilot.transport.embedded_server import EmbeddedServer

from tuner_server.base.terminal import Terminal
from tuner_server.core.errors import InvalidInputError, TunerError
from tuner_server.demo import report
from tuner_server.demo.messages import Progress, Refused, Result, parser
from tuner_server.demo.progress import Display, display

STOP_TIMEOUT_S = 5.0


class DemoError(TunerError):
    """The trainer process failed."""


def run(out: Path, steps: int, seed: int) -> None:
    """Trains every contestant, shows the comparison, and leaves summary.json and the schedules found in `out`.

    Args:
        out: a directory, made if need be; files of an earlier demo are replaced.
        steps: optimizer steps of every run, search included.
        seed: the seed of weights, batches and search.

    Raises:
        InvalidInputError: the server refuses a job, such as one of too few steps, or `out` can't be written to.
        DemoError: the trainer process failed.
        UnavailableError: the server process did not start.
    """
    console = Terminal()
    started = time.monotonic()
    database = out / "demo.db"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for stale in out.glob("demo.db*"):
            stale.unlink()
    except OSError as error:
        raise InvalidInputError.of("out", f"{out}: {error.strerror}") from error
    log = out / "trainer.log"
    console.print(f"starting a tuner server on {database} and a trainer", soft_wrap=True)
    with (
        contextlib.closing(EmbeddedServer(f"sqlite:///{database.resolve()}")) as server,
        _trainer(server.target, out, steps, seed, log) as trainer,
        display(console, steps) as shown,
    ):
        results = _follow(trainer, shown)
        code = trainer.wait()
    if code != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise DemoError(f"demo: the trainer failed ({' '.join(lines[-1:]) or f'exit code {code}'}); see {log}")
    console.print(report.table(results, steps))
    summary = report.summary(results, steps, seed, time.monotonic() - started)
    (out / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    files = ["summary.json", *(name for result in results for name in result.artifacts)]
    console.print(f"written to {out}: {', '.join(files)}", soft_wrap=True)


@contextlib.contextmanager
def _trainer(server: str, out: Path, steps: int, seed: int, log: Path) -> Iterator[subprocess.Popen[str]]:
    """The trainer process; it is gone when the block ends, however that ends."""
    command = [sys.executable, "-m", "tuner_server.demo.trainer", "--server", server, "--out", str(out)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--steps", str(steps), "--seed", str(seed)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Ctrl-C comes to us alone, and we end it: else its last words would be a traceback.
            start_new_session=True,
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _follow(trainer: subprocess.Popen[str], shown: Display) -> list[Result]:
    """Shows what the trainer says until it has said all. Raises: InvalidInputError: the server refused a job."""
    assert trainer.stdout is not None
    results = []
    for line in trainer.stdout:
        match parser.validate_json(line):
            case Progress() as progress:
                shown.update(progress)
            case Result() as result:
                shown.finish(result.contestant)
                results.append(result)
            case Refused(message=message):
                raise InvalidInputError.of("demo", message)
    return results
